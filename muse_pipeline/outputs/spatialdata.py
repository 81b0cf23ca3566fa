"""A slide for SpatialData."""

from __future__ import annotations

from typing_extensions import override

from muse_pipeline.core.setting import Setting
from muse_pipeline.outputs.base import OUTPUTS, FinishedSlide, Output


@OUTPUTS.register("spatialdata")
class SpatialData(Output):
    """``slide.spatialdata.zarr``."""

    name = job = "spatialdata"
    files = ("slide.spatialdata.zarr/",)
    switch = Setting(
        "spatialdata",
        False,
        {"type": "boolean"},
        "write `slide.spatialdata.zarr` too: outlines, nuclei and a link to the image, for SpatialData",
        "Implies `features: all` and needs `keep_stores`",
        job="spatialdata",
    )
    rank = 80
    features = "all"
    needs_image = True

    @override
    @classmethod
    def write(cls, slide: FinishedSlide) -> None:
        from muse_pipeline.scverse.spatialdata import write_spatialdata

        output = slide.files.folder / cls.files[0]
        write_spatialdata(slide.files.nuclei, slide.store, output, slide.patient, slide.embeddings)
