"""Devices of a run: one processor, one GPU, or several processes that share every step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, distributed, nn

from muse_pipeline.core.config import OneOf
from muse_pipeline.core.errors import ProviderError
from muse_pipeline.core.text import count_noun, one_line

if TYPE_CHECKING:
    from lightning_fabric import Fabric

WAIT = timedelta(days=1)  # how long processes wait for the first process, which prepares files
Precision = Annotated[str, OneOf(("32-true", "bf16-mixed"))]


def open_fabric(accelerator: str, devices: int, precision: str, nodes: int = 1) -> Fabric:
    """Launch a Fabric of ``nodes`` x ``devices`` processes.

    Unless ``srun`` or ``torchrun`` has started all processes, the command starts itself again for
    each further device, even in a Slurm job with a single task. ``accelerator`` is one of
    ``core.types.ACCELERATORS``.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.strategies import DDPStrategy

    launcher, started = find_launcher()
    if nodes > 1 and not launcher:
        raise ProviderError(
            f"--nodes {nodes}: start the command on every node with `srun` or `torchrun`"
        )
    if launcher and started != nodes * devices:
        raise ProviderError(
            f"--nodes {nodes} --devices {devices} is {nodes * devices} process(es), but {launcher}"
            f" started {started}; make the two numbers equal"
        )
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=DDPStrategy(timeout=WAIT) if nodes * devices > 1 else "auto",
            precision=precision,
            # Without this, Lightning detects Slurm by a job's variables even if ``srun`` did not
            # start this process.
            plugins=[] if launcher else [LightningEnvironment()],
        )
    except (RuntimeError, ValueError) as error:  # Fabric's MisconfigurationException is not public
        raise ProviderError(
            f"{count_noun(devices, 'device')} of accelerator '{accelerator}' cannot be used here"
            f" ({one_line(error)}); see `muse doctor`, or choose --accelerator cpu"
        ) from error
    fabric.launch()
    return fabric


def find_launcher() -> tuple[str, int]:
    """The launcher of this process, and the number of processes that it started; "" and 1 for a
    single process.

    The tasks of a Slurm *job* do not count: its script, and the steps in which Snakemake runs a
    rule, are single processes.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun", int(os.environ["WORLD_SIZE"])
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    return ("srun", tasks) if tasks > 1 else ("", 1)


def is_first_process() -> bool:
    """True in the process that writes files, also before the processes of the run are connected."""
    if is_distributed():
        return distributed.get_rank() == 0
    return os.environ.get("LOCAL_RANK", "0") == "0"


def wait_for_processes() -> None:
    """Return once every process of the run has called this function."""
    if n_processes() > 1:
        try:
            distributed.barrier()
        except RuntimeError as error:
            raise ProviderError(
                "another process of this run has ended, and has printed the reason"
            ) from error


def share_batch_norms(network: nn.Module, processes: int, device: torch.device) -> nn.Module:
    """Make batch norms normalise by the statistics of all processes' batches, in place.

    This is done only on GPUs: PyTorch's ``SyncBatchNorm`` does not run on a CPU, where each process
    normalises by its own batch.
    """
    if processes > 1 and device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return network


def is_distributed() -> bool:
    """True if several processes of a run are connected."""
    return distributed.is_available() and distributed.is_initialized()


def all_sum(values: Tensor) -> Tensor:
    """The sum of ``values`` (...) over all processes; ``values`` itself if there is only one."""
    if not is_distributed():
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total


def n_processes() -> int:
    """The number of processes (int) that train together."""
    return distributed.get_world_size() if is_distributed() else 1


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes; missing gradients count as zero.

    Methods are not wrapped in DistributedDataParallel, which expects one optimiser and the same
    parameters in every backward pass.
    """
    if n_processes() == 1:
        return
    # A single tensor needs a single exchange between the processes.
    gradients = [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for parameter in parameters
    ]
    mean = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(mean)
    parts = (mean / n_processes()).split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the rows (N, ...) of all processes, in the order of the processes; N may differ
    between them.

    Every process then computes the loss of all rows. Gradients are multiplied by the number of
    processes, so that ``average_gradients`` gives the same result as a single process with all
    rows.
    """
    return rows if n_processes() == 1 else _Gathered.apply(rows)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = torch.zeros(n_processes(), dtype=torch.long, device=rows.device)
        counts[distributed.get_rank()] = len(rows)
        distributed.all_reduce(counts)
        ends = counts.cumsum(0).tolist()
        ctx.own = slice(ends[distributed.get_rank()] - len(rows), ends[distributed.get_rank()])
        # ``all_gather`` needs equal numbers of rows, so all rows, which are zero in all processes
        # but one, are summed.
        every = torch.zeros((ends[-1], *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
        every[ctx.own] = rows
        distributed.all_reduce(every)
        return every

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[ctx.own] * n_processes()


def broadcast_buffers(module: nn.Module) -> None:
    """Copy the buffers of the first process, such as statistics of batch norms, to every
    process.
    """
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    if n_processes() == 1 or not buffers:
        return
    first = torch.cat([buffer.reshape(-1) for buffer in buffers])
    distributed.broadcast(first, 0)
    for buffer, part in zip(
        buffers, first.split([buffer.numel() for buffer in buffers]), strict=True
    ):
        buffer.copy_(part.view_as(buffer))
