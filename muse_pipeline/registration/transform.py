"""The affine map from an H&E slide to its partner.

Within the package, positions on both slides are in um from the corner of level 0; in files, they
are in absolute level-0 px. Users can provide landmarks, a matrix, or the transform.json of an
earlier registration.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.errors import LabelError, RegistrationError
from muse_pipeline.core.files import read_json, read_rows
from muse_pipeline.core.text import decimal_point
from muse_pipeline.core.types import SlideInfo

LANDMARK_COLUMNS = ("x", "y", "partner_x", "partner_y")
LEAST_LANDMARKS = 3
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf", re.IGNORECASE)
_NUMBERS = re.compile(r"(?:[\s\d.,;e+-]|nan|inf)+", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Transform:
    """A map from positions on the slide to positions on the partner."""

    # (2, 3) float64; matrix @ (x, y, 1) is a position on the partner, with x and y on the slide,
    # all in um
    matrix: ndarray

    def to_partner(self, um: ndarray) -> ndarray:
        """Map positions (..., 2) on the slide to the partner, both in um."""
        return np.asarray(um, float) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def to_slide(self, partner_um: ndarray) -> ndarray:
        """Map positions (..., 2) on the partner to the slide, both in um; the inverse of
        ``to_partner``.
        """
        return (np.asarray(partner_um, float) - self.matrix[:, 2]) @ np.linalg.inv(
            self.matrix[:, :2]
        ).T

    @property
    def is_mirrored(self) -> bool:
        """True if the partner shows the other side of the tissue."""
        return bool(np.linalg.det(self.matrix[:, :2]) < 0)

    @property
    def degrees(self) -> float:
        """Rotation of the partner in degrees, -180 to 180, clockwise on the screen."""
        sign = -1.0 if self.is_mirrored else 1.0
        (a, b), (c, d) = self.matrix[:, :2]
        # The matrix is about a rotation times diag(sign, 1); sine and cosine are averaged over its
        # two columns.
        return float(np.degrees(np.arctan2(sign * c - b, sign * a + d)))

    @property
    def scale(self) -> float:
        """Size of the tissue on the partner relative to the slide, both measured in um."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix[:, :2]))))

    def matrix_px(
        self, slide_mpp: tuple[float, float], partner_mpp: tuple[float, float]
    ) -> ndarray:
        """The matrix (2, 3) from absolute level-0 px to absolute level-0 px."""
        return self.matrix @ np.diag([*slide_mpp, 1.0]) / np.array(partner_mpp)[:, None]


def read_transform(
    content: dict[str, Any], slide_mpp: tuple[float, float], partner_mpp: tuple[float, float]
) -> Transform:
    """The transform in the content of a transform.json."""
    if content.get("bend"):
        raise ValueError("it bends the slide, which this version does not support")
    return Transform(matrix_in_um(np.array(content["matrix"], float), slide_mpp, partner_mpp))


def matrix_in_um(
    matrix_px: ndarray, slide_mpp: tuple[float, float], partner_mpp: tuple[float, float]
) -> ndarray:
    """Convert a matrix (2, 3) from level-0 px to level-0 px into one from um to um."""
    if (
        matrix_px.shape != (2, 3)
        or not np.isfinite(matrix_px).all()
        or abs(np.linalg.det(matrix_px[:, :2])) < 1e-9
    ):
        raise ValueError("the matrix is not an invertible map in two rows of three finite numbers")
    return matrix_px @ np.diag([*1 / np.array(slide_mpp), 1.0]) * np.array(partner_mpp)[:, None]


