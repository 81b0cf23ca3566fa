"""U-Nets with classes and a distance, or with a class for pixels between nuclei, among them
HoVer-NeXt.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray

from muse_pipeline.inference.card import ImportedCard
from muse_pipeline.inference.families import FAMILIES
from muse_pipeline.inference.maps import (
    DEPTH_UM,
    Family,
    Map,
    class_channels,
    cut_nuclei,
    is_nucleus,
    probabilities,
    smooth,
)
from muse_pipeline.nuclei.masks import SMOOTH_UM, depth_um
from muse_pipeline.nuclei.table import Nuclei

# channels in front of the classes in HoVer-NeXt's output; positions are not read
N_POSITIONS, N_PARTS = 2, 3


@FAMILIES.register("distance")
class DistanceFamily(Family):
    """Nuclei by a watershed on the distance."""

    def list_maps(self, n_classes: int) -> list[Map]:
        """See ``Family``."""
        return [
            Map("classes", "classes", class_channels(n_classes)),
            Map("distance", "distance", (1,)),
        ]

    def decode(self, maps: list[ndarray], card: ImportedCard) -> Nuclei:
        """See ``Family``."""
        classes = probabilities(maps[0], card)
        return cut_nuclei(
            is_nucleus(classes), lambda _: smooth(maps[1], SMOOTH_UM, card)[0], classes, card
        )


@FAMILIES.register("boundary")
class BoundaryFamily(Family):
    """Nuclei by a watershed on the depth inside the mask without boundaries."""

    def list_maps(self, n_classes: int) -> list[Map]:
        """See ``Family``."""
        return [Map("classes", "classes and boundary", (n_classes + 2,))]

    def find_fault(self, maps: list[ndarray], card: ImportedCard) -> str:
        """See ``Family``."""
        prob = probabilities(maps[0][0], card)
        is_found = is_nucleus(prob) >= card.threshold
        if is_found.any() and not (is_found & _is_inside(prob)).any():
            return "only boundaries for synthetic nuclei; correct --kind, --outputs or --scaling"
        return ""

    def decode(self, maps: list[ndarray], card: ImportedCard) -> Nuclei:
        """See ``Family``; the classes are those of the last map, without a boundary."""
        prob = probabilities(maps[0], card)
        mpp = card.mpp * card.stride_px
        classes = probabilities(maps[-1], card)[: len(card.classes) + 1]
        return cut_nuclei(
            is_nucleus(prob),
            lambda mask: depth_um(mask & _is_inside(prob), mpp, DEPTH_UM),
            classes,
            card,
        )


@FAMILIES.register("hovernext")
class HoverNext(BoundaryFamily):
    """HoVer-NeXt (Baumann et al., MIDL 2024): background, inside and boundary, and classes in a map
    of their own.
    """

    def list_maps(self, n_classes: int) -> list[Map]:
        """See ``Family``."""
        parts = Map("inst", "background, inside and boundary", (N_PARTS,))
        return [parts, Map("ct", "classes", class_channels(n_classes))]

    def split(self, joint: ndarray, n_classes: int) -> list[ndarray]:
        """See ``Family``."""
        return np.split(joint, (N_POSITIONS, N_POSITIONS + N_PARTS), axis=1)[1:]


def _is_inside(prob: ndarray) -> ndarray:
    """(h, w) bool: where nuclei are more probable than the boundary, the last of (C, h, w)."""
    return prob[-1] < prob[1:-1].sum(0)
