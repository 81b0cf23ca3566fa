"""HoVer-Net: nuclei, and the position of pixels within their nucleus (Graham et al., Medical Image Analysis 2019)."""

from __future__ import annotations

from muse_pipeline.inference.families import FAMILIES
from muse_pipeline.inference.maps import PositionFamily


@FAMILIES.register("hover")
class HoverNet(PositionFamily):
    """HoVer-Net and its variants."""

    names = "np", "hv", "tp"
