"""The whole plan of a drawn slide, and its true nuclei."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from muse_pipeline.core.types import Frame
from muse_pipeline.demo.cells import Cells, place_cells
from muse_pipeline.demo.field import PERIOD_UM, Field, plan_field
from muse_pipeline.demo.layout import Island, Layout, plan_layout
from muse_pipeline.demo.stamps import CLASSES, RED_CELL, Stamps, draw_stamps
from muse_pipeline.demo.texture import Texture, Window, smooth_noise
from muse_pipeline.nuclei.table import Nuclei

CELL_REACH_UM, EDGE_UM = 12.0, 9.0
TRUTH_RAYS = 32


@dataclass(frozen=True)
class Tissue:
    """All that is needed to paint a slide: as large in memory for a square centimetre as for a square millimetre.

    Attributes:
        layout: the glass.
        field: maps of the tissue that shows through the islands.
        stamps: the stock of nuclei.
        cells: where they lie in the field.
        fibres: channels fibre, thin fibre and cleft; they run along x.
        grain: channels fine and coarse, without direction.
        rag: unevenness of the outlines of islands.
        noise: (n, n, 3) of the camera, in grey levels.
    """

    layout: Layout
    field: Field
    stamps: Stamps
    cells: Cells
    fibres: Texture
    grain: Texture
    rag: Texture
    noise: np.ndarray


def plan_tissue(area_mm2: float, seed: int) -> Tissue:
    """Plan a slide with about ``area_mm2`` of tissue; everything follows from ``seed``, lengths are um."""
    layout_rng, stamp_rng, field_rng, cell_rng, texture_rng = np.random.default_rng(seed).spawn(5)
    stamps, field = draw_stamps(stamp_rng), plan_field(field_rng)
    return Tissue(
        layout=plan_layout(area_mm2, PERIOD_UM, layout_rng),
        field=field,
        stamps=stamps,
        cells=place_cells(field, stamps, cell_rng),
        fibres=_texture(1024, 0.375, ((7, 60), (2.4, 24), (6, 45)), texture_rng),
        grain=_texture(1024, 0.25, ((1.1, 1.1), (6, 6)), texture_rng),
        rag=Texture(smooth_noise(512, 24, texture_rng), 4.0),
        noise=texture_rng.normal(0, 1.3, (1024, 1024, 3)).astype(np.float32),
    )


def _texture(side: int, pixel_um: float, waves_um: tuple, rng: np.random.Generator) -> Texture:
    """One channel of noise for every (along y, along x) wavelength."""
    channels = [smooth_noise(side, (y / pixel_um, x / pixel_um), rng) for y, x in waves_um]
    return Texture(np.stack(channels, -1), pixel_um)


def cells_in(tissue: Tissue, island: Island, window: Window, reach_um: float) -> Cells:
    """Cells of one island whose centres lie in ``window`` or within ``reach_um`` of it, in um on the glass."""
    corner = np.array([window.x_um, window.y_um]) - reach_um
    span = np.array(window.span_um) + 2 * reach_um
    offset = np.mod(tissue.cells.xy_um - island.shift_um - corner, PERIOD_UM)
    cells = tissue.cells[(offset < span).all(1)]
    xy = offset[(offset < span).all(1)] + corner
    inside = island.inside_um(*(column[:, None].astype(np.float32) for column in xy.T), tissue.rag)[:, 0]
    return cells.moved_to(xy)[inside > EDGE_UM]


def true_nuclei(tissue: Tissue, window: Window) -> Nuclei:
    """The nuclei whose centres lie in ``window``, in level-0 pixels of ``window.mpp``."""
    parts = [cells_in(tissue, island, window, 0.0) for island in tissue.layout.islands if island.may_show(window)]
    empty = tissue.cells[:0]
    return Nuclei.concatenate([_nuclei(tissue, cells[cells.kind < RED_CELL], window.mpp) for cells in (*parts, empty)])


def _nuclei(tissue: Tissue, cells: Cells, mpp: float) -> Nuclei:
    rays = tissue.stamps.rays(cells.stamp, cells.angle, cells.mirror, cells.scale, TRUTH_RAYS)
    prob = np.eye(len(CLASSES), dtype=np.float32)[cells.kind]
    return Nuclei(cells.xy_um / mpp, Frame.LEVEL0, rays, cells.kind, prob=prob)
