"""How a run computes and whom it tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Running:
    """What is decided where a run is started, not in its config.

    Attributes:
        accelerator: one of ``devices.ACCELERATORS``.
        threads: of each process on a CPU.
        devices: GPUs, or processes on a CPU, each with batches of its own; PSM, probes and comparisons use one.
        loaders: threads that read views ahead in pretraining; none: they are read when they are needed.
        start_over: train from the start where the folder holds a run of other settings, data or weights, in place of
            refusing.
        say: called with sentences about the run by its first process.
        progress: called with (steps done, losses) by the first process at every logged step.
    """

    accelerator: str = "auto"
    threads: int = 1
    devices: int = 1
    loaders: int = 0
    start_over: bool = False
    say: Callable[[str], None] = lambda sentence: None
    progress: Callable[[int, dict[str, float]], None] | None = None
