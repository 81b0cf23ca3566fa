"""Stages that prepare files once, even in a run of several processes."""

from functools import partial
from pathlib import Path

import torch
from processes import run_in_two

from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.training.run import Options
from muse_pipeline.training.stages import MADE_FROM, PreparedStage


class Noted(PreparedStage):
    """Writes ``number`` to a file, and, at each call, appends it to the file ``writers`` next to the folder."""

    def __init__(self, folder, number: int):
        super().__init__(folder, "noted")
        self.number = number

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