def read_given(
    path: Path, slide: SlideInfo, partner: SlideInfo, frame: str = "qupath"
) -> Transform:
    """Read a transform from slide to partner.

    The file is a ``.json`` written by `muse register`; a ``.csv`` of landmarks with the columns x,
    y, partner_x and partner_y; or a ``.csv`` or other text file with the numbers of a 2 x 3 or 3 x
    3 matrix. Landmarks and matrices are in ``frame``, as for ``qupath_offset_px``.
    """
    try:
        if path.suffix.lower() == ".json":
            return read_transform(read_json(path), slide.mpp, partner.mpp)
        offsets = [
            np.array(qupath_offset_px(info.bounds, frame), float) for info in (slide, partner)
        ]
        # An alignment file of Xenium Explorer contains only numbers, like any other matrix.
        if path.suffix.lower() == ".csv" and not _NUMBERS.fullmatch(
            path.read_text(encoding="utf-8-sig")
        ):
            return _fit_landmarks(_read_landmarks(path), slide, partner, offsets)
        matrix = _read_matrix(path.read_text(encoding="utf-8"))
        # If the frames start at a on the slide and b on the partner, [M t] maps level-0 px x to M
        # (x - a) + t + b.
        matrix[:, 2] += offsets[1] - matrix[:, :2] @ offsets[0]
        return Transform(matrix_in_um(matrix, slide.mpp, partner.mpp))
    except LabelError as error:
        raise RegistrationError(str(error)) from error
    except OSError as error:
        raise RegistrationError(
            f"{path}: cannot be read ({error.strerror}); give a transform.json, landmarks or a"
            " matrix"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RegistrationError(
            f"{path}: not a transform ({error}); give a transform.json, a .csv of landmarks, or a"
            " text file of a matrix"
        ) from error


def _read_landmarks(path: Path) -> ndarray:
    """(N, 4) x and y on the slide, then on the partner, in level-0 px of the file's frame."""
    separator, ((_, header), *rows) = read_rows(path, ", ".join(LANDMARK_COLUMNS))
    if not rows or not set(LANDMARK_COLUMNS) <= set(header):
        raise ValueError(f"its columns are not {', '.join(LANDMARK_COLUMNS)}")
    cells = [
        dict(zip(header, [decimal_point(cell, separator) for cell in row], strict=False))
        for _, row in rows
    ]
    points = np.array([[float(row.get(name, "")) for name in LANDMARK_COLUMNS] for row in cells])
    if len(points) < LEAST_LANDMARKS or not np.isfinite(points).all():
        raise ValueError(
            f"{len(points)} landmarks; at least {LEAST_LANDMARKS} are needed, all of them finite"
            " numbers"
        )
    return points


def _fit_landmarks(
    points: ndarray, slide: SlideInfo, partner: SlideInfo, offsets: list[ndarray]
) -> Transform:
    """The affine map that fits landmarks (N, 4) best."""
    source = (points[:, :2] + offsets[0]) * slide.mpp
    target = (points[:, 2:] + offsets[1]) * partner.mpp
    spread = np.linalg.svd(source - source.mean(0), compute_uv=False)
    if spread[1] < 0.01 * spread[0] or not spread[0]:
        raise ValueError("its landmarks lie on a line")
    matrix, *_ = np.linalg.lstsq(
        np.column_stack([source, np.ones(len(source))]), target, rcond=None
    )
    return Transform(matrix.T.copy())


def _read_matrix(text: str) -> ndarray:
    """(2, 3) matrix of the numbers in ``text``, row by row."""
    numbers = [float(number) for number in _NUMBER.findall(text)]
    if len(numbers) not in {6, 9}:  # decimal commas
        numbers = [
            float(number) for number in _NUMBER.findall(re.sub(r"(?<=\d),(?=\d)", ".", text))
        ] or numbers
    if len(numbers) == 9 and numbers[6:] == [0, 0, 1]:
        numbers = numbers[:6]
    if len(numbers) != 6:
        raise ValueError(
            f"{len(numbers)} numbers instead of 6 (2 x 3 matrix) or 9 (affine 3 x 3 matrix)"
        )
    if bad := [number for number in numbers if not np.isfinite(number)]:
        raise ValueError(f"the matrix contains {bad[0]}")
    return np.array(numbers).reshape(2, 3)
