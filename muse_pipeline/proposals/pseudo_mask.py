"""Nucleus pseudo-masks: activation map and stains to clusters, cleaned, and guarded against tissue without nuclei."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from muse_pipeline.config import require_between, require_one_of
from muse_pipeline.errors import MppError
from muse_pipeline.models.activation import LAYERS, ActivationNetwork, load_activation
from muse_pipeline.proposals.activation_map import ActivationMap, fit_activation_map
from muse_pipeline.proposals.clusters import Clusters, ClusterSettings, fit_clusters
from muse_pipeline.proposals.haematoxylin_density import blend_stains, haematoxylin

MPP_TOLERANCE = 0.1


@dataclass(frozen=True)
class MaskSettings:
    """How a slide's pseudo-masks are made.

    Attributes:
        clusters: what is clustered, and which cluster is nuclei; docs/psm.md names those of the releases.
        layer: "shallow", or "deep" as a control.
        min_area_um2: smaller objects are removed; the release says 200 px at 40x.
        max_hole_um2: smaller holes are filled; the release says 64 px at 40x.
        min_density: least mean optical density of haematoxylin in what is taken for nuclei.
        max_share: most of a picture that nuclei can cover.
    """

    clusters: ClusterSettings = field(default_factory=ClusterSettings)
    layer: str = "shallow"
    min_area_um2: float = 12.5
    max_hole_um2: float = 4.0
    min_density: float = 0.3
    max_share: float = 0.6

    def __post_init__(self) -> None:
        require_between(self, "masks", min_area_um2=(0, math.inf), max_hole_um2=(0, math.inf))
        require_between(self, "masks", min_density=(0, 10), max_share=(0, 1))
        require_one_of(self, "masks", layer=LAYERS)


class PseudoMask(NamedTuple):
    """What is taken for nuclei in a picture.

    Attributes:
        mask: (h, w) bool; empty where a guard refused it.
        reason: why, in words; empty where none did.
    """

    mask: np.ndarray
    reason: str


@dataclass(frozen=True, eq=False)
class PseudoMasker:
    """Fitted to a slide; gives the pseudo-mask of any picture of it.

    Attributes:
        settings: see there.
        mpp: um per pixel of pictures.
        stains: (2, 3) unit vectors, haematoxylin first.
        activation: map of the slide; None where colour alone is clustered.
        clusters: of the slide.
    """

    settings: MaskSettings
    mpp: float
    stains: np.ndarray
    activation: ActivationMap | None
    clusters: Clusters

    @classmethod
    def load(
        cls,
        path: Path,
        sample: Sequence[np.ndarray],
        mpp: float,
        stains: np.ndarray | None = None,
        settings: MaskSettings | None = None,
    ) -> PseudoMasker:
        """The trained network in ``path``, fitted to a slide; see ``fit_pseudo_masker`` for the rest.

        Raises:
            CheckpointError: the file is no activation network.
            MppError: it was trained at another mpp.
        """
        network = load_activation(path)
        if abs(network.mpp / mpp - 1) > MPP_TOLERANCE:
            raise MppError(f"{path}: was trained at {network.mpp:g} um/px and is given {mpp:g}; train one at that mpp")
        return fit_pseudo_masker(network, sample, mpp, stains, settings)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w) bool of (h, w, 3) uint8."""
        return self.explain(pixels).mask

    def explain(self, pixels: np.ndarray) -> PseudoMask:
        """The mask, and why there is none where a guard refused it."""
        densities = stain_densities(pixels, self.stains)
        activation = _activation(self.activation, pixels)
        mask = self.clusters(activation, pixels, densities) == self.clusters.foreground
        mask = clean(mask, self.mpp, self.settings)
        reason = self._refuse(mask, densities[..., 0])
        return PseudoMask(np.zeros_like(mask) if reason else mask, reason)

    def _refuse(self, mask: np.ndarray, density: np.ndarray) -> str:
        if not mask.any():
            return ""
        if (mean := density[mask].mean()) < self.settings.min_density:
            return f"no nucleus: what looks most like nuclei has a haematoxylin density of {mean:.2f} only"
        if (share := mask.mean()) > self.settings.max_share:
            return f"no nucleus: what looks like nuclei covers {share:.0%} of the picture"
        return ""


def fit_pseudo_masker(
    network: ActivationNetwork | None,
    sample: Sequence[np.ndarray],
    mpp: float,
    stains: np.ndarray | None = None,
    settings: MaskSettings | None = None,
) -> PseudoMasker:
    """Fit map and clusters to a slide.

    Args:
        network: in evaluation mode; None clusters colour alone.
        sample: pictures (h, w, 3) uint8 drawn from the slide's tissue, see ``data.unlabelled_windows``.
        mpp: um per pixel of pictures.
        stains: (2, 3) the slide's own stain vectors (``colour.json``); textbook ones where they are not known.
        settings: see there.
    """
    settings = settings or MaskSettings()
    stains = blend_stains(stains)
    activation = network and fit_activation_map(network, sample, settings.layer)
    maps = np.concatenate([_activation(activation, pixels).ravel() for pixels in sample])
    pixels = np.concatenate([pixels.reshape(-1, 3) for pixels in sample])
    densities = np.concatenate([stain_densities(pixels, stains).reshape(-1, 2) for pixels in sample])
    return PseudoMasker(settings, mpp, stains, activation, fit_clusters(maps, pixels, densities, settings.clusters))


def stain_densities(pixels: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """(h, w, 2) float32: optical densities of haematoxylin and eosin."""
    return np.stack([haematoxylin(pixels, order) for order in (stains, stains[::-1])], -1)


def clean(mask: np.ndarray, mpp: float, settings: MaskSettings) -> np.ndarray:
    """(h, w) bool without holes and objects that are smaller than the settings say; neighbours share an edge."""
    filled = mask | _smaller(~mask, settings.max_hole_um2 / mpp**2)
    return filled & ~_smaller(filled, settings.min_area_um2 / mpp**2)


def _smaller(mask: np.ndarray, area_px: float) -> np.ndarray:
    """The connected parts of a mask that have fewer pixels."""
    parts, _ = ndimage.label(mask)
    small = np.bincount(parts.ravel()) < area_px
    small[0] = False
    return small[parts]


def _activation(activation: ActivationMap | None, pixels: np.ndarray) -> np.ndarray:
    return np.zeros(pixels.shape[:2], np.float32) if activation is None else activation(pixels)
