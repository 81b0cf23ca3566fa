"""From a cohort of H&E whole-slide images to nucleus polygons and classes for QuPath.

The public names below are loaded on first use, so that importing the package is instant and never loads torch.
"""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "Frame": "muse_pipeline.types",
    "SlideInfo": "muse_pipeline.types",
    "Nuclei": "muse_pipeline.nuclei.table",
    "ModelCard": "muse_pipeline.inference.card",
    "Predictor": "muse_pipeline.inference.predictor",
    "open_slide": "muse_pipeline.slides.base",
    "inspect_slide": "muse_pipeline.slides.inspect",
    "find_tissue": "muse_pipeline.tissue.find",
    "open_store": "muse_pipeline.tiles.store",
    "write_store": "muse_pipeline.tiles.write",
    "detect_shard": "muse_pipeline.inference.detect",
    "read_nuclei": "muse_pipeline.nuclei.parquet",
    "write_geojson": "muse_pipeline.nuclei.geojson",
    "read_geojson": "muse_pipeline.nuclei.geojson_reader",
    "check_geojson": "muse_pipeline.nuclei.geojson_check",
}

__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'muse_pipeline' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
