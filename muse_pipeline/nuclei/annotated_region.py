"""Where labels are complete: region annotations told from nuclei in one GeoJSON file.

A pathologist marks nuclei within an area and draws that area too. QuPath keeps both as objects of one file.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from muse_pipeline.nuclei.geojson_parts import NucleusParts
from muse_pipeline.nuclei.geojson_reader import GeoJSONObjects
from muse_pipeline.qupath_words import IGNORED, REGION, is_called

LARGEST_NUCLEUS_UM2 = 5_000.0  # a radius of 40 um: what is larger is an annotation of tissue


def are_called(objects: GeoJSONObjects, words: Collection[str]) -> np.ndarray:
    """(N,) bool: objects of one of these classes, and annotations of one of these names; see ``is_called``."""
    named = np.where(objects.object_type == "annotation", objects.name, None)
    return np.array([is_called(words, *pair) for pair in zip(objects.class_name, named, strict=True)], bool)


def split_regions(objects: GeoJSONObjects) -> tuple[GeoJSONObjects, BaseGeometry | None]:
    """Separate nuclei from the annotated region; annotations called "Tissue" or "Ignore" are neither.

    Returns:
        The nuclei; the union of all areas called "Region" in level-0 px, or None where none is drawn.
    """
    is_region = are_called(objects, (REGION,)) & (shapely.area(objects.geometry) > 0)
    is_nucleus = ~is_region & ~are_called(objects, IGNORED)
    return objects[is_nucleus], union_of_areas(objects.geometry[is_region])


def require_nucleus_size(
    parts: NucleusParts, mpp: tuple[float, float], region_class: str = REGION, otherwise: str = "delete it"
) -> None:
    """Refuse outlines that are larger than any nucleus, and so were meant to bound tissue.

    Args:
        parts: in pixels of ``mpp`` = (x, y) um.
        mpp: see there.
        region_class: what areas are called that bound what was annotated.
        otherwise: what to do with one that bounds something else.

    Raises:
        LabelError: there is one.
    """
    parts.refuse(
        shapely.area(parts.geometry) * np.prod(mpp) > LARGEST_NUCLEUS_UM2,
        f"covers more than the {LARGEST_NUCLEUS_UM2:,.0f} um2 of any nucleus; give it the class '{region_class}' if it "
        f"bounds what was annotated, else {otherwise}",
    )


def union_of_areas(geometry: np.ndarray) -> BaseGeometry | None:
    """The polygons within geometries (N,), crossing lines mended, as one polygon or multipolygon; None without any."""
    parts = shapely.get_parts(shapely.get_parts(shapely.make_valid(geometry)))  # a collection may hold multipolygons
    parts = parts[shapely.area(parts) > 0]
    return shapely.union_all(parts) if len(parts) else None
