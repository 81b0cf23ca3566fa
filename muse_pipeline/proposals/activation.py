"""Nuclei from the pseudo-masks of a trained activation network (PSM)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.types import Frame
from muse_pipeline.inference.card import ModelCard
from muse_pipeline.inference.detect import Detector
from muse_pipeline.nuclei.masks import label_image_to_nuclei
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.proposals import PROPOSERS
from muse_pipeline.proposals.activation_map import MaskSettings, PseudoMasker
from muse_pipeline.proposals.base import N_RAYS, SlideSample, proposal_card, proposer_facts, shrink, shrink_factor
from muse_pipeline.proposals.otsu_mask import cut_mask, haematoxylin
from muse_pipeline.tissue.background import clear_foreign_colours

PACKAGES = ("muse-pipeline", "numpy", "opencv-python-headless", "scipy", "torch")
DIGITS = 5  # of what is written down of the fit
GLASS = (np.full((64, 64, 3), 255, np.uint8),)  # what a slide without tissue is fitted to


@dataclass(frozen=True)
class ActivationFinderSettings:
    """Settings of the proposer.

    Attributes:
        checkpoint: checkpoint of an activation network, written by `muse psm`.
        masks: settings that turn its maps into masks.
    """

    checkpoint: Path
    masks: MaskSettings = field(default_factory=MaskSettings)


@PROPOSERS.register("activation")
@dataclass(frozen=True, eq=False)
class ActivationFinder(Detector):
    """Finds the nuclei of one slide's windows.

    Attributes:
        mpp: um per pixel of the windows.
        settings: settings of the proposer.
        masker: pseudo-masker fitted to the slide.
    """

    Settings = ActivationFinderSettings

    mpp: float
    settings: ActivationFinderSettings
    masker: PseudoMasker

    @classmethod
    def fit(cls, sample: SlideSample, settings: ActivationFinderSettings) -> ActivationFinder:
        """Fit maps and clusters to crops of the slide's tissue.

        Raises:
            CheckpointError: the file is not an activation network.
            MppError: the network was trained at another mpp.
        """
        torch.set_num_threads(1)  # windows run side by side instead, and sums have one order
        factor = shrink_factor(sample.mpp)
        pictures = [shrink(picture, factor) for picture in sample.pictures or GLASS]
        masker = PseudoMasker.load(settings.checkpoint, pictures, sample.mpp * factor, sample.stains, settings.masks)
        return cls(sample.mpp, settings, masker)

    @cached_property
    def card(self) -> ModelCard:
        """The proposer's card, in the form of a model's."""
        return proposal_card("activation", self.mpp)

    def __call__(self, pixels: np.ndarray, origin_xy: np.ndarray) -> list[Nuclei]:
        """The nuclei of each window; its position makes no difference."""
        return [self.find(window) for window in pixels]

    def find(self, pixels: np.ndarray) -> Nuclei:
        """The nuclei (frame: window) of (h, w, 3) uint8 ``pixels``; the score rises with their haematoxylin."""
        factor = shrink_factor(self.mpp)
        small = shrink(pixels, factor)
        density = clear_foreign_colours(haematoxylin(small, self.masker.stains), small)
        instances = cut_mask(self.masker(small) & (density > 0), density, self.masker.mpp)
        nuclei = label_image_to_nuclei(instances, (self.masker.mpp, self.masker.mpp), N_RAYS)
        area = np.maximum(np.bincount(instances.ravel()), 1)
        mean = (np.bincount(instances.ravel(), density.ravel()) / area)[1:]
        usual = max(self.masker.clusters.density[self.masker.clusters.foreground], 1e-6)
        found = Nuclei(
            nuclei.xy * factor,
            Frame.WINDOW,
            rays=nuclei.rays,
            label=np.zeros(len(nuclei)),
            score=mean / (mean + usual),
            prob=np.ones((len(nuclei), 1)),
        )
        return found[np.argsort(-found.score, kind="stable")[: self.card.capacity]]

    def facts(self) -> dict[str, Any]:
        """Settings and estimates, with their checksum."""
        clusters = self.masker.clusters
        proposer = {
            "method": "activation",
            "checkpoint_sha256": sha256_of(self.settings.checkpoint),
            "settings": asdict(self.settings.masks),
            "fitted": {
                "stains": self.masker.stains.round(DIGITS).tolist(),
                "centres": clusters.centres.round(DIGITS).tolist(),
                "foreground": clusters.foreground,
            },
        }
        return proposer_facts(proposer, self.masker.stains.round(DIGITS).tolist(), PACKAGES)
