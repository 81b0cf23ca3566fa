"""Runs that lack disk space, write access, correct clocks or memory, or that are killed, and are
then repeated.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from pathlib import Path

import onnxruntime
import pytest
from undisturbed import SLIDE, assert_as_undisturbed
from workflow_runs import run_snakemake, snakemake_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DAY_S = 86_400


def logged(folder: Path, step: str) -> list[str]:
    """The lines in a step's log."""
    return (folder / "results" / SLIDE / f"logs/{step}.log").read_text("utf-8").splitlines()


def forget(folder: Path, *names: str) -> None:
    for name in names:
        (folder / "results" / SLIDE / name).unlink()


def test_read_only_then_full_then_large_enough(mount, untouched, undisturbed):
    disk = untouched / "results"
    disk.mkdir()
    mount(disk, "ro,size=200k")
    run = run_snakemake(untouched)
    assert run.returncode == 1
    assert "Read-only file system" in run.stdout and "Traceback" not in run.stdout
    mount(disk, "rw,size=200k")
    run = run_snakemake(untouched)
    assert run.returncode == 1 and "No space left on device" in run.stdout
    assert not list((untouched / "results" / SLIDE).glob("nuclei*"))
    mount(disk, "size=100m")
    run = run_snakemake(untouched)
    assert run.returncode == 0, run.stdout
    assert_as_undisturbed(untouched, undisturbed)


def test_wrong_clocks_cost_time_but_no_byte(finished, undisturbed):
    """The scanner's clock is two days fast, and the clock of the machine that found the tissue is a
    year slow.
    """
    results, slide = finished / "results" / SLIDE, undisturbed.folder / f"{SLIDE}.tif"
    before = slide.stat()
    forget(finished, "slide.json")
    try:
        for path, days in (
            (slide, 2),
            (results / "tissue.npz", -400),
            (results / "shards/1-of-2.parquet", -400),
        ):
            os.utime(path, (time.time() + days * DAY_S,) * 2)
        run = run_snakemake(finished)
        assert run.returncode == 0, run.stdout
        assert "Nothing to be done" in run_snakemake(finished).stdout
    finally:
        os.utime(slide, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert_as_undisturbed(finished, undisturbed)


def test_a_missing_provider_is_one_sentence_and_costs_nothing(finished, undisturbed):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this runtime has CUDA")
    run = run_snakemake(finished, "--config", "provider=cuda")
    assert run.returncode == 1
    assert "provider 'cuda' is not in this installation" in run.stdout
    assert_as_undisturbed(finished, undisturbed)


def test_out_of_memory_fails_and_with_more_the_bytes_are_the_same(finished, undisturbed):
    shutil.rmtree(finished / "results" / SLIDE / "shards")
    for limit in range(400 << 20, 1000 << 20, 50 << 20):  # until Snakemake can plan the run
        run = subprocess.run(
            snakemake_command(),
            cwd=finished,
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
            capture_output=True,
            text=True,
            check=False,
        )
        if "Job stats" in run.stderr:
            break
    assert run.returncode == 1, run.stderr
    assert not list((finished / "results" / SLIDE).glob("nuclei*"))
    again = run_snakemake(finished)
    assert again.returncode == 0, again.stdout
    assert_as_undisturbed(finished, undisturbed)
