"""HoVer-Net: nuclei, and the position of pixels within their nucleus (Graham et al., Medical Image
Analysis 2019).
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
    cut_nuclei,
    is_nucleus,
    probabilities,
    smooth,
)
from muse_pipeline.nuclei.masks import depth_um
from muse_pipeline.nuclei.table import Nuclei

POSITION_UM = 0.5  # sigma of the blur of positions
# where a position falls faster, two nuclei meet; within a nucleus it rises from -1 to 1
FALL_PER_UM = 0.2


@FAMILIES.register("hover")
class HoverNet(Family):
    """Nuclei by a watershed, cut where the position of pixels within their nucleus falls from 1 to
    -1.
    """

    names = "np", "hv", "tp"  # of the nuclei, the positions and the classes

    def list_maps(self, n_classes: int) -> list[Map]:
        """See ``Family``."""
        nucleus, position, classes = self.names
        return self.with_classes(
            [Map(nucleus, "nucleus", (1, 2)), Map(position, "position", (2,))], classes, n_classes
        )

    def decode(self, maps: list[ndarray], card: ImportedCard) -> Nuclei:
        """See ``Family``."""

        def depth(mask: ndarray) -> ndarray:
            x, y = smooth(maps[1], POSITION_UM, card)
            rise = np.minimum(np.gradient(x, axis=1), np.gradient(y, axis=0))
            return depth_um(mask & (rise > -FALL_PER_UM * mpp), mpp, DEPTH_UM)

        mpp = card.mpp * card.stride_px
        classes = probabilities(maps[2], card) if len(maps) > 2 else None
        return cut_nuclei(is_nucleus(probabilities(maps[0], card)), depth, classes, card)


@FAMILIES.register("cellvit")
class CellVit(HoverNet):
    """CellViT (Hoerst et al., Medical Image Analysis 2024) has the maps of HoVer-Net by other
    names.
    """

    names = "nuclei_binary_map", "hv_map", "nuclei_type_map"
