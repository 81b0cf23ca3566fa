"""Fields of a slide's store with the outlines of its nuclei, coloured by class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import shapely

from muse_pipeline.coords import level0_to_work, work_to_level0, xy_to_xy_index
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.report.density import Field
from muse_pipeline.report.drawing import PAPER, STRIP_PX, LegendEntry, add_legend, add_strip, save_picture
from muse_pipeline.report.nuclei_file import read_outlines
from muse_pipeline.tiles.store import Store

ENLARGEMENT = 2  # so that outlines are crisp between the pixels of the store
_MARGIN_UM = 20.0  # nuclei centred outside a field reach into it
_SUBPIXEL_BITS = 4


def draw_field(store: Store, nuclei: Path, field: Field, classes: Sequence[NucleusClass], path: Path) -> dict[str, int]:
    """Write the PNG of one field; gives the number of nuclei centred in it by class name."""
    pixels = _read_pixels(store, field)
    low, high = _level0_corners(store, field, 0.0)
    geometry, xy, label = read_outlines(nuclei, *_level0_corners(store, field, _MARGIN_UM))
    inside = ((xy >= low) & (xy < high)).all(1)
    counts = {each.name: int((label[inside] == i).sum()) for i, each in enumerate(classes)}
    draw_outlines(pixels, *_to_picture(geometry, label, store, low), classes)
    canvas, pen, left = add_strip(pixels, store.mpp / ENLARGEMENT)
    legend = [LegendEntry(f"{each.name} {counts[each.name]}", each.color) for each in classes]
    add_legend(pen, left, canvas.height - STRIP_PX // 2, legend, canvas.width)
    save_picture(canvas, path)
    return counts


def draw_outlines(
    pixels: np.ndarray, rings: list[np.ndarray], label: np.ndarray, classes: Sequence[NucleusClass]
) -> None:
    """Draw closed rings, (n, 2) positions in px of ``pixels``, into ``pixels`` (h, w, 3) uint8."""
    scale = 1 << _SUBPIXEL_BITS
    fixed = [np.round(xy_to_xy_index(ring) * scale).astype(np.int32) for ring in rings]
    style = {"isClosed": True, "lineType": cv2.LINE_AA, "shift": _SUBPIXEL_BITS}
    cv2.polylines(pixels, fixed, color=PAPER, thickness=4, **style)  # a pale halo parts the line from dark chromatin
    for i in np.unique(label):
        color = classes[i].color if 0 <= i < len(classes) else (0, 0, 0)
        cv2.polylines(pixels, [fixed[k] for k in np.flatnonzero(label == i)], color=color, thickness=2, **style)


def _read_pixels(store: Store, field: Field) -> np.ndarray:
    x, y, side = (round(length / store.mpp) for length in (*field.xy_um, field.side_um))
    shape = (side * ENLARGEMENT, side * ENLARGEMENT)
    return cv2.resize(store.read((x, y), (side, side)), shape, interpolation=cv2.INTER_CUBIC)


def _level0_corners(store: Store, field: Field, margin_um: float) -> tuple[np.ndarray, np.ndarray]:
    corner = np.array(field.xy_um)
    corners = np.stack([corner - margin_um, corner + field.side_um + margin_um])
    low, high = work_to_level0(corners, store.slide_mpp, 1.0)
    return low, high


def _to_picture(
    geometry: np.ndarray, label: np.ndarray, store: Store, corner_level0: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Exterior rings in px of the enlarged field, and the label of each."""
    parts, nucleus = shapely.get_parts(geometry, return_index=True)
    coordinates, ring = shapely.get_coordinates(shapely.get_exterior_ring(parts), return_index=True)
    xy = level0_to_work(coordinates - corner_level0, store.slide_mpp, store.mpp) * ENLARGEMENT
    starts = np.flatnonzero(np.diff(ring)) + 1
    return (np.split(xy, starts) if len(xy) else []), label[nucleus]
