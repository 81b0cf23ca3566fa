"""Damage specimens one by one, run the commands that read them, and judge how they end.

PYTHONPATH=support python -m hostile.trial 5000 --start 500      in tests/: try 5,000 mutations from
number 500
"""

from __future__ import annotations

import argparse
import json
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psutil

from hostile.specimens import Specimen, every_case, make_specimens

SECONDS, CLOCK_SECONDS = (
    30.0,
    900.0,
)  # limits for one command: processor time, and wall-clock time on a busy machine
MEMORY_BYTES = (
    12 << 30
)  # of address space, much of which ONNX Runtime and torch reserve but never use


@dataclass(frozen=True)
class Outcome:
    """How a command on a damaged file ended; ``defect`` is "" if it ended as it should."""

    specimen: str
    mutation: str
    number: int
    verb: str
    status: int | None
    defect: str


class Worker:
    """A process in which commands run; if it has died or was stopped, it is started again for the
    next command.
    """

    def __init__(self, folder: Path):
        self.folder, self.process = folder, None

    def run(self, arguments: list[str]) -> dict:
        """Run a command, and return the worker's answer, or an answer that states how the worker
        was lost.
        """
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "worker.py"), str(MEMORY_BYTES)],
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        self.process.stdin.write(json.dumps(arguments) + "\n")
        self.process.stdin.flush()
        readable = self._wait()
        line = self.process.stdout.readline() if readable else ""
        if line:
            return json.loads(line)
        lost = f"died (exit {self.process.wait()})" if readable else "hangs"
        self.stop()
        return {"status": None, "output": "", "traceback": lost}

    def _wait(self) -> bool:
        """Wait for an answer, and return True if there is one within the limits."""
        used, deadline = self._seconds(), time.monotonic() + CLOCK_SECONDS
        while time.monotonic() < deadline and self._seconds() - used < SECONDS:
            if select.select([self.process.stdout], [], [], 1.0)[0]:
                return True
        return False

    def _seconds(self) -> float:
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        """End the process."""
        if self.process:
            self.process.kill()
            self.process.communicate()
        self.process = None


def try_mutations(folder: Path, n: int, start: int = 0) -> Iterator[Outcome]:
    """Yield the outcomes of ``n`` mutations, numbered from ``start``; the number of a mutation is
    its seed.
    """
    source = make_specimens(folder / "specimens")
    worker = Worker(folder)
    try:
        for number, case in enumerate(islice(every_case(), start, start + n), start):
            yield try_one(source, folder / "trial", worker, *case, number)
    finally:
        worker.stop()


def try_one(
    source: Path,
    trial: Path,
    worker: Worker,
    specimen: Specimen,
    command: int,
    mutation: int,
    number: int,
):
    """Damage one file in a copy of the files that its command reads, run the command, and judge the
    outcome.
    """
    shutil.rmtree(trial, ignore_errors=True)
    here, out = trial / "here", trial / "out"
    out.mkdir(parents=True)
    for name in (specimen.file, *specimen.tree):
        _link(source / name, here / name)
    victim, rng = here / specimen.file, random.Random(number)
    spoil = specimen.mutations[mutation]
    content = spoil((source / specimen.file).read_bytes(), rng)
    victim.unlink()
    victim.write_bytes(content)
    arguments = [
        word.format(file=victim, here=here, out=out) for word in specimen.commands[command].split()
    ]

    def list_others() -> set[Path]:
        return {path for path in trial.parent.rglob("*") if out not in path.parents}

    before = list_others()
    answer, verb = worker.run(arguments), arguments[arguments[0] == "step"]
    # these verbs write to the results
    spared = here if verb in {"overlay", "report"} else None
    changed = sorted(str(path) for path in list_others() ^ before if spared not in path.parents)
    left = [path.name for path in out.rglob("*") if path.is_file()]
    defect = judge(verb, answer, left, changed)
    return Outcome(specimen.name, spoil.__name__, number, verb, answer["status"], defect)


def judge(verb: str, answer: dict, left: list[str], changed: list[str]) -> str:
    """Describe what is wrong with how a command ended; "" if nothing is."""
    output = answer["output"].strip()
    if answer["traceback"]:
        return answer["traceback"]
    if changed:
        return f"wrote outside its folder: {changed}"
    if [name for name in left if name.endswith(".partial")]:
        return f"left {left}"
    if answer["status"] == 0:
        return ""
    if answer["status"] != 2 or not output.startswith((f"muse {verb}: ", f"muse step {verb}: ")):
        return f"exit {answer['status']}, printed {output!r}"
    if (
        "\n" in output and " problems:" not in output.splitlines()[0]
    ):  # a sheet lists all its problems
        return f"more than a sentence: {output!r}"
    return f"failed and left {left}" if set(left) - {"l.json"} else ""


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or all files of a folder, to another path; existing files there are
    kept.
    """
    for path in [source, *source.rglob("*")] if source.is_dir() else [source]:
        location = target / path.relative_to(source)
        if path.is_file() and not location.exists():
            location.parent.mkdir(parents=True, exist_ok=True)
            location.hardlink_to(path)


def main() -> None:
    """Try the requested number of mutations and print their defects."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("n", type=int)
    parser.add_argument("--start", type=int, default=0)
    args = parser.parse_args()
    started, ends = time.monotonic(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        for outcome in try_mutations(Path(folder), args.n, args.start):
            ends["defect" if outcome.defect else "read" if outcome.status == 0 else "rejected"] += 1
            if outcome.defect:
                print(*vars(outcome).values(), flush=True)
    print(f"{ends.total()} mutations in {time.monotonic() - started:.0f} s: {dict(ends)}")
    sys.exit(bool(ends["defect"]))


if __name__ == "__main__":
    main()
