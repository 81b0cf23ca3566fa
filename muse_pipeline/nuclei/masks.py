"""Instance masks: reading, writing, conversion to and from nuclei, and division of a mask into
nuclei.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from pathlib import Path

import cv2
import numpy as np

# its parts are loaded when first used, because loading takes longer than a small slide
import scipy
import shapely
from numpy import ndarray
from PIL import Image

from muse_pipeline.core.content import name_content
from muse_pipeline.core.coords import row_column_index_to_xy
from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.pictures import write_png
from muse_pipeline.core.text import one_line
from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.rays import ray_directions
from muse_pipeline.nuclei.table import Nuclei

_STEP_PX = 0.5
_STRIP_PX = 1 << 24  # pixels processed at a time


def label_image_to_nuclei(label_image: ndarray, mpp: tuple[float, float], n_rays: int) -> Nuclei:
    """Nuclei (frame: window) without classes of a label image (h, w), 0 for background, in the
    order of their numbers.

    A centre is the centroid of the pixels, or the innermost pixel if the centroid lies outside; a
    ray ends where the instance, interpolated between pixel centres, falls to one half.
    """
    ranks = _ranks(label_image)
    xy = _centres(ranks)
    return Nuclei(xy=xy, frame=Frame.WINDOW, rays=march_rays(ranks, xy, mpp, n_rays))


def _ranks(label_image: ndarray) -> ndarray:
    """(h, w): instances renumbered 1, 2, ... in ascending order of their numbers."""
    numbers, ranks = np.unique(label_image, return_inverse=True)
    # 0 is background, even if no pixel is 0
    return ranks.reshape(label_image.shape) + int(numbers[0] != 0)


def rings_to_labels(rings: ndarray, shape: tuple[int, int]) -> ndarray:
    """Paint rings (N, R, 2), in pixels, as labels 1..N into a (h, w) int32 mask; later rings cover
    earlier ones.

    A pixel belongs to a ring that contains its centre. Drawing libraries paint every pixel that an
    outline touches, half a pixel too much on each side, which adds an eighth to the area of a
    nucleus that is 16 px wide.
    """
    labels = np.zeros(shape, np.int32)
    height, width = shape
    for index, ring in enumerate(np.asarray(rings, float), 1):
        left, top = np.floor(ring.min(0)).astype(int).clip(0, (width, height))
        right, bottom = np.ceil(ring.max(0)).astype(int).clip(0, (width, height))
        y, x = np.mgrid[top:bottom, left:right] + 0.5
        labels[top:bottom, left:right][shapely.contains_xy(shapely.Polygon(ring), x, y)] = index
    return labels


def drop_small_labels(labels: ndarray, min_pixels: float) -> ndarray:
    """(h, w) int32: the labels that cover at least ``min_pixels``, renumbered 1..N in the same
    order.
    """
    kept = np.bincount(labels.ravel()) >= min_pixels
    kept[0] = False
    return np.where(kept, np.cumsum(kept), 0).astype(np.int32)[labels]


def number_areas(mask: ndarray, min_pixels: float) -> ndarray:
    """(h, w) int32: the connected non-zero areas of at least ``min_pixels``, numbered 1..N."""
    labels, _ = scipy.ndimage.label(mask, np.ones((3, 3)))
    return drop_small_labels(labels, min_pixels)


def label_image_to_polygons(label_image: ndarray) -> ndarray:
    """Polygons or multipolygons (N,) in px of the instances of a label image (h, w), with exact
    edges, by number.
    """
    row, left, right, number = _runs(label_image)
    boxes = shapely.box(left, row, right, row + 1)
    order = np.argsort(number, kind="stable")
    _, first = np.unique(number[order], return_index=True)
    return np.array(
        (
            [shapely.union_all(part) for part in np.split(boxes[order], first[1:])]
            if len(order)
            else []
        ),
        object,
    )


def _runs(label_image: ndarray) -> tuple[ndarray, ...]:
    """Row, left, right and number of every run of equal pixels in a row, except runs of 0.

    Runs are found strip by strip, because comparing a whole slide's pixels takes several times the
    memory of its mask.
    """
    n_rows = max(1, _STRIP_PX // max(label_image.shape[1], 1))
    strips = []
    for top in range(0, max(len(label_image), 1), n_rows):
        padded = np.pad(label_image[top : top + n_rows], ((0, 0), (1, 1)))
        row, left = np.nonzero(padded[:, 1:] != padded[:, :-1])  # a run begins or ends here
        number = padded[row, left + 1]
        # a run ends at the next change in its row, at the latest in the padding
        begins = np.flatnonzero(number)
        strips.append((row[begins] + top, left[begins], left[begins + 1], number[begins]))
    return tuple(np.concatenate(column) for column in zip(*strips, strict=True))


def _centres(ranks: ndarray) -> ndarray:
    padded, pixels = np.pad(ranks, 1), np.nonzero(ranks)
    rank = ranks[pixels] - 1
    n = int(rank.max(initial=-1)) + 1
    sums = np.stack([np.bincount(rank, index, minlength=n) for index in pixels], 1)
    xy = row_column_index_to_xy(sums / np.bincount(rank, minlength=n)[:, None])
    outside = np.flatnonzero(_share(padded, xy, np.arange(1, n + 1)) < 0.5)
    if len(outside):
        same = [padded == np.roll(padded, shift, axis) for axis in (0, 1) for shift in (1, -1)]
        # In an instance that is too thin to have an interior, all pixels have depth 1, and any of
        # them is chosen.
        interior = np.logical_and.reduce(same)[1:-1, 1:-1]
        depth = scipy.ndimage.distance_transform_edt(np.pad(interior, 1))[1:-1, 1:-1] + (ranks > 0)
        innermost = scipy.ndimage.maximum_position(depth, ranks, outside + 1)
        xy[outside] = row_column_index_to_xy(np.array(innermost))
    return xy


def march_rays(label_image: ndarray, xy: ndarray, mpp: tuple[float, float], n_rays: int) -> ndarray:
    """Rays (N, n_rays) float32 in um from centres ``xy`` (N, 2) to the edge of the nucleus around
    each centre.

    In the label image (h, w), i + 1 marks the nucleus of centre i. The rays are NaN for a centre
    outside its own nucleus.
    """
    padded = np.pad(label_image, 1)
    at_centre = _share(padded, xy, np.arange(1, len(xy) + 1))
    rays = np.full((len(xy), n_rays), np.nan, np.float32)
    inside = np.flatnonzero(at_centre >= 0.5)
    rays[inside] = _walk(padded, xy[inside], inside + 1, at_centre[inside], mpp, n_rays)
    return rays


def _walk(
    padded: ndarray,
    xy: ndarray,
    rank: ndarray,
    at_centre: ndarray,
    mpp: tuple[float, float],
    n_rays: int,
) -> ndarray:
    step_um = _STEP_PX * min(mpp)
    steps_px = ray_directions(n_rays) * step_um / np.asarray(mpp, float)  # (R, 2)
    owner, ray = np.divmod(np.arange(len(xy) * n_rays), n_rays)
    rays = np.zeros(len(owner), np.float32)
    walking, share = np.arange(len(owner)), at_centre[owner]
    n_steps = 0
    while len(walking):
        n_steps += 1
        here = _share(
            padded, xy[owner[walking]] + n_steps * steps_px[ray[walking]], rank[owner[walking]]
        )
        ended = here < 0.5
        beyond = (share[ended] - 0.5) / (share[ended] - here[ended])  # fraction of the last step
        rays[walking[ended]] = (n_steps - 1 + beyond) * step_um
        walking, share = walking[~ended], here[~ended]
    return rays.reshape(len(xy), n_rays)


def _share(padded: ndarray, xy: ndarray, rank: ndarray) -> ndarray:
    """Share (N,) of instance ``rank`` (N,) at ``xy`` (N, 2): 1 inside, 0 outside, linear between
    pixel centres.
    """
    # -0.5: pixel centres; +1: padding
    from_centre = np.clip(xy + 0.5, 0, np.array(padded.shape[::-1]) - 1 - 1e-9)
    corner = from_centre.astype(int)
    right, down = (from_centre - corner).T
    column, row = corner.T
    return (
        (padded[row, column] == rank) * (1 - right) * (1 - down)
        + (padded[row, column + 1] == rank) * right * (1 - down)
        + (padded[row + 1, column] == rank) * (1 - right) * down
        + (padded[row + 1, column + 1] == rank) * right * down
    )


MAX_PIXELS = 2_000_000_000  # 45,000 px per side, 8 GB with 32-bit numbers

# MAX_PIXELS is checked instead of Pillow's limit, with a clear message
Image.MAX_IMAGE_PIXELS = None


SPECK_PX = 20  # smaller areas that share the number of a nucleus are remnants of drawing


def read_label_image(path: Path, advice: str = "give each nucleus its own number") -> ndarray:
    """Read a mask as (h, w) integers, in which 0 is background and every other number marks one
    nucleus.

    The error about a mask that does not number its nuclei ends with ``advice``.
    """
    mask = read_mask(path)
    if mask.dtype == bool:
        raise LabelError(f"{path}: has one bit per pixel; {advice}")
    if mask.min(initial=0) < 0:
        raise LabelError(
            f"{path}: has the number {mask.min()}; instances count from 1, and 0 is background"
        )
    number = mask.max(initial=0)
    if number and np.isin(mask, (0, number)).all() and number_areas(mask, SPECK_PX).max() > 1:
        raise LabelError(f"{path}: gives all its nuclei the number {number}; {advice}")
    return mask


LARGEST_NUCLEUS_UM2 = 5_000.0  # a radius of 40 um; larger areas are annotations of tissue
WIDEST_NUCLEUS_UM = 100.0  # separate areas that together span more do not belong to one nucleus


def require_nuclei(path: Path, mask: ndarray, mpp: tuple[float, float]) -> None:
    """Reject the mask (h, w) in a file if one number, other than 0 for background, marks more than
    one nucleus.

    This happens if the background is not 0, or if numbers start over at the limit of 8 bits.
    """
    row, left, right, number = _runs(mask)
    order = np.argsort(number, kind="stable")
    numbers, first = np.unique(number[order], return_index=True)
    if not len(numbers):
        return
    row = row[order]
    left = left[order]
    right = right[order]
    covered = np.add.reduceat(right - left, first) * np.prod(mpp)
    low = np.stack([np.minimum.reduceat(edges, first) for edges in (left, row)], 1)
    high = np.stack([np.maximum.reduceat(edges, first) for edges in (right, row + 1)], 1)
    remedy = (
        "the background must be 0, and each nucleus must have its own number; more than 255 need 16"
        " bits"
    )
    if covered.max() > LARGEST_NUCLEUS_UM2:
        raise LabelError(
            f"{path}: the number {numbers[covered.argmax()]} covers {covered.max():,.0f} um2, more"
            f" than the {LARGEST_NUCLEUS_UM2:,.0f} um2 of any nucleus; {remedy}"
        )
    for index in np.flatnonzero(((high - low) * mpp).max(1) > WIDEST_NUCLEUS_UM):
        (x, y), (right_x, bottom) = low[index], high[index]
        if number_areas(mask[y:bottom, x:right_x] == numbers[index], SPECK_PX).max() > 1:
            raise LabelError(
                f"{path}: the number {numbers[index]} marks separate areas that together span more"
                f" than {WIDEST_NUCLEUS_UM:g} um; {remedy}"
            )


def read_mask(path: Path) -> ndarray:
    """Read a mask as (h, w) integers or bool."""
    try:
        mask = _decode(path)
    except LabelError:
        raise
    except FileNotFoundError as error:
        raise LabelError(f"{path}: no such file; correct its path") from error
    except Exception as error:  # decoders may raise any exception on foreign bytes
        broken = f"not readable as a mask ({one_line(error)}); make it again"
        raise LabelError(f"{path}: {name_content(path) or broken}") from error
    if mask.ndim != 2 or mask.dtype.kind not in "iub":
        raise LabelError(
            f"{path}: expected one channel of whole numbers, found {mask.dtype} of shape"
            f" {mask.shape}; convert it"
        )
    return mask


def _decode(path: Path) -> ndarray:
    """Read the content of a file; pictures with more than ``MAX_PIXELS`` are rejected."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    if suffix in {".tif", ".tiff"}:
        import tifffile

        with tifffile.TiffFile(path) as tiff:
            _require_size(path, tiff.series[0].shape)
            mask = tiff.series[0].asarray()
            return mask[0] if mask.ndim == 3 and len(mask) == 1 else mask
    with Image.open(path) as picture:
        _require_size(path, picture.size[::-1])
        return np.asarray(picture)


