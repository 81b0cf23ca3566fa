"""HoVer-NeXt: background, inside and boundary of nuclei, and classes (Baumann et al., MIDL 2024)."""

from __future__ import annotations

import numpy as np

from muse_pipeline.inference.card import ImportedCard
from muse_pipeline.inference.families import FAMILIES
from muse_pipeline.inference.maps import Family, Map, class_channels, cut_at_boundaries, probabilities
from muse_pipeline.nuclei.table import Nuclei

N_POSITIONS, N_PARTS = 2, 3  # channels in front of the classes in a joint output; positions are not read


@FAMILIES.register("hovernext")
class HoverNext(Family):
    """Nuclei by a watershed on the depth inside the mask without boundaries."""

    def list_maps(self, n_classes: int) -> list[Map]:
        """See ``Family``."""
        return [
            Map("inst", "background, inside and boundary", (N_PARTS,)),
            Map("ct", "classes", class_channels(n_classes)),
        ]

    def split(self, joint: np.ndarray, n_classes: int) -> list[np.ndarray]:
        """See ``Family``."""
        return np.split(joint, (N_POSITIONS, N_POSITIONS + N_PARTS), axis=1)[1:]

    def decode(self, maps: list[np.ndarray], card: ImportedCard) -> Nuclei:
        """See ``Family``."""
        parts, classes = (probabilities(values, card) for values in maps)
        return cut_at_boundaries(parts, classes, card)
