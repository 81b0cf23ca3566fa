"""How a trained model will be run: what the card says beyond the training itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from muse_pipeline.core.config import require_between, require_one_of

PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class ExportSettings:
    """See ``inference.card.ModelCard``.

    Attributes:
        input_px: side of a window; when not given 1,024 px, or the training windows' for a network that ties positions
            to its window.
        halo_px: border of a window whose nuclei belong to its neighbours.
        batch: windows per call.
        capacity: slots for nuclei per window.
        threshold: score below which a slot stays empty.
        precision: "fp32", "fp16" or "int8".
        embedding: whether the graph also gives every nucleus its vector of the dense map.
        any_window: whether a network that ties positions to its window may leave for another than it was trained with.
        colour_share: share of the way that a slide's stains are taken to the reference at run time, 0 to 1.
    """

    input_px: int | None = None
    halo_px: int = 32
    batch: int = 1
    capacity: int = 8192
    threshold: float = 0.4
    precision: str = "fp32"
    embedding: bool = False
    any_window: bool = False
    colour_share: float = 1.0

    def __post_init__(self) -> None:
        require_one_of(self, "export", precision=PRECISIONS)
        require_between(self, "export", input_px=(1, math.inf), halo_px=(0, math.inf), batch=(1, math.inf))
        require_between(self, "export", capacity=(1, math.inf), threshold=(0, 1), colour_share=(0, 1))