def _require_size(path: Path, shape: tuple[int, ...]) -> None:
    if prod(shape) > MAX_PIXELS:
        raise LabelError(
            f"{path}: {' x '.join(f'{side:,}' for side in shape[::-1])} pixels are too many to hold"
            " in memory; give outlines as GeoJSON instead"
        )


# subfolders that ``write_instances`` writes
IMAGES, INSTANCES, POINTS = "images", "instances", "points"


def write_instances(
    folder: Path, name: str, pixels: ndarray | None, instances: ndarray, words: Sequence[str]
) -> None:
    """Write an instance mask (16-bit PNG), points with classes and, if given, the picture, for an
    "instances" source.

    The subfolders ``IMAGES``, ``INSTANCES`` and ``POINTS`` are created in ``folder``. The class of
    each instance is one of ``words``, in ascending order of its number in the mask (h, w), and is
    written to the file of points at its centre.
    """
    for kind in (INSTANCES, POINTS) if pixels is None else (IMAGES, INSTANCES, POINTS):
        (folder / kind).mkdir(exist_ok=True)
    centres = _centres(_ranks(instances)) - 0.5  # in the file, 0 is the centre of the first pixel
    lines = [
        "x\ty\tclass",
        *(f"{x:.3f}\t{y:.3f}\t{word}" for (x, y), word in zip(centres, words, strict=True)),
    ]
    (folder / POINTS / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if pixels is not None:
        write_png(folder / IMAGES / f"{name}.png", pixels)
    write_png(folder / INSTANCES / f"{name}.png", instances.astype(np.uint16))


SMOOTH_UM = 0.75  # sigma; without smoothing, ragged outlines would make peaks
APART_UM = 2.5  # a peak this close to a higher one in the same component is joined to that one
MIN_NUCLEUS_UM2 = 9.0  # a disc 3.4 um in diameter; small lymphocytes have 20 um2


def cut_relief(mask: ndarray, relief: ndarray, mpp: float) -> ndarray:
    """Split a mask (h, w) bool into nuclei: (h, w) int32, 1..N in raster order of their peaks, 0
    elsewhere.

    The ``relief`` (h, w) is high in the middle of nuclei: every pixel climbs it to the peak of its
    nucleus. Components below 9 um2 are dropped.
    """
    reach = max(int(APART_UM / mpp), 1)
    # With the padding, all positions within ``reach`` exist; those beyond the picture are outside
    # the mask.
    framed = np.pad(mask, reach)
    inside = np.flatnonzero(framed)
    rising = np.argsort(relief[mask], kind="stable")
    pixels = inside[rising]  # below, a pixel is identified by its rank, which is unique
    rank = np.full(framed.shape, -1, np.int32)
    rank.flat[pixels] = np.arange(len(pixels), dtype=np.int32)
    component = cv2.connectedComponents(framed.astype(np.uint8))[1]
    flat, row = rank.ravel(), rank.shape[1]
    goal = np.arange(len(pixels), dtype=np.int32)  # a peak keeps its own rank
    for shift in (-row - 1, -row, 1 - row, -1, 1, row - 1, row, row + 1):
        np.maximum(goal, flat[pixels + shift], out=goal)
    goal = _join_peaks(goal, rank, pixels, component, reach)
    while not np.array_equal(further := goal[goal], goal):  # each pass doubles the number of steps
        goal = further
    labels = np.zeros(framed.size, np.int32)
    labels[pixels] = np.unique(pixels[goal], return_inverse=True)[1] + 1
    labels = labels.reshape(framed.shape)[reach:-reach, reach:-reach]
    return drop_small_labels(labels, MIN_NUCLEUS_UM2 / mpp**2)


def depth_um(mask: ndarray, mpp: float, smooth_um: float = SMOOTH_UM) -> ndarray:
    """(h, w) float32: distance in um to the edge of a mask (h, w), smoothed."""
    framed = np.pad(mask.astype(np.uint8), 1, mode="edge")  # nuclei continue beyond the picture
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1] * mpp
    return cv2.GaussianBlur(depth, (0, 0), smooth_um / mpp)


def _join_peaks(
    goal: ndarray, rank: ndarray, pixels: ndarray, component: ndarray, reach: int
) -> ndarray:
    """Move peaks to the highest pixel within ``reach`` pixels in their component of the mask."""
    peaks = np.flatnonzero(goal == np.arange(len(goal)))
    flat = rank.ravel()
    owner = component.ravel()
    highest = peaks.astype(np.int32)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy * dy + dx * dx <= reach * reach:
                there = pixels[peaks] + dy * rank.shape[1] + dx
                same = owner[there] == owner[pixels[peaks]]
                np.maximum(highest, np.where(same, flat[there], -1), out=highest)
    goal = goal.copy()
    goal[peaks] = highest
    return goal
