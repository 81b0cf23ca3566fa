"""A small picture of synthetic nuclei, and label files of every format with their positions."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import cKDTree

from muse_pipeline.labels.base_source import LabelSource
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.labels.picture_source import PictureSource

CLASSES = ("Dark", "Pale")
GROUND, NUCLEUS = (235, 190, 215), (90, 60, 130)
RADIUS_PX = 6


def draw_nuclei(
    size_px: tuple[int, int], xy: np.ndarray, radius_px: float = RADIUS_PX
) -> np.ndarray:
    """(h, w, 3) uint8: discs with smooth edges at positions (N, 2), on a background as pink and
    grainy as H&E.
    """
    y, x = np.mgrid[: size_px[1], : size_px[0]] + 0.5
    nearest, _ = cKDTree(xy).query(np.stack([x, y], -1))
    share = np.clip(radius_px + 0.5 - nearest, 0, 1)[..., None]
    grain = np.random.default_rng(0).normal(0, 3, (size_px[1], size_px[0], 3))
    pixels = np.array(GROUND) * (1 - share) + np.array(NUCLEUS) * share + grain
    return np.clip(pixels, 0, 255).astype(np.uint8)


def grid_xy(size_px: tuple[int, int], step_px: int = 40, first_px: int = 20) -> np.ndarray:
    """(N, 2) pixel centres on a regular grid."""
    x, y = np.meshgrid(*[np.arange(first_px, side - 10, step_px) for side in size_px])
    return np.stack([x.ravel(), y.ravel()], 1) + 0.5


def make_source(
    folder: Path, name: str, content: str | bytes, form: str = "x y class", **settings
) -> LabelSource:
    """Write ``images/P.png`` (120 x 90 px) and ``labels/NAME``, and return them as a source."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    size = (120, 90)
    cv2.imwrite(str(folder / "images/P.png"), draw_nuclei(size, grid_xy(size))[..., ::-1])
    content = content.encode() if isinstance(content, str) else content
    (folder / "labels" / name).write_bytes(content)
    settings = {"images": folder / "images", "mpp": 0.5, **settings}
    return PictureSource(folder / "labels", form, **settings)


def read(*sources: LabelSource, mpp: float = 0.5, **settings) -> list[LabelledImage]:
    """The images of ``sources``, read for a model with the classes Dark and Pale."""
    return read_labelled_images(sources, CLASSES, mpp, 8, **settings)


def pixels_at_nuclei(image: LabelledImage) -> np.ndarray:
    """(N, 3) uint8: the pixels of ``image`` at the centres of its nuclei."""
    return image.pixels[tuple(np.floor(image.nuclei.xy).astype(int).T[::-1])]


def disc(x: float, y: float, radius: float = RADIUS_PX) -> dict:
    """A disc as a GeoJSON polygon."""
    angles = 2 * np.pi * np.arange(32) / 32
    ring = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1).tolist()
    return {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}


def box(left: float, top: float, right: float, bottom: float) -> dict:
    """A rectangle as GeoJSON."""
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {"type": "Polygon", "coordinates": [ring]}


def point(x: float, y: float) -> dict:
    """A point as GeoJSON."""
    return {"type": "Point", "coordinates": [x, y]}


def geojson(*areas: tuple[dict, str | None]) -> str:
    """A FeatureCollection with a feature for each (geometry, class name or None), as QuPath writes
    it.
    """
    features = []
    for geometry, word in areas:
        properties = {"objectType": "annotation"}
        properties |= {"classification": {"name": word}} if word else {}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return json.dumps({"type": "FeatureCollection", "features": features})
