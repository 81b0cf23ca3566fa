"""Families of third-party networks, one per module: the maps that they return, and how nuclei are
found in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muse_pipeline.core.registry import Registry

if TYPE_CHECKING:
    from muse_pipeline.inference.maps import Family

FAMILIES: Registry[type[Family]] = Registry("kind of network", "muse_pipeline.inference.families")
