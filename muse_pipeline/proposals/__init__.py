"""Proposers: ways to find nuclei without labels, one per file (stain, imported detections)."""

from muse_pipeline.core.registry import Registry

PROPOSERS: Registry = Registry("proposer", "muse_pipeline.proposals")
