"""A function in two processes that train together over gloo, as two GPUs would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing import spawn


def run_in_two(function: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``function(rank)``, of a module's top level, gives in either process: tensors and plain values."""
    spawn(_run, (function, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _run(rank: int, function: Callable[[int], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        torch.save(function(rank), folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()
