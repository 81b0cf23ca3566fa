"""Transforms given by the user: landmarks, a matrix, or the transform.json of an earlier registration."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.errors import RegistrationError
from muse_pipeline.core.files import read_json
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.registration.transform import Transform, matrix_in_um

LANDMARK_COLUMNS = ("x", "y", "partner_x", "partner_y")
LEAST_LANDMARKS = 3
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def read_given(path: Path, slide: SlideInfo, partner: SlideInfo, frame: str = "qupath") -> Transform:
    """Read a transform from slide to partner.

    Args:
        path: a ``.json`` of `muse register`, a ``.csv`` of landmarks with the columns x, y, partner_x, partner_y, or
            any other text of a 2 x 3 or 3 x 3 matrix.
        slide: the H&E slide.
        partner: its partner.
        frame: frame of the positions of landmarks and matrices (``qupath_offset_px``).

    Raises:
        RegistrationError: the file cannot be used.
    """
    try:
        if path.suffix.lower() == ".json":
            return Transform.from_dict(read_json(path), slide.mpp, partner.mpp)
        offsets = [np.array(qupath_offset_px(info.bounds, frame), float) for info in (slide, partner)]
        if path.suffix.lower() == ".csv":
            return _fit_landmarks(_read_landmarks(path), slide, partner, offsets)
        matrix = _read_matrix(path.read_text(encoding="utf-8"))
        matrix[:, 2] += offsets[1] - matrix[:, :2] @ offsets[0]
        return Transform(matrix_in_um(matrix, slide.mpp, partner.mpp))
    except OSError as error:
        raise RegistrationError(f"{path}: cannot be read ({error.strerror}); give a transform's file") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RegistrationError(
            f"{path}: is no transform ({error}); give a transform.json, a .csv of landmarks or a matrix in text"
        ) from error


def _read_landmarks(path: Path) -> np.ndarray:
    """(N, 4) positions on slide and partner in level-0 px."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    if not rows or not set(LANDMARK_COLUMNS) <= set(rows[0]):
        raise ValueError(f"its columns are not {', '.join(LANDMARK_COLUMNS)}")
    points = np.array([[float(row[name]) for name in LANDMARK_COLUMNS] for row in rows])
    if len(points) < LEAST_LANDMARKS or not np.isfinite(points).all():
        raise ValueError(f"{len(points)} landmarks where {LEAST_LANDMARKS} or more are needed, all of them numbers")
    return points


def _fit_landmarks(points: np.ndarray, slide: SlideInfo, partner: SlideInfo, offsets: list[np.ndarray]) -> Transform:
    """The affine map that fits landmarks (N, 4) best."""
    source, target = (points[:, :2] + offsets[0]) * slide.mpp, (points[:, 2:] + offsets[1]) * partner.mpp
    spread = np.linalg.svd(source - source.mean(0), compute_uv=False)
    if spread[1] < 0.01 * spread[0] or not spread[0]:
        raise ValueError("its landmarks lie on one line")
    matrix, *_ = np.linalg.lstsq(np.column_stack([source, np.ones(len(source))]), target, rcond=None)
    return Transform(matrix.T.copy())


def _read_matrix(text: str) -> np.ndarray:
    """(2, 3) of the numbers in ``text``, row by row."""
    numbers = [float(number) for number in _NUMBER.findall(text)]
    if len(numbers) == 9 and numbers[6:] == [0, 0, 1]:
        numbers = numbers[:6]
    if len(numbers) != 6:
        raise ValueError(f"{len(numbers)} numbers, not the 6 of a 2 x 3 or the 9 of an affine 3 x 3 matrix")
    return np.array(numbers).reshape(2, 3)
