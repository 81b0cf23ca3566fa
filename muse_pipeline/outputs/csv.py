"""The nuclei as a table for spreadsheets and R."""

from typing_extensions import override

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.setting import Setting
from muse_pipeline.outputs.base import OUTPUTS, FinishedSlide, Output


@OUTPUTS.register("csv")
class Csv(Output):
    """The table of nuclei as CSV, ``nuclei.csv.gz``."""

    files = (SlideFiles.csv,)
    switch = Setting(
        "csv", False, {"type": "boolean"}, "also write `nuclei.csv.gz`, the nuclei as a table"
    )
    rank = 10

    @override
    def write(self, slide: FinishedSlide) -> None:
        from muse_pipeline.nuclei.parquet import write_csv

        write_csv(slide.files.nuclei, slide.files.csv)
