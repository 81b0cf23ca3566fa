"""Detection on one picture in memory, by the same windows and seams as on a slide."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from muse_pipeline.core.types import Frame
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.nms import suppress_overlaps
from muse_pipeline.nuclei.seams import SeamResolver, report_window
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.nuclei.touching import cut_apart
from muse_pipeline.store.grid import WindowGrid
from muse_pipeline.tissue.stain import MacenkoFit


def detect_picture(predictor: Predictor, pixels: np.ndarray, mpp: float, stain: MacenkoFit | None) -> Nuclei:
    """Nuclei (frame: work, which is the picture's) of (h, w, 3) uint8 ``pixels`` of any mpp.

    Args:
        predictor: the model.
        pixels: (h, w, 3) uint8 picture, which is resampled to the model's mpp.
        mpp: um per pixel of the picture.
        stain: stains of the picture; None if unknown.
    """
    factor = mpp / predictor.card.mpp
    size = tuple(max(1, round(side * factor)) for side in pixels.shape[1::-1])
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    resized = pixels if size == pixels.shape[1::-1] else cv2.resize(pixels, size, interpolation=how)
    found = detect_image(predictor, resized, colour_of_fit(predictor.card.colour, stain))
    return replace(found, xy=found.xy * (np.array(pixels.shape[1::-1]) / size))


def detect_image(predictor: Predictor, pixels: np.ndarray, colour: np.ndarray) -> Nuclei:
    """Nuclei (frame: work, which is the picture's) of (h, w, 3) uint8 ``pixels`` at the card's mpp."""
    nuclei, mpp = detect_overlapping(predictor, pixels, colour), predictor.card.mpp
    none = nuclei[:0]
    return replace(nuclei, rays=cut_apart(nuclei.xy * mpp, nuclei.rays, none.xy, none.rays))


def detect_overlapping(predictor: Predictor, pixels: np.ndarray, colour: np.ndarray) -> Nuclei:
    """The nuclei of ``detect_image`` with outlines as the network draws them, which may overlap."""
    card = predictor.card
    height, width = pixels.shape[:2]
    grid = WindowGrid((width, height), card.input_px, card.halo_px)
    windows = np.arange(grid.shape[0] * grid.shape[1])
    reports = [_run_window(predictor, grid, pixels, colour, window) for window in windows.tolist()]
    nuclei, seams = Nuclei.concatenate(reports), SeamResolver(grid, card.mpp)
    kept = seams.add(nuclei.xy, np.repeat(windows, [len(report) for report in reports])), seams.finish()
    nuclei = nuclei[np.concatenate(kept)]
    return nuclei[((nuclei.xy >= 0) & (nuclei.xy < (width, height))).all(1)]


def _run_window(predictor: Predictor, grid: WindowGrid, pixels: np.ndarray, colour: np.ndarray, window: int) -> Nuclei:
    card, (height, width) = predictor.card, pixels.shape[:2]
    part = grid.whole
    if predictor.any_size:
        everywhere = np.ones((-(-height // card.stride_px), -(-width // card.stride_px)), bool)
        part = grid.part(np.array([window]), everywhere, card.stride_px, card.stride_px)
    batch = np.full((card.batch, part.height, part.width, 3), 255, np.uint8)
    x, y = grid.part_xy(window, part)
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + part.width, width), min(y + part.height, height)
    batch[0, top - y : bottom - y, left - x : right - x] = pixels[top:bottom, left:right]
    nuclei = suppress_overlaps(predictor(batch, colour)[0], card.mpp)
    return report_window(nuclei, window, grid, part, card.mpp).require(Frame.WORK)
