"""Stages that prepare files once, even in a run of several processes, and the lock on the folder of
a run.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from processes import run_in_two

from muse_pipeline.core.errors import OutputError
from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.training.recipe import MADE_FROM, PreparedStage, Recipe, Stage, train_run
from muse_pipeline.training.run import Options


@dataclass
class Noted(PreparedStage):
    """Writes ``number`` to a file, and, at each call, appends it to the file ``writers`` next to
    the folder.
    """

    folder: Path
    number: int
    name: str = "noted"

    def made_from(self):
        return {"number": self.number}

    def write(self, folder, log):
        with (self.folder.parent / "writers").open("a") as file:
            file.write(f"{self.number}\n")
        write_json(folder / "values.json", self.number)


def prepare(folder: Path, rank: int) -> torch.Tensor:
    numbers = 1, 1, 2
    results = (Noted(folder / "stage", number).run(Options(start_over=True)) for number in numbers)
    return torch.tensor([read_json(result / "values.json") for result in results])


def test_one_of_two_processes_writes_and_both_read(tmp_path):
    for found in run_in_two(partial(prepare, tmp_path), tmp_path):
        assert found.tolist() == [1, 1, 2]
    assert (tmp_path / "writers").read_text().split() == ["1", "2"]
    assert read_json(tmp_path / "stage" / MADE_FROM) == {"number": 2}


OTHER = """
import sys
from pathlib import Path
from muse_pipeline.cohort.lock import find_other_run, lock_results
print(find_other_run(Path(sys.argv[1])), flush=True)
with lock_results(Path(sys.argv[1]), "another training"):
    print("locked", flush=True)
    sys.stdin.read()
"""


def start_other(folder: Path) -> subprocess.Popen:
    """A process that prints which run has locked the folder, and then locks it."""
    command = [sys.executable, "-c", OTHER, str(folder)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@dataclass
class Watched(Stage):
    """Logs what another process finds about, and does to, the folder of the run."""

    folder: Path
    name: str
    result = property(lambda stage: stage.folder)

    def run(self, options):
        for text in start_other(self.folder).communicate():
            options.log(text)
        return self.folder


class WatchedRecipe(Recipe):
    """A run of one stage."""

    def stages(self, config, folder):
        return (Watched(folder, "watched"),)


def test_two_trainings_at_once_do_not_share_a_folder(tmp_path):
    lines = []
    train_run(WatchedRecipe(), None, tmp_path, Options(log=lines.append))
    found = f"{tmp_path}: a training (process {os.getpid()} on "
    assert lines[0].startswith(found)
    assert f"OutputError: {found}" in lines[1]

    with start_other(tmp_path) as other:
        assert [other.stdout.readline() for _ in range(2)] == ["None\n", "locked\n"]
        with pytest.raises(
            OutputError, match=rf"another training \(process {other.pid} on .* is writing results"
        ):
            train_run(WatchedRecipe(), None, tmp_path, Options())
        other.send_signal(signal.SIGKILL)
    assert train_run(WatchedRecipe(), None, tmp_path, Options()) == tmp_path


def train_nothing(folder: Path, rank: int) -> torch.Tensor:
    train_run(WatchedRecipe(), None, folder, Options())
    return torch.tensor(rank)


def test_the_processes_of_one_training_share_its_folder(tmp_path):
    assert run_in_two(partial(train_nothing, tmp_path), tmp_path) == [0, 1]
