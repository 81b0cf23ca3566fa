"""Proposers find nuclei without labels; each is one file."""

from muse_pipeline.core.registry import Registry

PROPOSERS: Registry = Registry("proposer", "muse_pipeline.proposals")
