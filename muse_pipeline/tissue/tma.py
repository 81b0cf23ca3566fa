"""The cores of a tissue microarray: round discs of tissue of one size, on a grid or in a row, found
in the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.core.errors import SlideError

WORK_UM = 16.0  # um per pixel of the mask in which cores are sought
MOST_UM = 2000.0  # largest radius of a core
LEAST_COVER = 0.1  # minimum fraction of tissue in the disc of a core that is present
LEAST_CORES = 4
COMPACT = 0.6  # a compact piece of tissue fills more than this fraction of the circle around it
TURN = 0.45  # tangent of the largest angle between the axes of the grid and of the slide
# largest distance of a core from its place in the grid, relative to the distance between cores
NEAR = 0.35


@dataclass(frozen=True)
class Core:
    """A core, or a position of the grid without one."""

    name: str  # letter of the row and number of the column, such as "B-7"
    centre_um: tuple[float, float]  # (x, y) from the corner of level 0
    is_missing: bool  # True if there is next to no tissue


def find_cores(mask: np.ndarray, mask_mpp: np.ndarray) -> tuple[list[Core], float]:
    """Find the cores in a tissue mask (h, w) bool with pixels of ``mask_mpp`` (2,) um.

    Returns all positions of the grid, row by row, and the radius of the cores in um.
    """
    height, width = (
        max(round(n * mpp / WORK_UM), 1) for n, mpp in zip(mask.shape, mask_mpp[::-1], strict=True)
    )
    tissue = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    radius = _find_radius(tissue)
    cover = cv2.filter2D(tissue, -1, _disc(radius), borderType=cv2.BORDER_CONSTANT)
    peaks = _find_peaks(cover, radius)
    column, row = np.round(peaks).astype(int).T
    index, origin, steps = _fit_grid(peaks, cover[row, column], radius)
    used = (index > _NOWHERE).all(1)
    shape = index[used].max(0) + 1 if used.any() else np.zeros(2, int)
    if used.sum() < LEAST_CORES or used.sum() < shape.prod() / 3:
        raise _no_grid(int(used.sum()))
    centres = {
        tuple(index): xy
        for index, xy in zip(index[used].tolist(), peaks[used].tolist(), strict=True)
    }
    cores = []
    for row in range(shape[1]):
        for column in range(shape[0]):
            xy = np.array(centres.get((column, row), origin + np.array([column, row]) @ steps))
            x, y = np.clip(np.round(xy).astype(int), 0, (width - 1, height - 1))
            um = (xy + 0.5) * np.array(mask.shape[::-1]) * mask_mpp / (width, height)
            cores.append(
                Core(
                    f"{_letters(row)}-{column + 1}",
                    tuple(um.tolist()),
                    bool(cover[y, x] < LEAST_COVER),
                )
            )
    radius_um = float(min(1.05 * radius, np.linalg.norm(steps, axis=1).min() / 2) * WORK_UM)
    present = [core for core in cores if not core.is_missing]
    if _share_within(present, radius_um, tissue) < 0.5:
        raise _no_grid(len(present))
    return cores, radius_um


_NOWHERE = -10_000
_SEEDS = 8


def _no_grid(n: int) -> SlideError:
    return SlideError(
        f"the tissue is not a grid of round cores of one size (cores found: {n}); draw the grid in "
        "QuPath (TMA > TMA dearrayer), export it and give it as `roi`, or leave out `tma`"
    )


def _find_radius(tissue: np.ndarray) -> float:
    """The radius of the cores, in pixels.

    This is the median radius of the circles around compact pieces of tissue: tears and holes do not
    change the circle around a core, and loose pieces are not compact. If cores touch, it is the
    radius of the largest circle in tissue.
    """
    solid = cv2.morphologyEx(
        (tissue > 0.5).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)
    )
    outlines, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    around = np.array([cv2.minEnclosingCircle(outline)[1] + 0.5 for outline in outlines])
    filled = np.array([cv2.contourArea(outline) for outline in outlines])
    compact = around[filled > COMPACT * np.pi * around**2]
    if len(compact) < LEAST_CORES:
        compact = cv2.distanceTransform(np.pad(solid, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max(
            keepdims=True
        )
    radius = float(np.median(compact[compact >= compact.max() / 2]))
    if not 3 <= radius <= MOST_UM / WORK_UM:
        raise _no_grid(0)
    return radius


def _disc(radius: float) -> np.ndarray:
    """(k, k) float32 disc whose sum is 1."""
    reach = int(np.ceil(radius))
    x, y = np.meshgrid(*2 * [np.arange(-reach, reach + 1)])
    disc = (x**2 + y**2 <= radius**2).astype(np.float32)
    return disc / disc.sum()


def _find_peaks(cover: np.ndarray, radius: float) -> np.ndarray:
    """(N, 2) float64 pixels (x, y) where a disc covers more tissue than anywhere nearby, one per
    core.
    """
    smooth = cv2.GaussianBlur(cover, (0, 0), radius / 4)
    window = (_disc(1.5 * radius) > 0).astype(np.uint8)
    peaks = (smooth == cv2.dilate(smooth, window)) & (cover > 2 * LEAST_COVER)
    _, _, _, centres = cv2.connectedComponentsWithStats(peaks.astype(np.uint8))
    return centres[1:].astype(float)


def _fit_grid(
    peaks: np.ndarray, cover: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Column and row (N, 2) of each position, ``_NOWHERE`` if off the grid; the grid's origin (2,)
    and steps (2, 2).
    """
    index = np.full(peaks.shape, _NOWHERE)
    steps = np.array([_step(peaks, radius, axis) for axis in (0, 1)])
    is_there = np.isfinite(steps).all(1)
    if is_there.sum() == 1:
        steps = _square(steps, int(is_there.argmax()))
    if len(peaks) < LEAST_CORES or not np.isfinite(steps).all():
        return index, np.zeros(2), steps
    for seed in np.argsort(-cover, kind="stable")[
        :_SEEDS
    ]:  # a grid that starts from debris stays small
        grown = _grow_grid(peaks, steps, int(seed))
        if (grown > _NOWHERE).all(1).sum() > (index > _NOWHERE).all(1).sum():
            index = grown
    for axis in (0, 1, 0, 1):
        _trim(index[:, axis], cover)
    index[(index == _NOWHERE).any(1)] = _NOWHERE
    used = np.flatnonzero((index > _NOWHERE).all(1))
    index[used] -= index[used].min(0)
    is_long = (
        index[used].max(0, initial=0) > 0
    )  # False for the direction across a single row or column
    design = np.column_stack([np.ones(len(used)), index[used][:, is_long]])
    origin, *steps[is_long] = np.linalg.lstsq(design, peaks[used], rcond=None)[0]
    return index, origin, steps if is_long.all() else _square(steps, int(is_long.argmax()))


