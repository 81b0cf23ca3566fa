"""Data of a stage: labelled images, those held back for validation, and the colours of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.pictures import write_png
from muse_pipeline.core.text import count_noun
from muse_pipeline.data.region_windows import RegionWindows
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.labels.statistics import mean_stains
from muse_pipeline.labels.tissue import (
    TissueImage,
    TissueSource,
    read_tissue_images,
    require_all_classes,
    require_disjoint_patients,
)
from muse_pipeline.methods.mil.attention import tile_sources
from muse_pipeline.methods.mil.config import StageConfig
from muse_pipeline.methods.mil.validation import RegionScorer
from muse_pipeline.models.region import RegionNetwork
from muse_pipeline.tissue.stain import ROUNDED_TEXTBOOK
from muse_pipeline.training.run import RunFolder


@dataclass(frozen=True, eq=False)
class RegionData:
    """Images at the config's mpp.

    Attributes:
        config: settings of the stage.
        images: images to train on.
        held: images to validate on, of other patients; perhaps none.
        reference: colour that slides are normalised to.
    """

    config: StageConfig
    images: list[TissueImage]
    held: list[TissueImage]
    reference: ColourReference

    def make_windows(self, device: torch.device) -> RegionWindows:
        """Windows on ``device``."""
        config = self.config
        return RegionWindows(
            self.images,
            self._colours(self.images),
            np.array(self.reference.stains or ROUNDED_TEXTBOOK),
            n_classes=len(config.classes),
            mpp=config.mpp,
            window_px=config.window_px,
            batch=config.batch,
            augmentation=config.augmentation,
            seed=config.seed,
            device=device,
        )

    def make_scorer(self, network: RegionNetwork) -> RegionScorer:
        """Scorer of ``network`` on the validation images."""
        return RegionScorer(network, self.held, self._colours(self.held), self.config.window_px)

    def describe(self) -> str:
        """Images and patients of each class, and of either split."""
        lines = []
        for split, images in (("training", self.images), ("validation", self.held)):
            counts = Counter(image.label for image in images)
            named = [f"{counts[index]} {name}" for index, name in enumerate(self.config.class_names)]
            drawn = [f"{counts[-1]} with labelled pixels"] if counts[-1] else []
            patients = count_noun(len({image.patient for image in images}), "patient")
            lines += [f"{split}: {', '.join([*named, *drawn])}; {patients}"] if images else []
        return "\n".join(lines)

    def keep_pictures(self, run: RunFolder, most: int = 6) -> None:
        """Write images spread evenly over the run's, on which an export is checked."""
        chosen = np.unique(np.linspace(0, len(self.images) - 1, most).round().astype(int))
        with complete_file(run.pictures) as partial:
            partial.mkdir()
            for number, index in enumerate(chosen):
                write_png(partial / f"{number}.png", self.images[index].pixels[:1024, :1024])

    def _colours(self, images: Sequence[TissueImage]) -> np.ndarray:
        return np.stack([colour_of_fit(self.reference, image.stain) for image in images])


def all_sources(config: StageConfig) -> tuple[tuple[TissueSource, ...], tuple[TissueSource, ...]]:
    """Sources to train and to validate on, with the tiles that attention has chosen."""
    tiles, held_tiles = tile_sources(config.tiles, config.mpp) if config.tiles else ((), ())
    return (*config.sources, *tiles), (*config.validation, *held_tiles)


def read_region_data(config: StageConfig) -> RegionData:
    """Read every image that the config names.

    Raises:
        LabelError: a file is missing or broken, labels contradict each other, a class is missing, or a patient is in
            training and in validation.
        ConfigError: no stains could be fitted.
    """
    sources, validation = all_sources(config)
    images, held = (
        read_tissue_images(some, config.class_names, config.mpp, config.window_px) for some in (sources, validation)
    )
    require_all_classes(images, config.class_names, "training")
    if held:
        require_disjoint_patients(images, held)
        require_all_classes([one for one in held if one.label >= 0], config.class_names, "validation")
    if config.selection == "masks" and not any(one.mask is not None and one.label > 0 for one in held):
        raise LabelError("selection 'masks': no validation image of a class but the first has a mask; add some")
    return RegionData(config, images, held, mean_stains([one.stain for one in images], config.colour))
