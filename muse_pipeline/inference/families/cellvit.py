"""CellViT (Hoerst et al., Medical Image Analysis 2024), which decodes as HoVer-Net does."""

from __future__ import annotations

from muse_pipeline.inference.families import FAMILIES
from muse_pipeline.inference.maps import PositionFamily


@FAMILIES.register("cellvit")
class CellVit(PositionFamily):
    """CellViT and CellViT++."""

    names = "nuclei_binary_map", "hv_map", "nuclei_type_map"
