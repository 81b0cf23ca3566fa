"""All features of a slide's nuclei, measured part by part from the image and the nuclei around each
part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray

from muse_pipeline.core.coords import level0_to_work
from muse_pipeline.core.provenance import FeatureRecord
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.features.catalogue import CELL, DAB_OF_CELL, features_of
from muse_pipeline.features.cells import find_cells, measure_area
from muse_pipeline.features.densities import (
    RIM_UM,
    RING_UM,
    ROW_STEP,
    cross_rows,
    fill,
    find_zones,
    mean_densities,
    measure_densities,
    measure_texture,
    stain_tables,
)
from muse_pipeline.features.neighbours import (
    REACH_UM,
    measure_edge_distance,
    measure_neighbours,
    with_surroundings,
)
from muse_pipeline.nuclei.parquet import CELL_RAYS
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.shape import SHAPE_COLUMNS, area_and_moments, measure_shapes
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.store.store import Store
from muse_pipeline.tissue.mask import KeptArea
from muse_pipeline.tissue.stain import TEXTBOOK, MacenkoFit

# pixels farther from a nucleus' centre are left out, so that only nearby nuclei can touch
MAX_RAY_UM = 24.0
FIELD_PX = 1500  # longest side of a field, the area that is read at once
# Number of nuclei whose pixels are held at once, so that they fit in the CPU's cache; texture takes
# more memory.
AT_ONCE, AT_ONCE_WITH_TEXTURE = 512, 256
CACHED_CHUNKS = 64  # 50 MB, because adjacent rows of fields share chunks


@dataclass(frozen=True)
class FeatureSettings:
    """Settings for the features of a slide."""

    chosen: str  # name of the set of features, "basic" or "all"
    store: Store  # image in which the nuclei were detected
    fit: MacenkoFit | None  # Macenko's fit of the slide's stains; None for textbook stains
    expand_um: float | None = None  # distance by which nuclei grow into cells; None for no cells


class FeatureMeter:
    """Measures the nuclei of a slide; safe to call from several threads.

    Other nuclei affect the features of a nucleus, whose columns are ``names``, up to a distance of
    ``reach_um``. The stain vectors ``brown`` (3, 3) of immunohistochemistry, DAB second, serve to
    measure DAB in cells; None for other stains.
    """

    def __init__(
        self,
        settings: FeatureSettings,
        info: SlideInfo,
        kept: KeptArea,
        classes: Sequence[str],
        brown: ndarray | None = None,
    ):
        self.settings = settings
        self.info = info
        self.kept = kept
        self.classes = tuple(classes)
        self.store = settings.store
        self.store.keep_chunks(CACHED_CHUNKS)
        features = features_of(settings.chosen, classes)
        self.names = tuple(feature.name for feature in features)
        self.groups = {feature.group for feature in features}
        if settings.expand_um:
            of_cells = CELL if brown is None else (*CELL, *DAB_OF_CELL)
            self.names += (*(feature.name for feature in of_cells), CELL_RAYS)
        # pixels are measured up to this far outside nuclei
        self.margin_um = max(RING_UM, settings.expand_um or 0)
        self.reach_um = (
            REACH_UM if "neighbours" in self.groups else 2 * (MAX_RAY_UM + self.margin_um)
        )
        self._stains = TEXTBOOK if settings.fit is None else settings.fit.stains
        self._tables = stain_tables(self._stains)
        self._brown = brown

    def describe(self) -> FeatureRecord:
        """The record of the features for the provenance of the table."""
        source = "textbook" if self.settings.fit is None else "slide"
        stains = {"source": source, "vectors": np.round(self._stains, 6).tolist()}
        return FeatureRecord(
            self.settings.chosen, self.store.mpp, stains, expand_um=self.settings.expand_um
        )

    def measure(
        self, nuclei: Nuclei, others: Nuclei, rings: ndarray, shapes: dict[str, ndarray]
    ) -> dict[str, ndarray]:
        """The columns ``names`` of nuclei (frame: level0), (N,) each, but (N, R) for ``cell_rays``;
        NaN if undefined.

        All other nuclei within ``reach_um`` are ``others``. The outlines ``rings`` (N, R, 2) are in
        level-0 px, and their ``shapes`` come from ``nuclei.shape.measure_shapes``.
        """
        info = self.info
        columns = measure_form(rings, info.mpp, shapes)
        cells = None
        if self.settings.expand_um:
            cells = find_cells(nuclei, others, self.settings.expand_um, info, self.kept)
            columns |= measure_area(cells, shapes)
        columns |= self._measure_pixels(nuclei, others, cells)
        if "neighbours" in self.groups:
            um, others_um = (part.xy * np.asarray(info.mpp) for part in (nuclei, others))
            columns |= measure_neighbours(um, nuclei.label, others_um, others.label, self.classes)
            columns["neighbours_tissue_edge_um"] = measure_edge_distance(
                nuclei.xy, self.kept, info.mpp
            )
        return {name: columns[name] for name in self.names}

    def _measure_pixels(
        self, nuclei: Nuclei, others: Nuclei, cells: ndarray | None
    ) -> dict[str, ndarray]:
        xy, others_xy = (
            level0_to_work(part.xy, self.info.mpp, self.store.mpp) for part in (nuclei, others)
        )
        all_xy = np.concatenate([xy, others_xy])
        all_rays = np.minimum(np.concatenate([nuclei.rays, others.rays]), MAX_RAY_UM)
        radius = all_rays.max(1, initial=0) / self.store.mpp
        most = MAX_RAY_UM + self.margin_um
        all_low, all_high = all_xy - radius[:, None], all_xy + radius[:, None]
        parts, fields = [], _fields(xy, radius[: len(xy)])
        for field in fields:
            margin = self.margin_um / self.store.mpp + 2
            low = np.maximum(np.floor(all_low[field].min(0) - margin), 0).astype(int)
            # The rows that are measured in a cell must not depend on the field.
            low[1] -= low[1] % ROW_STEP
            high = np.minimum(np.ceil(all_high[field].max(0) + margin), self.store.size_px).astype(
                int
            )
            near = ((all_high >= low) & (all_low <= high)).all(1)
            near[field] = False
            own = (
                xy[field],
                all_rays[field],
                None if cells is None else np.minimum(cells[field], most),
            )
            parts.append(self._measure_field(own, all_xy[near], all_rays[near], low, high))
        order = np.concatenate(fields)
        columns = {name: np.empty(len(xy)) for name in parts[0]}
        for name, values in columns.items():
            values[order] = np.concatenate([part[name] for part in parts])
        return columns

    def _measure_field(
        self,
        own: tuple[ndarray, ndarray, ndarray | None],
        others_xy: ndarray,
        others_rays: ndarray,
        low: ndarray,
        high: ndarray,
    ) -> dict[str, ndarray]:
        """Features of nuclei from the pixels between ``low`` and ``high``; all positions are in
        work px.

        ``own`` has the nuclei's positions, rays, and rays of their cells.
        """
        xy, rays, cells = own
        width, height = high - low
        image = self.store.mpp, low, (int(height), int(width))
        at_once = AT_ONCE_WITH_TEXTURE if "texture" in self.groups else AT_ONCE
        groups = [slice(start, start + at_once) for start in range(0, len(xy), at_once)]
        zones = [find_zones(xy[group], rays[group], *image) for group in groups]
        taken = np.zeros(height * width, bool)
        others = fill(cross_rows(others_xy, others_rays, *image))
        for nuclei in (*(group.nucleus for group in zones), others):
            taken[nuclei.pixel] = True
        planes = self.store.read_planes(tuple(low), (width, height))
        rows = None if cells is None else np.ascontiguousarray(planes[:, ::ROW_STEP])
        parts = []
        for group, nuclei in zip(zones, groups, strict=True):
            free = group.ring.where(~taken.take(group.ring.pixel))
            parts.append(measure_densities(replace(group, ring=free), planes, self._tables))
            if cells is not None:  # without ``taken``, because cells do not contain other nuclei
                parts[-1] |= self._measure_cells([values[nuclei] for values in own], image, rows)
            if "texture" in self.groups:
                parts[-1] |= measure_texture(group.nucleus, planes, self._tables[0], self.store.mpp)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _measure_cells(
        self, own: Sequence[ndarray], image: tuple[float, ndarray, tuple[int, int]], rows: ndarray
    ) -> dict[str, ndarray]:
        """Stains of cells, from arguments as in ``_measure_field`` and the rows to measure."""
        xy, rays, cells = own

        def measure_between(*edges: ndarray) -> ndarray:
            crossings = (cross_rows(xy, edge, *image, ROW_STEP) for edge in edges)
            return mean_densities(fill(*crossings), rows)

        cytoplasm = measure_between(cells, rays)
        amounts = {
            f"cytoplasm_{name}_mean": cytoplasm @ share
            for name, share in zip("he", _shares(self._stains), strict=True)
        }
        if self._brown is None:
            return amounts
        # where in the cell its membrane runs is not known: the ring with most DAB is taken
        rings = []
        for distance in np.arange(0, self.settings.expand_um, RIM_UM):
            inner = np.maximum(np.minimum(rays + distance, cells - RIM_UM), rays)
            ring = measure_between(np.minimum(inner + RIM_UM, cells), inner)
            rings.append(_measure_dab(ring, self._brown))
        dab = _measure_dab(cytoplasm, self._brown), np.fmax.reduce(rings)
        return amounts | {
            feature.name: amount for feature, amount in zip(DAB_OF_CELL, dab, strict=True)
        }


def _measure_dab(density: ndarray, stains: ndarray) -> ndarray:
    """Amounts (N,) of the second of three ``stains`` (3, 3) in densities (N, 3).

    Where the third stain is negative, only two are separated, as in nuclei; a third at right angles
    to the others is a residual.
    """
    _, dab, third = (density @ share for share in _shares(stains))
    two = density @ _shares(stains[:2])[1]
    return np.where((third < 0) | np.allclose(stains[:2] @ stains[2], 0), two, dab)


def _shares(stains: ndarray) -> ndarray:
    """(S, 3) weights: ``density @ weights[s]`` is the least-squares amount of stain s of ``stains``
    (S, 3).
    """
    return np.linalg.pinv(np.asarray(stains, float)).T


def measure_slide(meter: FeatureMeter, nuclei: Nuclei) -> dict[str, ndarray]:
    """``SHAPE_COLUMNS`` and the meter's columns for all nuclei of a slide (frame: level0), in the
    nuclei's order.
    """
    columns = {name: np.full(len(nuclei), np.nan) for name in (*SHAPE_COLUMNS, *meter.names)}
    by_y = np.argsort(nuclei.xy[:, 1], kind="stable")
    y = level0_to_work(nuclei.xy, meter.info.mpp, meter.store.mpp)[by_y, 1]
    ends = np.flatnonzero(np.diff(y // FIELD_PX)) + 1
    parts = np.split(by_y, ends) if len(by_y) else []
    reach = meter.reach_um / np.asarray(meter.info.mpp)
    with_others = with_surroundings((nuclei[part] for part in parts), reach, back_px=0)
    for part, (own, others) in zip(parts, with_others, strict=True):
        rings = rays_to_rings(own.xy, own.rays, meter.info.mpp)
        shapes = measure_shapes(rings, meter.info.mpp)
        for name, values in (shapes | meter.measure(own, others, rings, shapes)).items():
            columns[name][part] = values
    return columns


def _fields(xy: ndarray, radius: ndarray) -> list[ndarray]:
    """Divide positions (N, 2) into fields: the indices in each field, sorted by ``radius`` (N,).

    Fields divide the box around all positions evenly, with sides of up to ``FIELD_PX``.
    """
    low, high = xy.min(0), xy.max(0)
    n = np.ceil((high - low + 1) / FIELD_PX).astype(int)
    column, row = np.floor((xy - low) / (high - low + 1) * n).astype(int).T
    key = row * n[0] + column
    order = np.lexsort((radius, key))
    return np.split(order, np.flatnonzero(np.diff(key[order])) + 1)


def measure_form(
    rings: ndarray, mpp: tuple[float, float], shapes: Mapping[str, ndarray]
) -> dict[str, ndarray]:
    """The features of the group *shape*, (N,) each, of outlines (N, V, 2) in pixels without a
    repeated last vertex.

    The ``shapes`` of the same outlines come from ``nuclei.shape.measure_shapes``.
    """
    x, y = np.moveaxis((rings - rings[:, :1]) * np.asarray(mpp, float), -1, 0).copy()
    area, perimeter = (np.asarray(shapes[name], float) for name in ("area_um2", "perimeter_um"))
    width, height = (np.ptp(axis, 1) for axis in (x, y))
    with np.errstate(divide="ignore", invalid="ignore"):
        xx, yy, xy = area_and_moments(x, y)[1].T
        return {
            "shape_equivalent_diameter_um": np.sqrt(4 * area / np.pi),
            "shape_feret_um": _largest_distance(x, y),
            "shape_orientation": (
                np.arctan2(2 * xy, yy - xx) / 2
            ),  # from the downward axis, positive to the right
            "shape_circularity": 4 * np.pi * area / perimeter**2,
            "shape_extent": area / (width * height),
        }


def _largest_distance(x: ndarray, y: ndarray) -> ndarray:
    """(N,) Feret diameters: the largest distance between two of the vertices ``x``, ``y`` (N,
    V).
    """
    n_vertices = x.shape[1]
    x, y = (
        np.concatenate([axis, axis[:, : n_vertices // 2]], 1).astype(np.float32) for axis in (x, y)
    )
    largest = np.zeros((len(x), n_vertices), np.float32)
    for step in range(1, n_vertices // 2 + 1):
        ahead = slice(step, step + n_vertices)
        across = (x[:, ahead] - x[:, :n_vertices]) ** 2 + (y[:, ahead] - y[:, :n_vertices]) ** 2
        np.maximum(largest, across, out=largest)
    return np.sqrt(largest.max(1))
