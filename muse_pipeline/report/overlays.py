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
from muse_pipeline.report.drawing import PAPER, STRIP_PX, LegendEntry, add_caption, add_legend, add_strip, save_picture
from muse_pipeline.report.nuclei_file import read_outlines
from muse_pipeline.tiles.store import Store

ENLARGEMENT = 2  # so that outlines are crisp between the pixels of the store
LEAST_PX = 640  # a smaller image is enlarged more, so that caption and legend fit
_MARGIN_UM = 20.0  # nuclei centred outside a field reach into it
_SUBPIXEL_BITS = 4


def draw_field(
    store: Store,
    nuclei: Path,
    field: Field,
    classes: Sequence[NucleusClass],
    path: Path,
    *,
    column: str = "label",
    caption: str | None = None,
) -> dict[str, int]:
    """Write the PNG of the part of a field that lies on the slide, with scale bar, legend and caption inside it.

    Args:
        store: of the slide.
        nuclei: the table.
        field: where.
        classes: by the values of ``column``.
        path: of the PNG.
        column: of the table, that tells the classes apart.
        caption: what the field shows, by default why it was chosen.

    Returns:
        The number of nuclei centred in it by class name.
    """
    pixels, enlargement = _read_pixels(store, field)
    low, high = _level0_corners(store, field, 0.0)
    geometry, xy, label = read_outlines(nuclei, *_level0_corners(store, field, _MARGIN_UM), column)
    inside = ((xy >= low) & (xy < high)).all(1)
    counts = {each.name: int((label[inside] == i).sum()) for i, each in enumerate(classes)}
    draw_outlines(pixels, *_to_picture(geometry, label, store, low, enlargement), classes)
    canvas, pen, left = add_strip(pixels, store.mpp / enlargement, inside=True)
    legend = [LegendEntry(f"{each.name} {counts[each.name]:,}", each.color) for each in classes]
    add_legend(pen, left, canvas.height - STRIP_PX // 2, legend, canvas.width)
    add_caption(canvas, (caption or field.caption).capitalize())
    save_picture(canvas, path)
    return counts


def draw_outlines(
    pixels: np.ndarray, rings: list[np.ndarray], label: np.ndarray, classes: Sequence[NucleusClass]
) -> None:
    """Draw closed rings, (n, 2) positions in px of ``pixels``, into ``pixels`` (h, w, 3) uint8."""
    scale = 1 << _SUBPIXEL_BITS
    fixed = [np.round(xy_to_xy_index(ring) * scale).astype(np.int32) for ring in rings]
    style = {"isClosed": True, "lineType": cv2.LINE_AA, "shift": _SUBPIXEL_BITS}
    halo = pixels.copy()  # a pale one parts the line from dark chromatin
    cv2.polylines(halo, fixed, color=PAPER, thickness=3, **style)
    cv2.addWeighted(pixels, 0.5, halo, 0.5, 0, pixels)
    for i in np.unique(label):
        color = classes[i].color if 0 <= i < len(classes) else (0, 0, 0)
        of_class = [fixed[k] for k in np.flatnonzero(label == i)]
        for _ in range(2):  # a line of one pixel is pale where it lies between two
            cv2.polylines(pixels, of_class, color=color, thickness=1, **style)


def _read_pixels(store: Store, field: Field) -> tuple[np.ndarray, int]:
    """The field's pixels that lie on the slide, (h, w, 3) uint8, and how many times they are enlarged."""
    width, height = field_size_px(store, field)
    pixels = store.read(_corner_px(store, field), (width, height))
    enlargement = max(ENLARGEMENT, -(-LEAST_PX // width))
    shape = width * enlargement, height * enlargement
    return cv2.resize(pixels, shape, interpolation=cv2.INTER_CUBIC), enlargement


def field_size_px(store: Store, field: Field) -> tuple[int, int]:
    """(width, height) of a field in work pixels: less than its side where the slide ends before it does."""
    side = round(field.side_um / store.mpp)
    width, height = (min(side, size - at) for size, at in zip(store.size_px, _corner_px(store, field), strict=True))
    return width, height


def _corner_px(store: Store, field: Field) -> tuple[int, int]:
    x, y = (round(length / store.mpp) for length in field.xy_um)
    return x, y


def _level0_corners(store: Store, field: Field, margin_um: float) -> tuple[np.ndarray, np.ndarray]:
    corner = np.array(field.xy_um)
    corners = np.stack([corner - margin_um, corner + field.side_um + margin_um])
    low, high = work_to_level0(corners, store.slide_mpp, 1.0)
    return low, high


def _to_picture(
    geometry: np.ndarray, label: np.ndarray, store: Store, corner_level0: np.ndarray, enlargement: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Exterior rings in px of the enlarged field, and the label of each."""
    parts, nucleus = shapely.get_parts(geometry, return_index=True)
    coordinates, ring = shapely.get_coordinates(shapely.get_exterior_ring(parts), return_index=True)
    xy = level0_to_work(coordinates - corner_level0, store.slide_mpp, store.mpp) * enlargement
    starts = np.flatnonzero(np.diff(ring)) + 1
    return (np.split(xy, starts) if len(xy) else []), label[nucleus]
