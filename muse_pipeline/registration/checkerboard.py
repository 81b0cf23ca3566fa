"""Slide and partner in alternating squares, across which well registered nuclei and edges of tissue continue."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.core.files import complete_file
from muse_pipeline.core.pictures import write_png
from muse_pipeline.registration.refine import Pair
from muse_pipeline.registration.register import Registration
from muse_pipeline.registration.sample import PixelReader, grid_um, sample

WIDTH_PX = 1500
N_SQUARES = 16  # across the longer side of the slide
FIELD_SQUARES = 6
GAP_PX, TEXT_PX = 12, 34
LEFT_OUT_RGB = (215, 60, 40)


def write_checkerboard(path: Path, pair: Pair, found: Registration) -> None:
    """Write the whole slide, with rejected tiles framed in red, above its best, a middling and its worst tile."""
    whole = _draw_slide(pair, found)
    fields = _draw_fields(pair, found, (whole.shape[1] - 2 * GAP_PX) // 3)
    rows = [whole, *([fields] if fields is not None else [])]
    width = max(row.shape[1] for row in rows)
    rows = [
        cv2.copyMakeBorder(row, 0, GAP_PX, 0, width - row.shape[1], cv2.BORDER_CONSTANT, value=(255,) * 3)
        for row in rows
    ]
    with complete_file(path) as partial:
        write_png(partial, np.concatenate(rows))


def _draw_slide(pair: Pair, found: Registration) -> np.ndarray:
    picture = pair.low.picture
    um = max(picture.size_um) / WIDTH_PX
    size = tuple(max(round(side / um), 1) for side in picture.size_um)
    readers = (picture, pair.partner_low.picture) if um >= picture.mpp.min() else pair.readers(max(um, pair.finest_um))
    board = _checker(readers, found, np.zeros(2), um, size, max(max(size) // N_SQUARES, 1))
    half = found.tiles.side_um / 2
    for centre in found.tiles.centre_um[~found.tiles.is_kept]:
        corners = [tuple(np.round((centre + sign * half) / um).astype(int).tolist()) for sign in (-1, 1)]
        cv2.rectangle(board, *corners, LEFT_OUT_RGB, 1)
    return board


def _draw_fields(pair: Pair, found: Registration, side_px: int) -> np.ndarray | None:
    """Three tiles side by side, each with its residual; None if none was measured and kept."""
    tiles, um = found.tiles, found.tiles.side_um / side_px
    measured = np.flatnonzero(tiles.is_kept & tiles.is_measured)
    if not len(measured):
        return None
    ranked = measured[np.argsort(tiles.residual_um[measured], kind="stable")]
    fields = []
    for name, tile in zip(("best", "middle", "worst"), ranked[[0, len(ranked) // 2, -1]], strict=True):
        readers = pair.readers(max(um, pair.finest_um))
        corner = tiles.centre_um[tile] - tiles.side_um / 2
        field = _checker(readers, found, corner, um, (side_px, side_px), max(side_px // FIELD_SQUARES, 1))
        field = cv2.copyMakeBorder(field, TEXT_PX, 0, 0, GAP_PX, cv2.BORDER_CONSTANT, value=(255,) * 3)
        text = f"{name} tile kept: {tiles.residual_um[tile]:.1f} um"
        cv2.putText(field, text, (0, TEXT_PX - 11), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (40, 40, 40), 1, cv2.LINE_AA)
        fields.append(field)
    return np.concatenate(fields, axis=1)


def _checker(
    readers: tuple[PixelReader, PixelReader],
    found: Registration,
    corner_um: np.ndarray,
    um: float,
    size: tuple[int, int],
    square_px: int,
) -> np.ndarray:
    """(h, w, 3) uint8: the slide, and the partner in every other square."""
    at = grid_um(corner_um, um, size)
    board, partner = sample(readers[0], at), sample(readers[1], found.transform.to_partner(at))
    row, column = np.indices(board.shape[:2]) // square_px
    is_partner = (row + column) % 2 == 1
    board[is_partner] = partner[is_partner]
    return board
