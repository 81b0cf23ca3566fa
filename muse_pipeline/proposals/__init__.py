"""What finds nuclei without labels, one way per file: stain, activation maps, the detections of others."""

from muse_pipeline.core.registry import Registry

PROPOSERS: Registry = Registry("proposer", "muse_pipeline.proposals")
