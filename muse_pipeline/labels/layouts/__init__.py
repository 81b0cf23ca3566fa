"""File layouts of open datasets, one dataset per file; the datasets are not a part of this package."""

from muse_pipeline.core.registry import Registry

LAYOUTS: Registry = Registry("layout", "muse_pipeline.labels.layouts")
