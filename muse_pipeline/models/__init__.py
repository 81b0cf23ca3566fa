"""Networks: backbones and heads, registered by name, and the graphs that are exported."""

from muse_pipeline.core.registry import Registry

BACKBONES: Registry = Registry("backbone", "muse_pipeline.models")
HEADS: Registry = Registry("head", "muse_pipeline.models")
