"""A step on a real full disk prints one sentence and leaves no partial files; with space, it writes
the same bytes.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from step_commands import step_commands, step_of
from workflow_runs import draw_stained_slide

from muse_pipeline.cli.main import VERBS, main
from muse_pipeline.core.errors import OutputError
from muse_pipeline.core.files import complete_file, write_json

MADE = {  # verb -> its outputs for a slide
    "tissue": ("tissue.npz", "tissue.png", "tissue.geojson", "colour.json"),
    "tile": ("image-500nm.zarr",),
    "detect": ("shards",),
    "stitch": ("nuclei.parquet", "artefacts.geojson"),
    "geojson": ("nuclei.geojson.gz", "nuclei.provenance.json"),
    "overlay": ("summary.json", "density.png", "overlays"),
    "report": ("../report.html", "../cohort.tsv"),
}
PAGE = 4096  # block size of tmpfs in bytes


@pytest.fixture(scope="session")
def steps(tmp_path_factory) -> dict[str, list[str]]:
    """Verb -> its command; all commands have been run on a slide."""
    folder = tmp_path_factory.mktemp("finished")
    draw_stained_slide(folder / "S.tif", size_px=640, n_nuclei=100)
    commands = step_commands(folder / "S.tif", folder / "results/S")
    sheet = folder / "sheet.json"
    write_json(sheet, [{"slide_id": "S", "path": str(folder / "S.tif")}])
    outputs = f"--output {folder}/results/report.html --table {folder}/results/cohort.tsv"
    commands.append(f"report {folder}/results --slides {sheet} {outputs}".split())
    for command in commands:
        assert main(command) == 0, command
    return {step_of(command): command for command in commands}


@pytest.fixture
def disk(mount, tmp_path, steps) -> Path:
    """A disk of 16 MB that contains only the results."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "size=16m")
    shutil.copytree(finished(steps), disk, dirs_exist_ok=True)
    return disk


def finished(steps) -> Path:
    return Path(steps["overlay"][2]).parent


def contents(folder: Path) -> dict[str, bytes]:
    """The content of every file except ledgers, which contain times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "ledger"
    }


def fill(disk: Path, n_free: int) -> Path:
    """Write a file that leaves ``n_free`` bytes free."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - n_free)
    return ballast


def take_away(disk: Path, step: str) -> int:
    """Remove a step's outputs, and return the number of bytes freed."""
    before = shutil.disk_usage(disk).free
    for path in (disk / "S" / name for name in MADE[step]):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return shutil.disk_usage(disk).free - before


@pytest.mark.parametrize("step", MADE)
def test_a_full_disk_is_one_sentence_and_costs_no_byte(muse, disk, steps, step):
    command = [word.replace(str(finished(steps)), str(disk)) for word in steps[step]]
    whole = contents(disk)
    needed = take_away(disk, step)
    before = contents(disk)
    for n_free in (0, needed // 4, needed // 2):
        ballast = fill(disk, n_free // PAGE * PAGE)
        status, _, printed = muse(*command)
        ballast.unlink()
        assert status == 2, n_free
        verb = step if step in VERBS else f"step {step}"
        assert printed.startswith(f"muse {verb}: {disk}/") and printed.count("\n") == 1
        assert "(No space left on device); make room there or for temporary files" in printed
        left = contents(disk)
        assert left.items() <= whole.items() and before.items() <= left.items()
        take_away(disk, step)
    muse.ok(*command)
    assert contents(disk) == whole


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(mount, tmp_path):
    """The error of torch mentions only an unexpected position in the file; ours must name the full
    disk.
    """
    checkpoints = pytest.importorskip("muse_pipeline.training.checkpoint")
    import torch

    mount(tmp_path, "size=1m")
    path = tmp_path / "checkpoint.pt"
    checkpoints.save_checkpoint(path, checkpoints.Checkpoint({"weight": torch.zeros(1000)}, {}, {}))
    before = contents(tmp_path)
    with pytest.raises(
        OutputError, match=rf"^{path}: cannot be written \(No space left .*\); make room"
    ):
        checkpoints.save_checkpoint(
            path, checkpoints.Checkpoint({"weight": torch.zeros(1_000_000)}, {}, {})
        )
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_a_full_disk_of_temporary_files_is_named(mount, tmp_path):
    """The test needs a new process, because Python chooses its folder for temporary files only
    once.
    """
    disk = tmp_path / "temporary"
    disk.mkdir()
    mount(disk, "size=64k")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            *f"muse_pipeline.cli.main demo-slide --area-mm2 0.1 {tmp_path}/demo".split(),
        ],
        env={**os.environ, "TMPDIR": str(disk)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr.count("\n")) == (2, 1), run.stderr
    assert "(No space left on device); make room there or for temporary files" in run.stderr
    assert contents(tmp_path) == {}


def test_an_exceeded_quota_is_named_and_other_failures_keep_their_words(tmp_path):
    """Only the message is tested, because the tests cannot set up a quota."""
    quota = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    words = r"quota exceeded\); make room"
    with pytest.raises(OutputError, match=words), complete_file(tmp_path / "a"):
        raise quota
    with pytest.raises(RuntimeError, match="a defect"), complete_file(tmp_path / "a"):
        raise RuntimeError("a defect")
