"""Networks: backbones (one per file, registered by name), heads, and the graph that is exported."""

from muse_pipeline.registry import Registry

BACKBONES: Registry = Registry("backbone", "muse_pipeline.models")
