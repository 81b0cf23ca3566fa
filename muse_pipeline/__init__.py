"""Find, outline and classify the nuclei in H&E whole-slide images, for QuPath.

The public names below are imported on first use, so that importing the package is fast and never
imports torch.
"""

import importlib

__version__ = "0.1.0"

_PUBLIC = {
    "open_slide": "muse_pipeline.slides.slide_image",
    "find_tissue": "muse_pipeline.api",
    "find_nuclei": "muse_pipeline.api",
    "SlideImage": "muse_pipeline.slides.slide_image",
    "Tissue": "muse_pipeline.api",
    "read_nuclei": "muse_pipeline.geodataframe",
    "read_cohort": "muse_pipeline.statistics.cohort",
    "read_anndata": "muse_pipeline.statistics.cohort",
    "write_geojson": "muse_pipeline.geodataframe",
    "read_geojson": "muse_pipeline.qupath.read",
    "SlideInfo": "muse_pipeline.core.types",
    "ModelCard": "muse_pipeline.inference.card",
    "MuseError": "muse_pipeline.core.errors",
    "MuseWarning": "muse_pipeline.core.errors",
}

__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604


def __getattr__(name: str):
    if name in _PUBLIC:
        try:
            return getattr(importlib.import_module(_PUBLIC[name]), name)
        except ModuleNotFoundError as error:
            if error.name not in ("geopandas", "pandas"):
                raise
            from muse_pipeline.core.errors import MissingPackageError

            raise MissingPackageError(
                f"muse_pipeline.{name}: needs the package '{error.name}', which is not installed;"
                " install the extra `geo`"
            ) from error
    raise AttributeError(f"module 'muse_pipeline' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
