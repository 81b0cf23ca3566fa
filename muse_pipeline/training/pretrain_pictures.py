"""Views of a pretraining run as a picture, with the nuclei that its views share drawn on them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.core.coords import xy_to_xy_index
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.pictures import write_png
from muse_pipeline.data.stream import seed_of_step
from muse_pipeline.data.views import ViewSampler, ViewSet

N_SETS, GAP_PX, ZOOM = 6, 8, 2
RADIUS_UM, SUBPIXEL_BITS = 4.0, 4


def draw_views(sample: ViewSampler, seed: int, output: Path) -> None:
    """Write a few sets, one below the other: global views first; a nucleus has one colour in all views of its set."""
    generator = np.random.default_rng(seed_of_step(seed, 0))
    rows = [_draw_set(sample(generator)) for _ in range(N_SETS)]
    width = max(row.shape[1] for row in rows)
    page = np.concatenate([_padded(row, row.shape[0] + GAP_PX, width) for row in rows])
    with complete_file(output) as partial:
        write_png(partial, page)


def _draw_set(views: ViewSet) -> np.ndarray:
    colours = np.random.default_rng(0).integers(60, 256, (views.seen.shape[1], 3)).tolist()
    pictures = []
    for number, (view, placed) in enumerate(zip(views.views, views.placed, strict=True)):
        partners = [one for one in (0, 1) if one != number]  # the teacher sees global views
        shared = np.unique(np.concatenate([views.shared(one, number) for one in partners]))
        picture = cv2.resize(view.cut(views.image), None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)
        for nucleus in shared.tolist():
            at = np.round(xy_to_xy_index(placed[nucleus] * ZOOM) * 2**SUBPIXEL_BITS).astype(int).tolist()
            radius = round(RADIUS_UM / view.mpp * ZOOM * 2**SUBPIXEL_BITS)
            cv2.circle(picture, at, radius, colours[nucleus], 2, cv2.LINE_AA, SUBPIXEL_BITS)
        pictures.append(picture)
    height = max(len(picture) for picture in pictures)
    return np.concatenate([_padded(one, height, one.shape[1] + GAP_PX) for one in pictures], 1)


def _padded(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    below, right = height - picture.shape[0], width - picture.shape[1]
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(255, 255, 255))
