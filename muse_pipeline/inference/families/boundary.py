"""Networks that return classes, the last of which are the pixels between nuclei."""

from __future__ import annotations

import numpy as np

from muse_pipeline.inference.card import ImportedCard
from muse_pipeline.inference.families import FAMILIES
from muse_pipeline.inference.maps import Family, Map, cut_at_boundaries, is_inside, probabilities
from muse_pipeline.nuclei.table import Nuclei


@FAMILIES.register("boundary")
class BoundaryFamily(Family):
    """Nuclei by a watershed on the depth inside the mask without boundaries."""

    def list_maps(self, n_classes: int) -> list[Map]:
        """See ``Family``."""
        return [Map("classes", "classes and boundary", (n_classes + 2,))]

    def find_fault(self, maps: list[np.ndarray], card: ImportedCard) -> str:
        """See ``Family``."""
        prob = probabilities(maps[0][0], card)
        is_found = 1 - prob[0] >= card.threshold
        if is_found.any() and not (is_found & is_inside(prob)).any():
            return "only boundaries for synthetic nuclei; correct --kind, --outputs or --scaling"
        return ""

    def decode(self, maps: list[np.ndarray], card: ImportedCard) -> Nuclei:
        """See ``Family``."""
        prob = probabilities(maps[0], card)
        return cut_at_boundaries(prob, prob[:-1], card)
