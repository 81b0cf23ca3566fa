"""Ways of training, one per file (``methods.base``), and what heads learn from labels (``methods.criterion``).

``METHODS`` are the ways of learning a detector from labels, all built as ``methods.detector`` is; runs without labels
name their class themselves.
"""

from muse_pipeline.core.registry import Registry

METHODS: Registry = Registry("method", "muse_pipeline.methods")
CRITERIA: Registry = Registry("criterion", "muse_pipeline.methods")
TASKS: Registry = Registry("activation task", "muse_pipeline.methods")
