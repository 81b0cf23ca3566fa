"""The page that shows a slide and its nuclei in a browser."""

from __future__ import annotations

from typing_extensions import override

from muse_pipeline.core.setting import Setting
from muse_pipeline.outputs.base import OUTPUTS, FinishedSlide, Output


@OUTPUTS.register("viewer")
class Viewer(Output):
    """The folder ``viewer``."""

    name = "viewer"
    files = ("viewer/",)
    switch = Setting(
        "viewer",
        True,
        {"type": "boolean"},
        "write `viewer/index.html`, the slide and all its nuclei for the browser",
        "About 1.5 MB per mm² ([docs/guide/viewer.md](../docs/guide/viewer.md))",
        job="nuclei",
    )
    rank = 30
    step = "overlay"
    shows_proposals = True

    @override
    @classmethod
    def write(cls, slide: FinishedSlide) -> None:
        from muse_pipeline.viewer.page import write_viewer

        write_viewer(slide.files.folder, slide.threads)
