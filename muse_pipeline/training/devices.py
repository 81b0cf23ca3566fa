"""Where a run computes: one processor, one GPU, or several processes that share every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muse_pipeline.core.errors import ProviderError
from muse_pipeline.core.text import one_line

if TYPE_CHECKING:
    import torch
    from lightning_fabric import Fabric
    from torch import nn

ACCELERATORS = ("auto", "cpu", "cuda", "mps")


def open_fabric(accelerator: str, devices: int, precision: str) -> Fabric:
    """A launched Fabric; with more than one device this command starts itself again, once for each of the others.

    Args:
        accelerator: one of ``ACCELERATORS``.
        devices: GPUs, or processes on a CPU.
        precision: as Lightning Fabric names it.

    Raises:
        ProviderError: the devices are not there.
    """
    from lightning_fabric import Fabric

    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            precision=precision,
        )
    except (RuntimeError, ValueError) as error:  # Fabric's MisconfigurationException is no public name
        raise ProviderError(
            f"{devices} x accelerator '{accelerator}' cannot be used here ({one_line(error)}); see "
            "`muse doctor`, or choose --accelerator cpu"
        ) from error
    fabric.launch()
    return fabric


def share_batch_norms(network: nn.Module, n_processes: int, device: torch.device) -> nn.Module:
    """Convert batch norms so that they normalise by the batches of all processes.

    On GPUs only: PyTorch's ``SyncBatchNorm`` does not run on a CPU, where each process normalises by its own batch.

    Args:
        network: converted in place.
        n_processes: that train together.
        device: of this process.
    """
    from torch.nn import SyncBatchNorm

    if n_processes > 1 and device.type == "cuda":
        return SyncBatchNorm.convert_sync_batchnorm(network)
    return network
