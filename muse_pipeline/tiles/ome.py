"""What an OME-Zarr 0.5 viewer needs to know of a store: axes, scales and which folder is what."""

from __future__ import annotations

from typing import Any

OME_VERSION = "0.5"


def image_metadata(name: str, mpp: float, factors: tuple[int, ...]) -> dict[str, Any]:
    """Attribute ``ome`` of an image ``(c, y, x)`` whose level k is reduced ``factors[k]`` times."""
    channels = [
        {"label": label, "color": color, "active": True, "window": {"min": 0, "max": 255, "start": 0, "end": 255}}
        for label, color in (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
    ]
    return {
        "version": OME_VERSION,
        "multiscales": [_multiscale(name, ("c", "y", "x"), mpp, factors)],
        "omero": {"name": name, "channels": channels, "rdefs": {"model": "color"}},
    }


def label_metadata(name: str, mpp: float, factors: tuple[int, ...]) -> dict[str, Any]:
    """Attribute ``ome`` of a label image ``(y, x)`` whose level k has pixels as wide as ``factors[k]`` of its image."""
    return {
        "version": OME_VERSION,
        "multiscales": [_multiscale(name, ("y", "x"), mpp, factors)],
        "image-label": {"source": {"image": "../../"}, "colors": [{"label-value": 1, "rgba": [0, 160, 80, 96]}]},
    }


def _multiscale(name: str, axes: tuple[str, ...], mpp: float, factors: tuple[int, ...]) -> dict[str, Any]:
    datasets = []
    for level, factor in enumerate(factors):
        # OME-Zarr places the centre of the first pixel, ours are placed by their corner
        scale = [1.0 if axis == "c" else mpp * factor for axis in axes]
        shift = [0.0 if axis == "c" else mpp * (factor - 1) / 2 for axis in axes]
        transformations = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": shift}]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    return {"name": name, "axes": [_axis(axis) for axis in axes], "datasets": datasets, "type": "area mean"}


def _axis(name: str) -> dict[str, str]:
    return {"name": name, "type": "channel"} if name == "c" else {"name": name, "type": "space", "unit": "micrometer"}
