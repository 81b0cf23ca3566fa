"""How long cores are idle in each step of a run, on a machine that need not be idle.

    python benchmarks/idle_cores.py results --cores 2 -- muse run slide.svs -o results --threads 2

Samples the states of all threads of the run. A sample counts as its processor time over the number of cores that its
runnable threads can use, which is the time that it would take on an idle machine. What the cores could have done in
that time, and have not, is the most that steps can gain by running at the same time.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections import Counter, defaultdict
from pathlib import Path

import psutil

SECONDS = 0.004  # between samples
PER_LOOK = 25  # samples between looks at processes and ledgers


class Threads:
    """The threads of a process and of those that it starts."""

    def __init__(self, pid: int):
        self.process, self.pids = psutil.Process(pid), [pid]
        self._used: dict[Path, int] = {}

    def look(self) -> None:
        """Find the processes that there are now."""
        self.pids = [self.process.pid, *(child.pid for child in self.process.children(recursive=True))]

    def sample(self) -> tuple[int, float]:
        """Number of threads that run, could run or wait for a disk, and processor seconds since the last sample."""
        n_runnable, seconds = 0, 0.0
        for pid in self.pids:
            try:
                for task in Path(f"/proc/{pid}/task").iterdir():
                    n_runnable += (task / "stat").read_text().rpartition(")")[2].split()[0] in "RD"
                    used = int((task / "schedstat").read_text().split()[0])
                    seconds += (used - self._used.get(task, 0)) / 1e9
                    self._used[task] = used
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                continue
        return n_runnable, seconds


def current_step(output: Path) -> str:
    """The step whose ledger is empty, since it is written when the step ends; "between" steps, "start" before them."""
    ledgers = list(output.glob("*/ledger/*.json"))
    return next((ledger.stem for ledger in ledgers if not ledger.stat().st_size), "between" if ledgers else "start")


def main() -> None:
    """Run, sample, print a line per step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the run's results, which has none of an earlier run")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    run = subprocess.Popen(args.command)
    threads, step, number = Threads(run.pid), "start", 0
    busy: dict[str, float] = defaultdict(float)
    taken: dict[str, float] = defaultdict(float)
    runnable: dict[str, Counter[int]] = defaultdict(Counter)
    while run.poll() is None:
        time.sleep(SECONDS)
        if number % PER_LOOK == 0 and run.poll() is None:
            threads.look()
            step = current_step(args.output)
        number += 1
        n_runnable, seconds = threads.sample()
        n_used = min(max(n_runnable, 1), args.cores)
        busy[step] += seconds
        taken[step] += seconds / n_used
        runnable[step][n_used if n_runnable else 0] += 1
    for name in [*taken, "all"]:
        used, needed = (sum(each.values()) if name == "all" else each[name] for each in (busy, taken))
        counts = runnable[name] if name != "all" else sum(runnable.values(), Counter())
        shares = " ".join(f"{100 * counts[n] / counts.total():.0f}" for n in range(args.cores + 1))
        idle = args.cores * needed - used
        print(f"{name:24} processor {used:6.2f} s, takes {needed:6.2f} s, idle {idle:6.2f} core s; runnable % {shares}")


if __name__ == "__main__":
    main()
