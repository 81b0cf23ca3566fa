"""Pieces of unlabelled tissue to keep as files: pictures whole, of a slide windows spread evenly over its tissue."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.data.unlabelled_windows import Image, Picture

MIN_TISSUE = 0.5  # share of a window of a slide


@dataclass(frozen=True, eq=False)
class Piece:
    """One of them.

    Attributes:
        name: of its files, without suffix; no two pieces of a run share one.
        pixels: (h, w, 3) uint8.
    """

    name: str
    pixels: np.ndarray


def cut_pieces(image: Image, number: int, side_px: int, most: int) -> list[Piece]:
    """The pieces of one image.

    Args:
        image: a picture or a store.
        number: of the image in its run.
        side_px: of the windows of a store.
        most: windows of a store; of more with half their area tissue, that many at even distances in reading order.
    """
    if isinstance(image, Picture):
        return [Piece(f"picture-{number:05d}", image.pixels)]
    mask, pixel_px = image.tissue
    columns, rows = (side // side_px for side in image.size_px)
    if not rows or not columns:
        return []
    size = columns * side_px / pixel_px, rows * side_px / pixel_px
    inside = mask[: round(size[1]), : round(size[0])].astype(np.float32)
    share = cv2.resize(inside, (columns, rows), interpolation=cv2.INTER_AREA)
    places = np.argwhere(share >= MIN_TISSUE)
    chosen = np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int))
    return [
        Piece(f"{image.slide_id}-{number:05d}-{x}-{y}", image.read((x, y), (side_px, side_px)))
        for y, x in (places[chosen] * side_px).tolist()
    ]
