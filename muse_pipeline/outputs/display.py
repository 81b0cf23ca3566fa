"""The summary and pictures of a slide for the report, and its viewer for the browser."""

import math
from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.setting import Setting
from muse_pipeline.core.types import INTENSITIES_OD
from muse_pipeline.outputs.base import OUTPUTS, FinishedSlide, Output


@OUTPUTS.register("summary")
class Summary(Output):
    """``summary.json``, and pictures of the density of the nuclei and of their outlines in several
    fields.
    """

    files = (SlideFiles.summary, SlideFiles.density, "overlays/")
    settings = (
        Setting(
            "intensities",
            list(INTENSITIES_OD),
            {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
            "lowest optical densities of DAB for nuclei and cells that are 1+, 2+ and 3+ in"
            " immunohistochemistry",
            "See [docs/guide/ihc.md](../docs/guide/ihc.md#scores)",
            in_file_only=True,
        ),
    )
    rank = 40
    step = "overlay"

    @override
    def removed_patterns(self) -> tuple[str, ...]:
        return (SlideFiles.summary, SlideFiles.density, "overlays/[0-9].png")

    @override
    def complete(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        given = settings["intensities"]
        try:
            limits = [float(limit) for limit in given]
        except ValueError:
            limits = []
        if len(limits) != 3 or not 0 < limits[0] < limits[1] < limits[2] < math.inf:
            raise ConfigError(
                "intensities: 1+, 2+ and 3+ begin at three ascending optical densities above 0,"
                f" but the setting is {', '.join(map(str, given)) or 'none'}; the default is"
                f" {', '.join(map(str, INTENSITIES_OD))}"
            )
        return {"intensities": limits}

    @override
    def write(self, slide: FinishedSlide) -> None:
        from muse_pipeline.report.slide_summary import summarise_slide

        summarise_slide(slide.files.folder, slide.threads)


@OUTPUTS.register("viewer")
class Viewer(Output):
    """The folder ``viewer``, with the page that shows the slide and its nuclei."""

    files = ("viewer/",)
    switch = Setting(
        "viewer",
        True,
        {"type": "boolean"},
        "write `viewer/index.html`, the slide and all its nuclei for the browser",
        "About 1.5 MB per mm² ([docs/guide/viewer.md](../docs/guide/viewer.md))",
    )
    rank = 30
    step = "overlay"

    @override
    def write(self, slide: FinishedSlide) -> None:
        from muse_pipeline.viewer.page import write_viewer

        write_viewer(slide.files.folder, slide.threads)
