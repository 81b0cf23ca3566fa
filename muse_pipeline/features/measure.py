"""All features of a slide's nuclei, part by part, from its image and what surrounds each part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from muse_pipeline.core.coords import level0_to_work
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.features.catalogue import features_of
from muse_pipeline.features.densities import measure_densities, split_stain, stain_tables
from muse_pipeline.features.neighbours import REACH_UM, measure_edge_distance, measure_neighbours
from muse_pipeline.features.shape import measure_form
from muse_pipeline.features.texture import measure_texture
from muse_pipeline.features.zones import RIM, RING, RING_UM, ZonePixels, find_zones
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.store.store import Store
from muse_pipeline.tissue.mask import KeptArea
from muse_pipeline.tissue.stain import TEXTBOOK, MacenkoFit

MAX_RAY_UM = 24.0  # pixels further from the centre count as outside: so what may touch a nucleus is near it
FIELD_PX = 1024  # side of what is measured at once
CACHED_CHUNKS = 64  # 50 MB: a row of fields shares its chunks with the next one


@dataclass(frozen=True)
class FeatureSettings:
    """What the features of a slide are measured with.

    Attributes:
        chosen: set of features, "basic" or "all".
        store: the image that the nuclei were found in.
        fit: of the slide's stains; None for those of the textbook.
    """

    chosen: str
    store: Store
    fit: MacenkoFit | None

    def meter(self, info: SlideInfo, kept: KeptArea, classes: Sequence[str]) -> FeatureMeter:
        """What measures the nuclei of these classes in the tissue of the slide."""
        return FeatureMeter(self, info, kept, classes)


class FeatureMeter:
    """Measures the nuclei of one slide; safe to call from several threads.

    Args:
        settings: what to measure and in which image.
        info: the slide.
        kept: its tissue.
        classes: names of the classes of nuclei.

    Attributes:
        names: of the columns.
        reach_um: how far around a nucleus other nuclei count.
    """

    def __init__(self, settings: FeatureSettings, info: SlideInfo, kept: KeptArea, classes: Sequence[str]):
        self.settings, self.info, self.kept, self.classes = settings, info, kept, tuple(classes)
        self.store = settings.store
        self.store.keep_chunks(CACHED_CHUNKS)
        features = features_of(settings.chosen, classes)
        self.names, self.groups = tuple(each.name for each in features), {each.group for each in features}
        self.reach_um = REACH_UM if "neighbours" in self.groups else 2 * MAX_RAY_UM + RING_UM
        self._stains = TEXTBOOK if settings.fit is None else settings.fit.stains
        self._tables = stain_tables(self._stains)

    def describe(self) -> dict[str, Any]:
        """For the provenance of the table."""
        source = "textbook" if self.settings.fit is None else "slide"
        stains = {"source": source, "vectors": np.round(self._stains, 6).tolist()}
        return {"set": self.settings.chosen, "mpp": self.store.mpp, "stains": stains}

    def measure(
        self, nuclei: Nuclei, others: Nuclei, rings: np.ndarray, shapes: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The columns ``names`` of nuclei (frame: level0), (N,) each; NaN where a feature is not defined.

        Args:
            nuclei: with outlines.
            others: all other nuclei within ``reach_um`` of these.
            rings: (N, R, 2) outlines of the nuclei in level-0 px.
            shapes: of the rings, by ``nuclei.shape.measure_shapes``.
        """
        info = self.info
        found = measure_form(rings, info.mpp, shapes)
        found |= self._measure_pixels(nuclei, others)
        if "neighbours" in self.groups:
            um, others_um = (each.xy * np.asarray(info.mpp) for each in (nuclei, others))
            found |= measure_neighbours(um, nuclei.label, others_um, others.label, self.classes)
            found["neighbours_tissue_edge_um"] = measure_edge_distance(nuclei.xy, self.kept, info.mpp)
        return {name: found[name] for name in self.names}

    def _measure_pixels(self, nuclei: Nuclei, others: Nuclei) -> dict[str, np.ndarray]:
        xy, others_xy = (level0_to_work(each.xy, self.info.mpp, self.store.mpp) for each in (nuclei, others))
        all_xy = np.concatenate([xy, others_xy])
        all_rays = np.minimum(np.concatenate([nuclei.rays, others.rays]), MAX_RAY_UM)
        radius = all_rays.max(1, initial=0) / self.store.mpp
        parts = []
        for field in _fields(xy):
            margin = radius[field].max() + RING_UM / self.store.mpp + 2
            low, high = xy[field].min(0) - margin, xy[field].max(0) + margin
            near = ((all_xy + radius[:, None] >= low) & (all_xy - radius[:, None] <= high)).all(1)
            near[field] = False
            parts.append(self._measure_field(xy[field], all_rays[field], all_xy[near], all_rays[near], low, high))
        order = np.concatenate(list(_fields(xy)))
        found = {name: np.empty(len(xy)) for name in parts[0]}
        for name, values in found.items():
            values[order] = np.concatenate([part[name] for part in parts])
        return found

    def _measure_field(
        self,
        xy: np.ndarray,
        rays: np.ndarray,
        others_xy: np.ndarray,
        others_rays: np.ndarray,
        low: np.ndarray,
        high: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Features of the nuclei at ``xy`` (N, 2) from the pixels between ``low`` and ``high``, all in work px."""
        corner = np.floor(low).astype(int)
        width, height = np.ceil(high).astype(int) - corner
        shape = (int(height), int(width))
        zones = self._within_slide(find_zones(xy - corner, rays, self.store.mpp, shape), corner, shape)
        other = find_zones(others_xy - corner, others_rays, self.store.mpp, shape)
        taken = np.zeros(height * width, bool)
        for each in (zones, other):
            taken[each.place[each.zone >= RIM]] = True
        pixels = self.store.read(tuple(corner), (width, height))
        counted = replace(zones, zone=zones.zone * ((zones.zone != RING) | ~taken.take(zones.place)))
        of_zones = pixels.reshape(-1, 1, 3).take(zones.place, axis=0)
        found = {}
        for stain, table in zip("he", self._tables, strict=True):
            found |= measure_densities(stain, counted, split_stain(of_zones, table).ravel())
        if "texture" in self.groups:
            found |= measure_texture(zones, split_stain(pixels, self._tables[0]), self.store.mpp)
        return found

    def _within_slide(self, zones: ZonePixels, corner: np.ndarray, shape: tuple[int, int]) -> ZonePixels:
        """Without the pixels beyond the image, which are no glass."""
        size = self.store.size_px
        if (corner >= 0).all() and (corner + shape[::-1] <= size).all():
            return zones
        y, x = np.divmod(zones.place, shape[1])
        inside = (x >= -corner[0]) & (x < size[0] - corner[0]) & (y >= -corner[1]) & (y < size[1] - corner[1])
        return zones.where(inside)


def _fields(xy: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of positions (N, 2) in squares of ``FIELD_PX``, square by square."""
    square = np.floor((xy - xy.min(0)) / FIELD_PX).astype(np.int64)
    key = square[:, 1] * (square[:, 0].max() + 1) + square[:, 0]
    order = np.argsort(key, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(key[order])) + 1)
