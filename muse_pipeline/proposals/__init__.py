"""Proposers: methods that find nuclei without labels, one per file."""

from muse_pipeline.core.registry import Registry

PROPOSERS: Registry = Registry("proposer", "muse_pipeline.proposals")
