"""Windows of tissue that the ranges of a quantised network are taken from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.data.pictures import list_pictures, read_rgb
from muse_pipeline.errors import ConfigError
from muse_pipeline.inference.card import ModelCard
from muse_pipeline.inference.colour import colour_of_fit
from muse_pipeline.tissue.macenko import fit_macenko

MAX_WINDOWS = 64


@dataclass(frozen=True)
class CalibrationWindow:
    """One call of the graph.

    Attributes:
        pixels: (1, 3, S, S) uint8.
        colour: (3, 4) float32, fitted on the picture as on a slide.
    """

    pixels: np.ndarray
    colour: np.ndarray


def calibration_windows(folder: Path, card: ModelCard, mpp: float | None = None) -> list[CalibrationWindow]:
    """The upper left window of each picture of a folder, by name, at most ``MAX_WINDOWS`` spread evenly.

    What a small picture leaves of its window is white, as beside a slide.

    Args:
        folder: of pictures.
        card: of the model.
        mpp: of the pictures; the model's when not given.

    Raises:
        ConfigError: there is no picture.
        LabelError: a picture cannot be read.
    """
    paths = list_pictures(folder)
    if not paths:
        raise ConfigError(
            f"{folder}: no pictures to calibrate precision 'int8' on; give a folder of pictures like those that the "
            "model will see (--calibration FOLDER)"
        )
    chosen = np.unique(np.linspace(0, len(paths) - 1, MAX_WINDOWS).round().astype(int))
    return [_window(paths[index], card, mpp or card.mpp) for index in chosen]


def describe_calibration(windows: Sequence[CalibrationWindow]) -> str:
    """Number and checksum of the windows, for the card."""
    digest = hashlib.sha256()
    for window in windows:
        digest.update(window.pixels.tobytes())
        digest.update(window.colour.tobytes())
    return f"{len(windows)} windows, sha256 {digest.hexdigest()}"


def _window(path: Path, card: ModelCard, mpp: float) -> CalibrationWindow:
    side = round(card.input_px * card.mpp / mpp)
    pixels = read_rgb(path)[:side, :side]
    if mpp != card.mpp:
        size = [max(round(length * mpp / card.mpp), 1) for length in pixels.shape[1::-1]]
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if mpp < card.mpp else cv2.INTER_LINEAR)
    pixels = pixels[: card.input_px, : card.input_px]
    colour = colour_of_fit(card.colour, fit_macenko(pixels.reshape(-1, 3)))
    window = np.full((1, 3, card.input_px, card.input_px), 255, np.uint8)
    window[0, :, : pixels.shape[0], : pixels.shape[1]] = pixels.transpose(2, 0, 1)
    return CalibrationWindow(window, colour)
