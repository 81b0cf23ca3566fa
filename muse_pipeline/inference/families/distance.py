"""Networks that return classes, and a number that grows towards the middle of a nucleus."""

from __future__ import annotations

import numpy as np

from muse_pipeline.inference.card import ImportedCard
from muse_pipeline.inference.families import FAMILIES
from muse_pipeline.inference.maps import Family, Map, class_channels, cut_nuclei, is_nucleus, probabilities, smooth
from muse_pipeline.nuclei.masks import SMOOTH_UM
from muse_pipeline.nuclei.table import Nuclei


@FAMILIES.register("distance")
class DistanceFamily(Family):
    """Nuclei by a watershed on the distance."""

    def list_maps(self, n_classes: int) -> list[Map]:
        """See ``Family``."""
        return [Map("classes", "classes", class_channels(n_classes)), Map("distance", "distance", (1,))]

    def decode(self, maps: list[np.ndarray], card: ImportedCard) -> Nuclei:
        """See ``Family``."""
        classes = probabilities(maps[0], card)
        return cut_nuclei(is_nucleus(classes), lambda _: smooth(maps[1], SMOOTH_UM, card)[0], classes, card)
