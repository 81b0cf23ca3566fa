"""Drawn immunohistochemistry: blue and brown nuclei at known positions."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from drawn import ArraySlide, paint

from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference.dab import DAB
from muse_pipeline.store.store import Store, open_store
from muse_pipeline.store.write import write_store
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.stain import TEXTBOOK

PITCH_UM = 16.0


def draw_ihc(mpp: float, size_um: tuple[float, float], share: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, centres (N, 2) px, brown (N,): blue discs of 4 um on pale blue, and far denser brown ones."""
    axes = [np.arange(PITCH_UM, side - PITCH_UM / 2, PITCH_UM) for side in size_um]
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2) / mpp
    brown = rng.uniform(size=len(centres)) < share
    width, height = (round(side / mpp) for side in size_um)
    amounts = np.zeros((2, height, width), np.float32)
    for (x, y), is_brown in zip(centres, brown, strict=True):
        middle = round((x - 0.5) * 256), round((y - 0.5) * 256)
        cv2.circle(amounts[int(is_brown)], middle, round(4 / mpp * 256), 1.0, -1, cv2.LINE_8, 8)
    blue, dab = (cv2.GaussianBlur(one, (0, 0), 0.3 / mpp)[..., None] for one in amounts)
    stains = np.array([TEXTBOOK[0] / np.linalg.norm(TEXTBOOK[0]), DAB / np.linalg.norm(DAB)])
    density = (0.1 + 0.6 * blue) * stains[0] + 1.4 * dab * stains[1]
    return paint(np.maximum(density + rng.normal(0, 0.02, density.shape), 0)), centres, brown


def store_ihc(
    folder: Path, size_um: tuple[float, float]
) -> tuple[Store, SlideInfo, TissueMask, np.ndarray, np.ndarray]:
    """Store, slide, tissue, centres and brown of a drawing at 0.5 um that is tissue from wall to wall."""
    pixels, centres, brown = draw_ihc(0.5, size_um)
    slide = ArraySlide([pixels])
    rows, columns = (-(-side // 16) for side in pixels.shape[:2])
    tissue = TissueMask(np.ones((rows, columns), bool), np.array([8.0, 8.0]), None, 0.0)
    info = slide.info((0.5, 0.5))
    write_store(slide, info, tissue, folder / "image-500nm.zarr")
    return open_store(folder / "image-500nm.zarr"), info, tissue, centres, brown
