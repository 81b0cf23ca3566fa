"""Checkpoints of region networks: their description, whichever method trained them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any

from muse_pipeline.core.config import Between, Count, Fraction, NotNegative
from muse_pipeline.core.types import ModelPrecision
from muse_pipeline.inference.card import MIN_AREA_MM2, REGIONS, ColourReference, NucleusClass
from muse_pipeline.models.region import FUSION, RegionNetwork
from muse_pipeline.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class RegionExport:
    """Settings with which a region model will be run.

    Attributes:
        input_px: side of a window.
        halo_px: border of a window whose map is left to its neighbours; 128 px is the context of three stages of a
            compact network.
        batch: windows per call.
        precision: "fp32", "fp16" or "int8".
        colour_share: strength of the stain normalisation at run time, 0 to 1.
        min_area_mm2: smaller areas and holes are given to the class around them.
    """

    input_px: Count = 1280
    halo_px: Annotated[int, Between(0)] = 128
    batch: Count = 1
    precision: ModelPrecision = "fp32"
    colour_share: Fraction = 1.0
    min_area_mm2: NotNegative = MIN_AREA_MM2


@dataclass(frozen=True)
class RegionModel:
    """Description of a region network in its checkpoint: ``meta["region"]``.

    Attributes:
        name: name of the model.
        mpp: um per pixel of its input.
        backbone: registered name.
        classes: the first is all tissue of no other class.
        licence: SPDX name of the weights' licence.
        training_data: data that it was trained on, with licences.
        fusion: weights of the side maps.
        metrics: measured figures by name.
        limits: uses that the model is not meant for, in words.
        export: settings with which it will be run.
    """

    name: str
    mpp: float
    backbone: str
    classes: tuple[NucleusClass, ...]
    licence: str
    training_data: str
    fusion: tuple[float, float, float] = FUSION
    metrics: dict[str, float] = field(default_factory=dict)
    limits: str = ""
    export: RegionExport = field(default_factory=RegionExport)


def region_checkpoint(
    network: RegionNetwork, model: RegionModel, colour: ColourReference, meta: dict[str, Any]
) -> Checkpoint:
    """A checkpoint that ``export.regions.load_region_model`` reads.

    Args:
        network: the trained network.
        model: its description.
        colour: reference that slides' stains are normalised to.
        meta: further entries; ``config`` has the settings of the training run.
    """
    described = {"kind": REGIONS, "colour": dataclasses.asdict(colour), "region": dataclasses.asdict(model)}
    return Checkpoint(network.backbone.state_dict(), network.sides.state_dict(), {**meta, **described})
