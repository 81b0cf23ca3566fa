"""Run the workflow as its users do: as a Snakemake process in a folder with a sheet and a
config.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import yaml
from forked_snakemake import become_snakemake
from slide_files import write_pyramid

from muse_pipeline.plan import SMALL_BYTES

SNAKEFILE = Path(__file__).parents[2] / "workflow/Snakefile"


def draw_stained_slide(path: Path, size_px: int = 1400, n_nuclei: int = 500, seed: int = 0) -> None:
    """Write a pyramid at 0.5 um/px: a disc of pink tissue on glass, with dark violet nuclei."""
    rng = np.random.default_rng(seed)
    image = np.full((size_px, size_px, 3), 244, np.uint8)
    middle, radius = size_px // 2, size_px * 0.42
    cv2.circle(image, (middle, middle), int(radius), (226, 170, 205), -1)
    angle = rng.uniform(0, 2 * np.pi, n_nuclei)
    reach = radius * 0.95 * np.sqrt(rng.uniform(size=n_nuclei))
    for xy in (middle + reach * [np.cos(angle), np.sin(angle)]).T.tolist():
        axes = tuple(2 * rng.uniform(6, 10, 2))
        cv2.ellipse(image, (xy, axes, rng.uniform(0, 180)), (92, 50, 130), -1)
    grain = rng.normal(0, 6, (*image.shape[:2], 1))
    image = np.clip(cv2.GaussianBlur(image, (0, 0), 1.2) + grain, 0, 255).astype(np.uint8)
    write_pyramid(path, image)


def draw_one_slide(folder: Path, size_px: int, n_nuclei: int) -> None:
    """Write ``a.tif``, and a sheet that has this slide alone."""
    draw_stained_slide(folder / "a.tif", size_px, n_nuclei)
    write_sheet(folder / "slides.tsv", [{"slide_id": "a", "path": "a.tif"}])


def enlarge(path: Path) -> None:
    """Append zeros to a slide's file, so that the slide is not run in a batch; readers ignore
    them.
    """
    with path.open("r+b") as file:
        file.truncate(SMALL_BYTES)


def write_sheet(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write a sheet whose columns are the keys of the first row."""
    lines = [list(rows[0]), *([str(row[column]) for column in rows[0]] for row in rows)]
    path.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")


def write_config(folder: Path, **settings: object) -> None:
    """Write the config of a cohort in ``folder``."""
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"slides": "slides.tsv", **settings}), encoding="utf-8"
    )


def snakemake_command(*arguments: str, cores: int | None = 2) -> list[str]:
    """The command that a user types in the cohort's folder, without ``--cores`` if ``cores`` is
    None.
    """
    program = f"{sys.executable} -m snakemake --snakefile {SNAKEFILE} --configfile config.yaml"
    program += "" if cores is None else f" --cores {cores}"
    return [*program.split(), *arguments]


@cache
def start_forkserver() -> BaseContext:
    """The context of processes that are forked from one that has imported `preloaded_snakemake`."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["preloaded_snakemake"])
    # A module that is not found would be skipped silently.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()
    return forks


def run_snakemake(
    folder: Path, *arguments: str, cores: int | None = 2
) -> subprocess.CompletedProcess[str]:
    """Run the workflow in ``folder``; in the result, stdout also contains stderr, in order.

    The process is forked from one that has already imported Snakemake, because importing takes
    longer than planning. With MUSE_START_METHOD=spawn, it is a new process instead.
    """
    command = snakemake_command(*arguments, cores=cores)
    environment = {name: value for name, value in os.environ.items() if name != "SNAKEMAKE_PROFILE"}
    if environment.get("MUSE_START_METHOD") == "spawn":
        merged = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.run(
            command, cwd=folder, env=environment, **merged, encoding="utf-8", check=False
        )
    with tempfile.NamedTemporaryFile() as output:
        words = command[3:], str(folder), environment, output.name
        process = start_forkserver().Process(target=become_snakemake, args=words)
        process.start()
        try:
            process.join()
        finally:
            process.kill()
        text = Path(output.name).read_text(encoding="utf-8")
    return subprocess.CompletedProcess(command, process.exitcode, text)


def planned_jobs(output: str) -> dict[str, int]:
    """Rule -> number of jobs, from the table that Snakemake prints before it starts."""
    table = re.search(r"^job +count\n[- ]+\n((?:\w+ +\d+\n)+)", output, re.MULTILINE)
    rows = [line.split() for line in table[1].splitlines()] if table else []
    return {rule: int(count) for rule, count in rows if rule != "total"}


def inputs_of(output: str, rule: str) -> list[str]:
    """Inputs of the only job of a rule, as a dry run with ``--printshellcmds`` lists them."""
    (found,) = re.findall(rf"^(?:local)?rule {rule}:\n    input: (.*)\n", output, re.MULTILINE)
    return found.split(", ")


def kill_when(reached: Callable[[], bool], folder: Path) -> None:
    """Start the workflow, and kill it and its jobs when ``reached`` returns True."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(snakemake_command(), cwd=folder, start_new_session=True, **quiet)
    while not reached() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def find_steps(workflow: subprocess.Popen) -> list[psutil.Process]:
    """The `muse` processes of a running workflow, in the order in which they started."""
    try:
        family = psutil.Process(workflow.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return sorted((each for each in family if verb(each)), key=lambda each: each.pid)


def verb(process: psutil.Process) -> str:
    """The `muse` verb that a process runs; "" if it runs none."""
    with suppress(psutil.Error, IndexError):
        words = process.cmdline()
        if "python" in words[0] and Path(words[1]).name == "muse":
            return words[3 if words[2] == "step" else 2]
    return ""
