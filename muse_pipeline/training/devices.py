"""Where a run computes: one processor, one GPU, or several processes that share every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muse_pipeline.errors import ProviderError
from muse_pipeline.wording import one_line

if TYPE_CHECKING:
    from lightning_fabric import Fabric

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
