"""The region of every nucleus, its probability and the distance to the border, from a model's map
or drawn areas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy import ndarray

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.coords import level0_to_work
from muse_pipeline.core.errors import StoreError
from muse_pipeline.core.files import read_json, sha256_of
from muse_pipeline.core.provenance import Band, NamedFile, RegionArea, Regions
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.inference.region_files import FAILED, OK
from muse_pipeline.inference.region_maps import trace_regions
from muse_pipeline.nuclei.parquet import BORDER, REGION, REGION_PROB, border_of
from muse_pipeline.qupath.regions import ClassArea, read_class_areas
from muse_pipeline.store.zarr_files import METADATA, Plane
from muse_pipeline.tissue.mask import KeptArea

BANDS_UM = (50, 100)  # widths of bands on either side of the border
NO_REGION = -1
MARGIN_UM = 16.0  # four cells of the map; closer to the border, the region is uncertain


@dataclass(frozen=True)
class RegionClass(NucleusClass):
    """A class of tissue regions of a slide."""

    tissue: shapely.Geometry  # tissue of the class, in level-0 pixels
    is_inside: bool  # True if the class lies inside the border
    # border of the class alone; None if it is not distinguished
    border: shapely.Geometry | None = None


class SlideRegions:
    """The regions of one slide.

    All classes of a model except the first, and all drawn areas, lie inside the border. The border
    consists of the lines at which a model's regions meet, or of the outlines of drawn areas; the
    edge of the tissue is not a border. If areas of several classes are drawn, each class also has a
    border of its own. Where drawn areas overlap, the smallest counts.

    A slide on which the model failed has no classes, and its columns have no values.

    Args:
        classes: classes of the regions.
        areas: polygons of the classes.
        border: lines of the border, in level-0 pixels.
        outside: all tissue outside the border, in level-0 pixels.
        info: the slide.
        origin: model or file that the regions come from, for the provenance.
        prob: map of the probabilities of the classes; None for drawn areas.
    """

    def __init__(
        self,
        classes: Sequence[RegionClass],
        areas: Sequence[ClassArea],
        border: shapely.Geometry,
        outside: shapely.Geometry,
        info: SlideInfo,
        origin: Regions,
        prob: ProbabilityMap | None = None,
    ):
        self.classes = tuple(classes)
        self.origin = origin
        self.mpp = np.array(info.mpp)
        self._prob = prob
        self._index = {region.name: number for number, region in enumerate(classes)}
        ordered = sorted(areas, key=lambda area: area.shape.area)
        self._shapes = np.array([area.shape for area in ordered], object)
        self._label = np.array([self._index[area.class_name] for area in ordered], np.int32)
        # index -1 is ``NO_REGION``
        self._inside = np.array([*(region.is_inside for region in classes), False])
        self._bounds = shapely.bounds(self._shapes)
        shapely.prepare(self._shapes)
        for shape in self._shapes:  # builds the index of the shape, which threads then share
            shapely.contains_xy(shape, 0.0, 0.0)
        self._outside = outside
        own = {region.name: region.border for region in classes if region.border is not None}
        self._borders = {
            name: _scale(lines, self.mpp) for name, lines in {None: border, **own}.items()
        }
        self._trees = {
            name: shapely.STRtree(_segments(lines)) for name, lines in self._borders.items()
        }
        # the first query builds a tree, which several threads must not do at once
        for tree in self._trees.values():
            tree.query(shapely.Point(0, 0))

    @property
    def failure(self) -> str:
        """The reason why the model failed on the slide; "" if it did not."""
        return self.origin.reason if self.origin.status == FAILED else ""

    @property
    def own_borders(self) -> list[str]:
        """Names of the classes that have a border of their own."""
        return [name for name in self._borders if name is not None]

    def columns(self, xy: ndarray) -> dict[str, ndarray]:
        """The columns of nuclei at ``xy`` (N, 2) in level-0 pixels, (N,) each; safe to call from
        several threads.

        They are the index of the class, ``NO_REGION`` outside all regions; its probability, NaN
        there and in drawn areas; and the distances in um to the nearest border, and to those of
        single classes, negative inside and NaN without a border.
        """
        region = np.full(len(xy), NO_REGION, np.int32)
        prob = np.full(len(xy), np.nan, np.float32)
        if len(xy):
            low, high = xy.min(0), xy.max(0)
            near = (self._bounds[:, :2] <= high).all(1) & (self._bounds[:, 2:] >= low).all(1)
            for number in np.flatnonzero(near)[::-1]:  # smaller areas come last and win
                region[shapely.contains_xy(self._shapes[number], xy)] = self._label[number]
        if self._prob is not None and (is_mapped := region >= 0).any():
            prob[is_mapped] = self._prob.at(xy[is_mapped], region[is_mapped])
        columns = {REGION: region, REGION_PROB: prob}
        for name in self._trees:
            is_inside = self._inside[region] if name is None else region == self._index[name]
            columns[border_of(name)] = self._distance(xy, is_inside, name)
        return columns

    def _distance(self, xy: ndarray, is_inside: ndarray, name: str | None) -> ndarray:
        tree = self._trees[name]
        if not len(tree.geometries):
            return np.full(len(xy), np.nan, np.float32)
        (owner, _), distance = tree.query_nearest(
            shapely.points(xy * self.mpp), return_distance=True, all_matches=False
        )
        border_um = np.empty(len(xy), np.float32)
        border_um[owner] = distance
        return np.where(is_inside, -border_um, border_um)

    def unlike(
        self, classes: Sequence[str], tissues_of: Mapping[str, Sequence[str]]
    ) -> ndarray | None:
        """(R + 1, C) bool: True if nuclei of a class do not occur in a region; the last row is for
        ``NO_REGION``.

        ``tissues_of`` are the tissues in which each class does not occur, from the model's card;
        the first class of a region model is like stroma. None without such tissues, or unless a
        model maps epithelium: regions that come from the classes of nuclei agree with most of them,
        right or wrong.
        """
        tissues = ["stroma", *(region.name.lower() for region in self.classes[1:]), "none"]
        if self.origin.source != "model" or "epithelium" not in tissues or not tissues_of:
            return None
        return np.array(
            [[tissue in tissues_of.get(name, ()) for name in classes] for tissue in tissues]
        )

    @staticmethod
    def are_unlike(columns: dict[str, ndarray], label: ndarray, unlike: ndarray) -> ndarray:
        """(N,) bool: True for nuclei of classes ``label`` (N,) that are ``unlike`` their region,
        far from a border.
        """
        is_near = np.abs(columns[BORDER]) <= MARGIN_UM  # False if there is no border
        return unlike[columns[REGION], label] & ~is_near

    def describe(self) -> Regions:
        """Origin of the regions, and the areas of every class and of the bands along the border."""
        if self.failure:
            return self.origin
        mm2 = self.mpp.prod() / 1e6
        bands = []
        for name, um in product(self._borders, BANDS_UM):
            inside, outside = [], [self._outside]
            for region in self.classes:
                is_inner = region.is_inside if name is None else region.name == name
                (inside if is_inner else outside).append(region.tissue)
            sides = map(shapely.union_all, (inside, outside))
            band = _scale(shapely.buffer(self._borders[name], um), 1 / self.mpp)
            bands.append(
                Band(um, *(round(float((band & side).area * mm2), 6) for side in sides), name)
            )
        classes = [
            RegionArea(
                region.name,
                tuple(region.color),
                region.is_inside,
                round(float(region.tissue.area * mm2), 6),
            )
            for region in self.classes
        ]
        border_mm = round(self._borders[None].length / 1000, 3)
        return replace(self.origin, classes=tuple(classes), bands=tuple(bands), border_mm=border_mm)


class ProbabilityMap:
    """The parts of a slide's ``regions.zarr``, a map of ``n_classes`` classes, that contain
    nuclei.
    """

    def __init__(self, path: Path, n_classes: int, mpp: tuple[float, float]):
        self._planes = [Plane(path / "0", number) for number in range(n_classes)]
        self._mpp = mpp
        self._cell_um = float(read_json(path / METADATA)["attributes"]["muse"]["cell_um"])

    def at(self, xy: ndarray, label: ndarray) -> ndarray:
        """(n,) float32 probabilities of classes ``label`` (n,) at positions (n, 2) in level-0
        pixels.
        """
        limit = np.array(self._planes[0].shape[::-1]) - 1
        cell = np.floor(level0_to_work(xy, self._mpp, self._cell_um)).astype(int).clip(0, limit)
        (left, top), (right, bottom) = cell.min(0), cell.max(0) + 1
        part = np.stack([plane.read(top, left, bottom, right) for plane in self._planes])
        return (part[label, cell[:, 1] - top, cell[:, 0] - left] / 255).astype(np.float32)


def load_regions(source: Path, info: SlideInfo, kept: KeptArea) -> SlideRegions:
    """The regions of a slide, from a folder of ``muse regions`` or a GeoJSON file of drawn areas
    with classes.
    """
    return _of_model(source, info, kept) if source.is_dir() else _drawn(source, info, kept)


def read_record(folder: Path) -> dict[str, Any]:
    """Read the ``regions.json`` in a folder."""
    try:
        record = read_json(SlideFiles(folder).regions)
        # Both keys are looked up, so that a record without one of them counts as damaged.
        return {"status": record["status"], "reason": record["reason"], **record}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder}: has no readable regions.json; run `muse regions` for this slide"
        ) from error


def _of_model(folder: Path, info: SlideInfo, kept: KeptArea) -> SlideRegions:
    files, record = SlideFiles(folder), read_record(folder)
    if record["status"] != OK:
        nowhere = shapely.MultiLineString(), shapely.MultiPolygon()
        return SlideRegions((), (), *nowhere, info, Regions("model", FAILED, record["reason"]))
    if record["fingerprint"] != info.fingerprint or record["tissue_sha256"] not in {
        None,
        kept.tissue_sha256,
    }:
        raise StoreError(
            f"{files.regions}: made for a different slide, tissue or ROI; run `muse regions` again"
        )
    areas = read_class_areas(files.region_outlines, info, may_lack=True)
    classes = []
    for entry in record["classes"]:
        tissue = shapely.MultiPolygon(
            [area.shape for area in areas if area.class_name == entry["name"]]
        )
        classes.append(
            RegionClass(entry["name"], tuple(entry["color"]), tissue, entry["is_inside"])
        )
    inside = {region.name for region in classes if region.is_inside}
    is_inside = np.array([area.class_name in inside for area in areas], bool)
    return SlideRegions(
        classes=classes,
        areas=areas,
        border=shared_lines(np.array([area.shape for area in areas], object), is_inside),
        outside=shapely.union_all([region.tissue for region in classes if not region.is_inside]),
        info=info,
        origin=Regions(
            record["source"],
            OK,
            "",
            model=NamedFile(record["model"]["name"], record["model"]["sha256"]),
        ),
        prob=ProbabilityMap(files.region_map, len(classes), info.mpp),
    )


def _drawn(path: Path, info: SlideInfo, kept: KeptArea) -> SlideRegions:
    drawn = read_class_areas(path, info)
    colors = {}
    for area in drawn:
        colors.setdefault(area.class_name, area.color)  # the first colour of a class counts
    tissue = outline_kept(kept, info)
    ordered = sorted(drawn, key=lambda area: area.shape.area)
    shapes = np.array([area.shape for area in ordered], object)
    of_class = {name: [] for name in colors}
    number, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    smaller = np.split(other, np.searchsorted(number, np.arange(1, len(shapes))))
    for index, area in enumerate(ordered):
        taken = shapely.union_all(shapes[smaller[index][smaller[index] < index]])
        of_class[area.class_name].append(area.shape - taken)
    lines = shapely.union_all(shapely.boundary(shapes))
    whole = {name: shapely.union_all(parts) for name, parts in of_class.items()}
    own = (
        {name: shape.boundary & tissue for name, shape in whole.items()} if len(colors) > 1 else {}
    )
    return SlideRegions(
        classes=[
            RegionClass(name, color, whole[name] & tissue, True, own.get(name))
            for name, color in colors.items()
        ],
        areas=drawn,
        border=shapely.intersection(lines, tissue),
        outside=shapely.difference(tissue, shapely.union_all(shapes)),
        info=info,
        origin=Regions("drawn", OK, "", file=NamedFile(path.name, sha256_of(path))),
    )


def outline_kept(kept: KeptArea, info: SlideInfo) -> shapely.Geometry:
    """Outline of the area in which nuclei are kept, in level-0 pixels."""
    mask = np.unpackbits(kept.bits, axis=1, count=kept.width)
    polygons, _ = trace_regions(mask)
    outline = shapely.transform(
        shapely.union_all(polygons), lambda xy: xy * (kept.mask_mpp / np.array(info.mpp))
    )
    return outline if kept.roi is None else shapely.intersection(outline, kept.roi)


def shared_lines(polygons: ndarray, is_inside: ndarray) -> shapely.Geometry:
    """Lines at which polygons (N,) of a tiling meet, at least one of which lies inside (N,) bool
    the border.

    Both polygons must have the same vertices there.
    """
    if not len(polygons):
        return shapely.MultiLineString()
    rings, owner = shapely.get_rings(polygons, return_index=True)
    sides = np.concatenate(list(map(_sides, rings)))
    of_inside = np.repeat(is_inside[owner], shapely.get_num_coordinates(rings) - 1)
    # Neighbours traverse a common side in opposite directions, so all sides are turned to the same
    # direction.
    backward = (sides[:, 0] > sides[:, 2]) | (
        (sides[:, 0] == sides[:, 2]) & (sides[:, 1] > sides[:, 3])
    )
    sides[backward] = sides[backward][:, [2, 3, 0, 1]]
    unique, number, n = np.unique(sides, axis=0, return_inverse=True, return_counts=True)
    is_border = (n > 1) & (np.bincount(number.ravel(), of_inside) > 0)
    return shapely.line_merge(
        shapely.multilinestrings(shapely.linestrings(unique[is_border].reshape(-1, 2, 2)))
    )


def _sides(ring: shapely.Geometry) -> ndarray:
    """The sides of a ring, (n, 4) x0, y0, x1, y1."""
    xy = shapely.get_coordinates(ring)
    return np.concatenate([xy[:-1], xy[1:]], axis=1)


def _segments(lines: shapely.Geometry) -> ndarray:
    parts = [
        _sides(part)
        for part in shapely.get_parts(lines)
        if part.geom_type in {"LineString", "LinearRing"}
    ]
    if parts:
        return shapely.linestrings(np.concatenate(parts).reshape(-1, 2, 2))
    return np.zeros(0, object)


def _scale(shape: shapely.Geometry, factor: ndarray) -> shapely.Geometry:
    return shapely.transform(shape, lambda xy: xy * factor)
