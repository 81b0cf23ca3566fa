"""Networks: backbones and heads (one per file, registered by name), and the graph that is exported."""

from muse_pipeline.core.registry import Registry

BACKBONES: Registry = Registry("backbone", "muse_pipeline.models")
HEADS: Registry = Registry("head", "muse_pipeline.models")
