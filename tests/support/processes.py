"""Run a function in two processes that train together over gloo, as two GPUs would."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing import start_processes


def run_in_two(function: Callable[[int], Any], folder: Path) -> list[Any]:
    """The results of ``function(rank)``, by rank; it must be at module level and return tensors and
    plain values.
    """
    # A forked process need not import torch again, but it cannot use CUDA if its parent has.
    may_fork = sys.platform == "linux" and not torch.cuda.is_available()
    start_method = (
        "fork" if may_fork and os.environ.get("MUSE_START_METHOD") != "spawn" else "spawn"
    )
    start_processes(_run, (function, folder), nprocs=2, start_method=start_method)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _run(rank: int, function: Callable[[int], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    try:
        torch.save(function(rank), folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


class AllSum(torch.autograd.Function):
    """Sum over all processes, forward and backward."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return AllSum.forward(ctx, gradient)


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """A substitute for ``SyncBatchNorm`` in training mode and double precision, which PyTorch lacks
    for CPUs.
    """

    def forward(self, x: Tensor) -> Tensor:
        self.num_batches_tracked += 1
        sums = torch.stack([torch.ones_like(x), x, x.square()]).sum((1, 3, 4))
        n, total, squares = AllSum.apply(sums)
        mean = total / n
        variance = squares / n - mean.square()
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight / (variance + self.eps).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]


def run_sync_batch_norms_on_cpu(network: nn.Module) -> None:
    """Turn every ``SyncBatchNorm`` of a network into a ``CpuSyncBatchNorm``, with the same
    weights.
    """
    for module in network.modules():
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = CpuSyncBatchNorm
