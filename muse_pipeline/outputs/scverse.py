"""The nuclei as AnnData and SpatialData."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.setting import Setting
from muse_pipeline.outputs.base import OUTPUTS, FinishedSlide, Output


@OUTPUTS.register("anndata")
class AnnData(Output):
    """The nuclei as AnnData, ``nuclei.h5ad``."""

    columns = ("patient",)
    files = (SlideFiles.anndata,)
    patterns = (SlideFiles.bins,)  # written by `muse bins`
    switch = Setting(
        "anndata",
        False,
        {"type": "boolean"},
        "also write AnnData for scanpy: `nuclei.h5ad` for every slide, and `cohort.h5ad` for the"
        " cohort",
        "Implies `features: all` and needs the extra `spatial` "
        "([docs/guide/features.md](../docs/guide/features.md#anndata-and-spatialdata))",
    )
    rank = 70
    requires = "h5py", "spatial"

    @override
    def complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"features": "all"}

    @override
    def write(self, slide: FinishedSlide) -> None:
        from muse_pipeline.scverse.anndata import write_anndata

        write_anndata(slide.files.nuclei, slide.files.anndata, slide.patient, slide.embeddings)


@OUTPUTS.register("spatialdata")
class SpatialData(Output):
    """The nuclei and a link to the image, as SpatialData: ``slide.spatialdata.zarr``."""

    columns = ("patient",)
    files = ("slide.spatialdata.zarr/",)
    switch = Setting(
        "spatialdata",
        False,
        {"type": "boolean"},
        "also write `slide.spatialdata.zarr` for SpatialData: outlines, nuclei and a link to the"
        " image",
        "Implies `features: all` and needs `keep_stores`",
        in_file_only=True,
    )
    rank = 80
    requires = "zarr", "spatial"

    @override
    def complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        if not settings["keep_stores"]:
            raise ConfigError(
                "config: spatialdata links to the images, which keep_stores: false deletes; set"
                " keep_stores to true"
            )
        return {"features": "all"}

    @override
    def write(self, slide: FinishedSlide) -> None:
        from muse_pipeline.scverse.anndata import write_spatialdata

        output = slide.files.folder / self.files[0]
        write_spatialdata(slide.files.nuclei, slide.store, output, slide.patient, slide.embeddings)
