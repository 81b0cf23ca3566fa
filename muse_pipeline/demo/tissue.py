"""The cells of a synthetic slide: a stock of nuclei, the stamps, and the positions of their copies.

Stamps are synthesised once in fine detail; the nuclei of a slide are rotated and scaled copies of
them. Epithelial cells are in glands, spindle cells along fibres, and lymphocytes in crowds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator
from scipy.spatial import cKDTree

from muse_pipeline.demo.field import (
    FLOW_SLOPE,
    PERIOD_UM,
    RASTER_UM,
    Field,
    Island,
    Layout,
    Texture,
    Window,
    draw_outline,
    plan_field,
    plan_layout,
    smooth_noise,
    smoothstep,
)

CLASSES = ("Lymphocyte", "Epithelial", "Stroma")
LYMPHOCYTE, EPITHELIAL, STROMA = range(3)
STAMP_UM, STAMP_SIDE = 0.125, 168


@dataclass(frozen=True)
class Kind:
    """Properties of the nuclei of a class; ranges are (low, high)."""

    length_um: tuple[float, float]  # range of the length of the long axis
    aspect: tuple[float, float]  # range of the ratio of the short axis to the long one
    density: tuple[float, float]  # range of the optical density of haematoxylin inside
    membrane: float = 0.25  # additional optical density of the rim
    nucleoli: int = 0  # largest number of nucleoli


KINDS = (
    Kind((6.4, 8.4), (0.78, 1.00), (1.65, 2.15)),
    Kind((9.5, 14.0), (0.62, 0.92), (0.70, 1.35), membrane=0.60, nucleoli=2),
    Kind((10.5, 17.0), (0.22, 0.36), (1.10, 1.75)),
)
# contrast and size of grains of chromatin, and unevenness of outlines
CLUMPS, CLUMP_UM, WOBBLE = 0.35, 1.7, 0.1


@dataclass(frozen=True)
class Stamps:
    """A stock of S nuclei, the stamps; the long axis of each lies along x."""

    # (S, side, side, 2) uint8: coverage in steps of 1 / 255, and haematoxylin in steps of
    # ``DENSITY_STEP``
    density: ndarray
    axes_um: ndarray  # (S, 2) half the length of the long and of the short axis
    label: ndarray  # (S,) class, an index into ``CLASSES``

    def press(
        self,
        stamp: int,
        x_um: float,
        y_um: float,
        angle: float,
        mirror: int,
        scale: float,
        window: Window,
    ):
        """Resample a stamp on the lattice of ``window``: (h, w, 2) uint8, as in ``density``.

        The (row, column) of its corner, which comes first, may lie outside the window.
        """
        reach = 1.3 * self.axes_um[stamp, 0] * scale + 1.0
        column = int(np.floor((x_um - reach - window.x_um) / window.mpp))
        row = int(np.floor((y_um - reach - window.y_um) / window.mpp))
        side = int(np.ceil(2 * reach / window.mpp)) + 1
        zoom = window.mpp / (STAMP_UM * scale)
        cosine, sine = np.cos(angle) * zoom, np.sin(angle) * zoom
        dx = column + 0.5 - (x_um - window.x_um) / window.mpp
        dy = row + 0.5 - (y_um - window.y_um) / window.mpp
        middle = STAMP_SIDE / 2 - 0.5
        # The matrix maps pixels of the window to pixels of the stamp: it rotates them back, then
        # mirrors them.
        matrix = np.array(
            [
                [cosine, sine, cosine * dx + sine * dy + middle],
                [-mirror * sine, mirror * cosine, mirror * (cosine * dy - sine * dx) + middle],
            ]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return (row, column), cv2.warpAffine(self.density[stamp], matrix, (side, side), flags=flags)


DENSITY_STEP = 1 / 80


def draw_stamps(rng: Generator) -> Stamps:
    """Synthesise a stock with 80 stamps of every kind."""
    label = np.repeat(np.arange(len(KINDS)), 80)
    density, axes = (
        np.stack(column)
        for column in zip(*(_draw(KINDS[kind], rng) for kind in label), strict=True)
    )
    return Stamps(density, axes, label)


def _draw(kind: Kind, rng: Generator) -> tuple[ndarray, ndarray]:
    half = rng.uniform(*kind.length_um) / 2 * np.array([1, rng.uniform(*kind.aspect)])
    angles, radius = draw_outline(half, WOBBLE, 6, rng)
    offsets = (np.arange(STAMP_SIDE) + 0.5 - STAMP_SIDE / 2) * STAMP_UM
    x, y = np.meshgrid(offsets, offsets)
    edge = np.interp(np.arctan2(y, x), angles, radius, period=2 * np.pi)
    # depth along the ray, scaled to about the distance to the rim
    depth = (edge - np.hypot(x, y)) * half[1] / edge
    grains, fine = (
        smooth_noise(STAMP_SIDE, share * CLUMP_UM / STAMP_UM, rng) for share in (1, 0.45)
    )
    density = rng.uniform(*kind.density) * (1 + CLUMPS * (0.7 * np.tanh(grains) + 0.4 * fine))
    density += (
        kind.membrane
        * rng.uniform(0.6, 1.2)
        * np.exp(-(((depth - 0.32) / 0.32) ** 2))
        * (1 + 0.35 * grains)
    )
    for _ in range(rng.integers(0, kind.nucleoli + 1)):
        centre, size = rng.normal(0, 1.2, 2), rng.uniform(0.55, 1.05)
        away = np.hypot(x - centre[0], y - centre[1])
        density *= 1 - 0.35 * np.exp(-(((away - 1.9 * size) / (0.7 * size)) ** 2))
        density += 0.9 * smoothstep(away, 1.25 * size, 0.75 * size)
    cover = smoothstep(depth, -0.18, 0.18)
    channels = [cover * 255, np.minimum(cover * np.maximum(density, 0.15) / DENSITY_STEP, 255)]
    return np.round(np.stack(channels, -1)).astype(np.uint8), half


# The cells of the field.
CELL = np.dtype(
    [
        ("xy_um", float, 2),  # position of the centre
        ("label", int),  # class, an index into ``CLASSES``
        ("stamp", int),
        ("angle", float),  # rotation of the stamp, from +x towards +y
        ("mirror", int),  # -1 if the stamp is mirrored, otherwise 1
        ("scale", float),  # factor by which the stamp is enlarged, about 1
        ("strength", float),  # strength of the stain, about 1
    ]
)


def sample_cells(field: Field, stamps: Stamps, rng: Generator) -> ndarray:
    """Propose far too many cells of every class and keep a dense subset without overlap, as (N,)
    ``CELL``.
    """
    proposals = {LYMPHOCYTE: _lymphocytes, EPITHELIAL: _epithelium, STROMA: _spindles}
    proposed = [propose(field, rng) for propose in proposals.values()]
    xy, angle, rank = (np.concatenate(columns) for columns in zip(*proposed, strict=True))
    label = np.repeat(list(proposals), [len(columns[0]) for columns in proposed])
    n = len(xy)
    cells = np.empty(n, CELL)
    cells["xy_um"], cells["label"], cells["mirror"] = xy, label, rng.choice([-1, 1], n)
    # rounded, because the last digits of filtered maps differ between runs
    cells["angle"] = angle.round(3)
    cells["stamp"] = rng.integers(0, (stamps.label == LYMPHOCYTE).sum(), n) + np.searchsorted(
        stamps.label, label
    )
    cells["scale"] = rng.normal(1, 0.05, n).clip(0.88, 1.12)
    cells["strength"] = rng.normal(1, 0.11, n).clip(0.7, 1.3) * np.where(
        rng.random(n) < 0.06, 0.62, 1
    )
    return cells[_without_overlap(cells, stamps, rank)]


# positions (N, 2), angles (N,), and ranks (N,), lowest first
Proposed = tuple[ndarray, ndarray, ndarray]


def _epithelium(field: Field, rng: Generator) -> Proposed:
    xy = _jittered_lattice(5.6, 2.0, rng)
    depth, hollow, *_ = _at(field.shape, xy)
    xy = xy[(depth > 5) & (hollow < -5)]
    depth = depth[(depth > 5) & (hollow < -5)]
    outwards = _direction(field.shape.values[..., 0], xy)
    # so that the basal row is filled first
    row_of_cells = np.abs(depth - rng.normal(8, 1.0, len(xy)))
    angle = outwards + rng.normal(0, 0.3, len(xy)) + (depth > 14) * rng.uniform(-1.2, 1.2, len(xy))
    return xy, angle, np.minimum(row_of_cells, 6) + rng.uniform(0, 3, len(xy))


def _lymphocytes(field: Field, rng: Generator) -> Proposed:
    xy = _jittered_lattice(8.4, 1.3, rng)
    depth, hollow, *_ = _at(field.shape, xy)
    crowd = _at(field.state, xy)[0]
    likely = np.where(depth < -3, 0.03 + 0.97 * crowd**1.5, 0.02 * (depth > 5))
    xy = xy[(rng.random(len(xy)) < likely) & (hollow < -4)]
    # The ranks place lymphocytes after most spindle cells, but before the last gaps in the
    # epithelium are filled.
    return xy, rng.uniform(0, 2 * np.pi, len(xy)), rng.uniform(1.5, 8, len(xy))


def _spindles(field: Field, rng: Generator) -> Proposed:
    xy = rng.uniform(0, PERIOD_UM, (34_000, 2))
    depth, _, _, loose = _at(field.shape, xy)
    crowd = _at(field.state, xy)[0]
    xy = xy[rng.random(len(xy)) < (depth < -3) * (0.45 + 0.5 * loose) * (1 - 0.75 * crowd)]
    along = _direction(field.shape.values[..., 2], xy, FLOW_SLOPE) + np.pi / 2
    return xy, along + rng.normal(0, 0.16, len(xy)), rng.uniform(0, 2, len(xy))


def _jittered_lattice(spacing_um: float, jitter_um: float, rng: Generator) -> ndarray:
    """Positions (N, 2) in um that cover the field more evenly than random ones."""
    columns = round(PERIOD_UM / spacing_um)
    rows = 2 * round(PERIOD_UM / (spacing_um * 3**0.5))
    row, column = np.indices((rows, columns)).reshape(2, -1)
    xy = np.stack([(column + row % 2 / 2) * PERIOD_UM / columns, row * PERIOD_UM / rows], -1)
    return np.mod(xy + rng.normal(0, jitter_um, xy.shape), PERIOD_UM)


def _at(texture: Texture, xy: ndarray) -> ndarray:
    """Values (C, N) of the channels of a map at positions (N, 2) in um."""
    column, row = (xy / RASTER_UM).astype(int).T
    return texture.values[row, column].T


def _direction(values: ndarray, xy: ndarray, slope_y: float = 0.0) -> ndarray:
    """Angle of steepest ascent of ``values + slope_y * y`` at positions (N, 2) in um."""
    column, row = (xy / RASTER_UM).astype(int).T
    side = len(values)
    dx = values[row, (column + 2) % side] - values[row, column - 2]
    dy = values[(row + 2) % side, column] - values[row - 2, column]
    return np.arctan2(dy + 4 * RASTER_UM * slope_y, dx)


def _without_overlap(cells: ndarray, stamps: Stamps, rank: ndarray) -> ndarray:
    """(N,) bool: True for cells that do not overlap a kept cell with a lower ``rank``.

    A cell is represented by three discs along its long axis.
    """
    long, short = stamps.axes_um[cells["stamp"]].T * cells["scale"]
    axis = np.stack([np.cos(cells["angle"]), np.sin(cells["angle"])], -1) * (long - short)[:, None]
    discs = np.mod(
        np.concatenate([cells["xy_um"] + shift for shift in (0, -axis, axis)]), PERIOD_UM
    )
    radius = np.tile(short, 3)
    pairs = cKDTree(discs, boxsize=PERIOD_UM).query_pairs(2 * radius.max(), output_type="ndarray")
    away = np.abs(discs[pairs[:, 0]] - discs[pairs[:, 1]])
    away = np.hypot(*np.minimum(away, PERIOD_UM - away).T)
    first, second = (pairs[away < 0.96 * radius[pairs].sum(1)] % len(cells)).T
    winner, loser = np.where(rank[first] < rank[second], (first, second), (second, first))
    is_kept = np.ones(len(cells), bool)
    # in this order, it is known whether the winner itself is kept
    for pair in np.argsort(rank[winner]):
        if is_kept[winner[pair]] and winner[pair] != loser[pair]:
            is_kept[loser[pair]] = False
    return is_kept


CELL_REACH_UM, EDGE_UM = 12.0, 9.0


@dataclass(frozen=True)
class Tissue:
    """The plan of a slide; its size in memory does not depend on the area of the tissue.

    Attributes:
        layout: layout of the glass.
        field: maps of the tissue.
        stamps: stock of nuclei.
        cells: cells of the field, (N,) ``CELL``.
        fibres: texture with the channels fibre, thin fibre and cleft, all stretched along x.
        grain: isotropic texture with the channels fine and coarse.
        rag: noise that makes the outlines of islands ragged.
        noise: (n, n, 3) noise of the camera, in grey levels.
    """

    layout: Layout
    field: Field
    stamps: Stamps
    cells: ndarray
    fibres: Texture
    grain: Texture
    rag: Texture
    noise: ndarray


@contextmanager
def without_ipp() -> Iterator[None]:
    """Do not use Intel's IPP in this thread, because the last bits of its results depend on memory
    alignment.
    """
    is_used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    try:
        yield
    finally:
        cv2.ipp.setUseIPP(is_used)


@without_ipp()
def plan_tissue(area_mm2: float, seed: int) -> Tissue:
    """Plan a slide with about ``area_mm2`` of tissue."""
    # Each part has its own random stream, so that a change to one part does not affect the other
    # parts.
    layout_rng, stamp_rng, field_rng, cell_rng, texture_rng = np.random.default_rng(seed).spawn(5)
    stamps, field = draw_stamps(stamp_rng), plan_field(field_rng)
    return Tissue(
        layout=plan_layout(area_mm2, PERIOD_UM, layout_rng),
        field=field,
        stamps=stamps,
        cells=sample_cells(field, stamps, cell_rng),
        fibres=_texture(0.375, ((7, 60), (2.4, 24), (6, 45)), texture_rng),
        grain=_texture(0.25, ((1.1, 1.1), (6, 6)), texture_rng),
        rag=Texture(smooth_noise(512, 24, texture_rng), 4.0),
        noise=texture_rng.normal(0, 1.3, (1024, 1024, 3)).astype(np.float32),
    )


def _texture(pixel_um: float, waves_um: tuple, rng: Generator) -> Texture:
    """A texture with a channel of noise for each wavelength (along y, along x)."""
    channels = [smooth_noise(1024, (y / pixel_um, x / pixel_um), rng) for y, x in waves_um]
    return Texture(np.stack(channels, -1), pixel_um)


def cells_in(tissue: Tissue, island: Island, window: Window, reach_um: float = 0.0) -> ndarray:
    """Cells of an island whose centres lie within ``reach_um`` of ``window``; their positions are
    on the glass.
    """
    corner = np.array([window.x_um, window.y_um]) - reach_um
    size = np.array(window.size_um) + 2 * reach_um
    offset = np.mod(tissue.cells["xy_um"] - island.shift_um - corner, PERIOD_UM)
    is_near = (offset < size).all(1)
    cells = tissue.cells[is_near]
    cells["xy_um"] = offset[is_near] + corner
    inside = island.inside_um(
        *(column[:, None].astype(np.float32) for column in cells["xy_um"].T), tissue.rag
    )[:, 0]
    return cells[inside > EDGE_UM]
