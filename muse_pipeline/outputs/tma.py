"""The cores of a tissue microarray."""

from __future__ import annotations

from typing_extensions import override

from muse_pipeline.core.setting import Setting
from muse_pipeline.outputs.base import OUTPUTS, FinishedSlide, Output


@OUTPUTS.register("tma")
class Tma(Output):
    """``tma.geojson``."""

    name = "tma"
    files = ("tma.geojson",)
    switch = Setting(
        "tma",
        False,
        {"type": "boolean"},
        "find the cores of a tissue microarray and count nuclei in each; write `tma.geojson` for QuPath",
        "A core has a row in `cohort.tsv`, `roi.tsv` and the report ([docs/guide/tma.md](../docs/guide/tma.md))",
        job="nuclei",
    )
    rank = 35

    @override
    @classmethod
    def write(cls, slide: FinishedSlide) -> list[str]:
        from muse_pipeline.qupath.regions import write_cores
        from muse_pipeline.slides.inspect import read_info
        from muse_pipeline.tissue.mask import TissueMask
        from muse_pipeline.tissue.tma import find_cores

        info = read_info(slide.files.info)
        tissue = TissueMask.load(slide.files.mask, info)
        grid = find_cores(tissue.mask, tissue.mask_mpp)
        write_cores(slide.files.tma, grid.cores, grid.radius_um, info)
        return []
