"""The description of a region network in its checkpoint, which any method may write."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from muse_pipeline.core.config import Between, Count, Fraction, Mpp, NotNegative
from muse_pipeline.core.types import ModelPrecision
from muse_pipeline.inference.card import MIN_AREA_MM2, REGIONS, NucleusClass
from muse_pipeline.models.region import FUSION, RegionNetwork
from muse_pipeline.training.checkpoint import Checkpoint
from muse_pipeline.training.recipe import ModelSettings


@dataclass(frozen=True)
class RegionExport:
    """Settings of an exported region model.

    Attributes:
        input_px: side of a window.
        halo_px: width of a window's border, whose map is taken from neighbouring windows; three
            stages of a compact network see 128 px around a cell.
        batch: windows per call.
        precision: "fp32", "fp16" or "int8".
        colour_share: strength of the stain normalisation at run time, 0 to 1.
        min_area_mm2: minimum size of areas and holes; smaller ones get the class around them.
    """

    input_px: Count = 1280
    halo_px: Annotated[int, Between(0)] = 128
    batch: Count = 1
    precision: ModelPrecision = "fp32"
    colour_share: Fraction = 1.0
    min_area_mm2: NotNegative = MIN_AREA_MM2


@dataclass(frozen=True, kw_only=True)
class RegionModel(ModelSettings):
    """Description of a region network in its checkpoint (``meta["region"]``).

    Attributes:
        mpp: um per pixel of the network's input.
        backbone: registered name of the backbone.
        classes: classes, in order; the first is for all tissue that belongs to no other class.
        fusion: weights of the side maps.
        export: settings of the exported model.
    """

    backbone: str
    mpp: Mpp
    classes: tuple[NucleusClass, ...]
    fusion: tuple[float, float, float] = FUSION
    export: RegionExport = RegionExport()


def region_checkpoint(
    network: RegionNetwork, model: RegionModel, meta: dict[str, Any]
) -> Checkpoint:
    """Return a checkpoint that ``export.region_models.load_region_model`` can read, with further
    entries ``meta``, such as those of ``run.describe_backbone``.
    """
    described = {"kind": REGIONS, "region": dataclasses.asdict(model)}
    return Checkpoint(
        network.backbone.state_dict(), network.sides.state_dict(), {**meta, **described}
    )
