"""The nuclei, and the cores of a tissue microarray, for QuPath."""

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.setting import Setting
from muse_pipeline.core.types import GEOJSON_FRAMES
from muse_pipeline.outputs.base import OUTPUTS, FinishedSlide, Output


def require_measurements(
    names: Sequence[str], features: str, classes: Sequence[str], cells: Any = None
) -> None:
    """Check the columns in the setting ``measurements`` before anything runs.

    They depend on the settings ``features`` and ``cells`` and on the names of the model's classes.
    """
    if not names:
        return
    from muse_pipeline.features.catalogue import CELL, DAB_OF_CELL, features_of
    from muse_pipeline.nuclei.parquet import OptionalColumns, nuclei_schema
    from muse_pipeline.qupath.write import require_numbers

    table_features = (*features_of(features, classes), *((*CELL, *DAB_OF_CELL) if cells else ()))
    measured = [feature.name for feature in table_features]
    # all columns that a slide may have
    optional = OptionalColumns(positive_od=0, regions=(), features=measured)
    require_numbers(nuclei_schema(classes, 1, optional), names)


@OUTPUTS.register("geojson")
class GeoJson(Output):
    """The nuclei for QuPath, ``nuclei.geojson.gz``, and their provenance in a file next to it."""

    files = (SlideFiles.geojson, SlideFiles.provenance)
    patterns = ("nuclei.part-[0-9][0-9][0-9].geojson.gz",)
    settings = (
        Setting(
            "frame",
            "qupath",
            {"enum": list(GEOJSON_FRAMES)},
            "origin of positions in GeoJSON: the corner of the scanner's bounds, as in QuPath, or"
            " that of level 0",
            "`qupath` or `openslide`; they differ if the scanner declares bounds",
            in_file_only=True,
        ),
        Setting(
            "max_features",
            None,
            {"type": ["integer", "null"], "minimum": 1},
            "also write parts with at most this many nuclei each, to be dropped onto QuPath one at"
            " a time",
            "The parts are called `nuclei.part-001.geojson.gz` and so on",
            in_file_only=True,
        ),
        Setting(
            "measurements",
            [],
            {"type": "array", "items": {"type": "string", "minLength": 1}},
            "columns of `nuclei.parquet` to add to the nuclei in QuPath, such as `[h_mean,"
            " shape_circularity]`",
            in_file_only=True,
        ),
    )
    rank = 20

    @override
    def write(self, slide: FinishedSlide) -> None:
        from muse_pipeline.qupath.write import write_geojson
        from muse_pipeline.slides.inspect import read_info

        files, chosen = slide.files, slide.settings
        write_geojson(
            files.nuclei,
            read_info(files.info),
            files.geojson,
            frame=chosen["frame"],
            max_features=chosen["max_features"],
            threads=slide.threads,
            measurements=chosen["measurements"],
        )


@OUTPUTS.register("tma")
class Tma(Output):
    """The cores of a tissue microarray for QuPath, ``tma.geojson``."""

    files = (SlideFiles.tma,)
    switch = Setting(
        "tma",
        False,
        {"type": "boolean"},
        "find the cores of a tissue microarray and count nuclei in each; write `tma.geojson` for"
        " QuPath",
        "Each core has a row in `cohort.tsv`, `roi.tsv` and the report"
        " ([docs/guide/tma.md](../docs/guide/tma.md))",
    )
    rank = 35

    @override
    def write(self, slide: FinishedSlide) -> list[str]:
        from muse_pipeline.qupath.regions import write_cores
        from muse_pipeline.slides.inspect import read_info
        from muse_pipeline.tissue.mask import TissueMask
        from muse_pipeline.tissue.tma import find_cores

        info = read_info(slide.files.info)
        tissue = TissueMask.load(slide.files.mask, info)
        write_cores(slide.files.tma, *find_cores(tissue.mask, tissue.mask_mpp), info)
        return []
