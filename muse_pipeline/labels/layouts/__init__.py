"""How the files of open datasets are laid out, one dataset per file; none is a part of this package."""

from muse_pipeline.core.registry import Registry

LAYOUTS: Registry = Registry("layout", "muse_pipeline.labels.layouts")
