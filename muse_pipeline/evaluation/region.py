"""The annotated region of a slide from a file of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from muse_pipeline.errors import GeoJSONError, LabelError
from muse_pipeline.evaluation.truth import MASKS
from muse_pipeline.nuclei.annotated_region import union_of_areas
from muse_pipeline.nuclei.geojson_reader import read_geojson
from muse_pipeline.nuclei.label_image import label_image_to_polygons
from muse_pipeline.nuclei.mask_file import read_mask
from muse_pipeline.qupath_words import list_counts


def read_region(path: Path, size_px: tuple[int, int] | None, offset_px: tuple[int, int] = (0, 0)) -> BaseGeometry:
    """The annotated region of a slide, from a file of its own: every area of a GeoJSON, or a mask of the whole slide.

    Args:
        path: GeoJSON, or a picture, whose pixels other than 0 are annotated.
        size_px: (width, height) of level 0, which the picture covers at any resolution; None if unknown.
        offset_px: level-0 position of what a GeoJSON file calls (0, 0).

    Raises:
        LabelError: the picture cannot be read or placed.
        GeoJSONError: the file is no GeoJSON or holds no area.
    """
    if path.name.lower().endswith(MASKS):
        if size_px is None:
            raise LabelError(f"{path}: where it lies is not known without the slide.json beside the nuclei; restore it")
        mask = read_mask(path) != 0
        scale = np.array(size_px) / mask.shape[::-1]
        parts = label_image_to_polygons(mask)
    else:
        scale, parts = np.ones(2), read_geojson(path, offset_px).geometry
    region = union_of_areas(shapely.transform(parts, lambda xy: xy * scale))
    if region is None:
        found = list_counts(Counter(part.geom_type.lower() for part in parts))
        raise GeoJSONError(f"{path}: holds no area (found: {found}); draw the annotated region as a closed area")
    return region