def _square(steps: np.ndarray, axis: int) -> np.ndarray:
    """The steps (2, 2) of a grid of squares with the step of ``axis``."""
    x, y = steps[axis]
    return np.array([(x, y), (-y, x)] if axis == 0 else [(y, -x), (x, y)])


def _trim(line: np.ndarray, cover: np.ndarray) -> None:
    """Set the first and last rows or columns in ``line`` (N,) to ``_NOWHERE`` while they contain
    only debris.
    """
    for pick in (np.min, np.max):
        used = line > _NOWHERE
        while used.any() and cover[on := line == pick(line[used])].max() < 0.5:
            line[on] = _NOWHERE
            used = line > _NOWHERE


def _step(peaks: np.ndarray, radius: float, axis: int) -> np.ndarray:
    """Median vector (2,) from a core to the next core to the right (``axis`` 0) or below (1); NaN
    if there are none.
    """
    apart = peaks[None] - peaks[:, None]
    ahead, aside = apart[..., axis], abs(apart[..., 1 - axis])
    is_ahead = (ahead > 1.5 * radius) & (aside < TURN * ahead)
    distance = np.where(is_ahead, np.hypot(ahead, aside), np.inf)
    first = np.flatnonzero(np.isfinite(distance.min(1, initial=np.inf)))
    if not len(first):
        return np.full(2, np.nan)
    nearest = apart[first, distance[first].argmin(1)]
    length = np.linalg.norm(nearest, axis=1)
    return np.median(nearest[length < 1.4 * np.quantile(length, 0.25)], axis=0)


def _grow_grid(peaks: np.ndarray, steps: np.ndarray, seed: int) -> np.ndarray:
    """Column and row (N, 2) of the positions reached from ``seed`` in steps of the grid;
    ``_NOWHERE`` for the rest.
    """
    index = np.full(peaks.shape, _NOWHERE)
    index[seed], waiting = 0, [seed]
    moves = np.array(
        [(1, 0), (-1, 0), (0, 1), (0, -1), (2, 0), (-2, 0), (0, 2), (0, -2)]
    )  # 2: across a missing core
    reach = NEAR * np.linalg.norm(steps, axis=1).min()
    taken = {(0, 0)}
    while waiting:
        here = waiting.pop(0)
        for move in moves:
            there = index[here] + move
            distance = np.linalg.norm(peaks - peaks[here] - move @ steps, axis=1)
            nearest = int(distance.argmin())
            is_free = index[nearest, 0] == _NOWHERE and tuple(there.tolist()) not in taken
            if distance[nearest] < reach * max(abs(move)) and is_free:
                index[nearest] = there
                taken.add(tuple(there.tolist()))
                waiting.append(nearest)
    return index


def _share_within(cores: list[Core], radius_um: float, tissue: np.ndarray) -> float:
    inside = np.zeros(tissue.shape, np.uint8)
    for core in cores:
        x, y = (round(um / WORK_UM - 0.5) for um in core.centre_um)
        cv2.circle(inside, (x, y), round(radius_um / WORK_UM) + 1, 1, -1)
    return float((tissue * inside).sum() / tissue.sum())


def _letters(number: int) -> str:
    """A to Z, then AA, AB and so on."""
    return ("" if number < 26 else _letters(number // 26 - 1)) + chr(ord("A") + number % 26)
