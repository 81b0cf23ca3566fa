"""The summary of a slide for the report, with its pictures."""

from __future__ import annotations

from typing_extensions import override

from muse_pipeline.outputs.base import OUTPUTS, FinishedSlide, Output


@OUTPUTS.register("summary")
class Summary(Output):
    """``summary.json``, the density of the nuclei and fields with their outlines."""

    name = "summary"
    files = ("summary.json", "density.png", "overlays/")
    rank = 40
    step = "overlay"
    shows_proposals = True

    @override
    @classmethod
    def removed_patterns(cls) -> tuple[str, ...]:
        return ("summary.json", "density.png", "overlays/[0-9].png", "overlays/proposals.png")

    @override
    @classmethod
    def write(cls, slide: FinishedSlide) -> None:
        from muse_pipeline.report.slide_summary import summarise_slide

        summarise_slide(slide.files.folder, slide.threads)
