"""Correct a GeoJSON file of nuclei as a pathologist does in QuPath, and write what QuPath exports.

Within a rectangle, every detection of a nucleus gets its true class, false detections are deleted,
and missed nuclei are added, half of them with the points tool (one annotation per class) and half
with the brush (one polygon each). The rectangle becomes an annotation "Region*". Detections
elsewhere and the outline of the tissue stay as they are.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from drawn_shapes import feature, write_features
from scipy.spatial import cKDTree

from muse_pipeline.core.files import read_json

SAME_UM = 3.0


@dataclass(frozen=True)
class Corrections:
    """How many nuclei were corrected."""

    n_reclassified: int
    n_deleted: int
    n_added: int


def correct(
    results: Path,
    exported: Path,
    xy: np.ndarray,
    names: np.ndarray,
    rectangle: tuple[float, float, float, float],
    mpp: float,
) -> Corrections:
    """Correct the detections of a slide and export all objects.

    Args:
        results: results folder of the slide.
        exported: path of the GeoJSON file to write.
        xy: (N, 2) centres of the true nuclei, in the pixels that QuPath shows.
        names: (N,) their classes.
        rectangle: left, top, right, bottom of the corrected area, in the same pixels.
        mpp: um per pixel.
    """
    features = json.loads(gzip.decompress((results / "nuclei.geojson.gz").read_bytes()))["features"]
    tissue = read_json(results / "tissue.geojson")["features"]
    shapes = [shapely.geometry.shape(one["geometry"]) for one in features]
    centre = np.array([shape.centroid.coords[0] for shape in shapes])
    is_true, is_found = _within(xy, rectangle), _within(centre, rectangle)
    distance, nearest = cKDTree(xy).query(centre)
    kept, seen, n_reclassified = [], set(), 0
    for found, corrected, far, truth in zip(
        features, is_found, distance * mpp > SAME_UM, nearest, strict=True
    ):
        if corrected and (far or truth in seen):
            continue
        if corrected:
            seen.add(truth)
            n_reclassified += found["properties"]["classification"]["name"] != names[truth]
            found["properties"]["classification"] = {"name": names[truth], "color": [200, 0, 0]}
        kept.append(found)
    missed = np.array([i for i in np.flatnonzero(is_true) if i not in seen], int)
    points, of = xy[missed[::2]], names[missed[::2]]
    added = [feature(shapely.MultiPoint(points[of == name]), name) for name in sorted(set(of))]
    added += [feature(shapely.Point(xy[i]).buffer(3.3 / mpp), names[i]) for i in missed[1::2]]
    region = feature(shapely.box(*rectangle), "Region*")
    write_features(exported, *tissue, *kept, *added, region)
    return Corrections(n_reclassified, len(shapes) - len(kept), len(missed))


def _within(xy: np.ndarray, rectangle: tuple[float, float, float, float]) -> np.ndarray:
    return ((xy > rectangle[:2]) & (xy < rectangle[2:])).all(1)
