"""The steps of a slide: each is a function that reads and writes files, called by `muse step NAME`,
whose options are the parameters of the function.

A step is imported when it is first used, because importing the libraries of all steps takes longer
than running one step on a small slide.
"""

from importlib import import_module
from typing import Any

# The module of each step, and of what steps share.
MODULES = {
    **dict.fromkeys(("fetch", "inspect"), "slide"),
    **dict.fromkeys(("tissue", "tile"), "image"),
    **dict.fromkeys(("detect", "propose"), "shards"),
    **dict.fromkeys(("stitch", "Pixels", "geojson", "spatialdata"), "table"),
    **dict.fromkeys(("embed", "image_mpp"), "embedding"),
    "regions": "region_map",
    "partner": "partners",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
