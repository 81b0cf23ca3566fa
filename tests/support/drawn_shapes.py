"""Objects of GeoJSON as QuPath exports them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry


def feature(
    geometry: BaseGeometry, class_name: str | None = None, kind: str = "annotation", **properties
) -> dict[str, Any]:
    """An object of a class, or without one."""
    properties["objectType"] = kind
    if class_name:
        properties["classification"] = {"name": class_name, "color": [1, 2, 3]}
    shape = json.loads(shapely.to_geojson(geometry))
    return {"type": "Feature", "geometry": shape, "properties": properties}


def write_features(path: Path, *features: dict[str, Any]) -> Path:
    """Write a collection of objects; return the path."""
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path
