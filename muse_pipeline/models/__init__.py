"""Networks: backbones and heads (one per file, registered by name), and the graphs that are exported."""

from muse_pipeline.core.registry import Registry

BACKBONES: Registry = Registry("backbone", "muse_pipeline.models")
HEADS: Registry = Registry("head", "muse_pipeline.models")
