"""Ways of training, one per file, under one contract (``methods.base``)."""

from muse_pipeline.registry import Registry

METHODS: Registry = Registry("method", "muse_pipeline.methods")
