"""Where the positions of a GeoJSON file are counted from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muse_pipeline.errors import GeoJSONError

if TYPE_CHECKING:
    from muse_pipeline.types import SlideInfo

FRAMES = ("qupath", "openslide")


def find_offset(info: SlideInfo, frame: str) -> tuple[int, int]:
    """(x, y) in absolute level-0 pixels of what ``frame`` calls (0, 0).

    Raises:
        GeoJSONError: there is no such frame.
    """
    if frame not in FRAMES:
        raise GeoJSONError(f"frame '{frame}' is unknown; choose one of {', '.join(FRAMES)}")
    return (info.bounds.x, info.bounds.y) if frame == "qupath" and info.bounds else (0, 0)
