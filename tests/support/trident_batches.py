"""Small TriDeNT methods and batches for them, with noise as pixels and random nuclei and
partners.
"""

from __future__ import annotations

import torch
from muse_views import WIDE_PX, make_batch

from muse_pipeline.methods.trident.method import AlignmentSettings, Trident
from muse_pipeline.methods.trident.partners import PairBatch, PartnerBatch
from muse_pipeline.models import BACKBONES


def make_trident(**settings) -> Trident:
    """A method with the smallest backbones and the same weights at every call."""
    torch.manual_seed(0)
    settings = AlignmentSettings(**{"hidden": 16, "width": 8, "nucleus_weight": 0.5, **settings})
    backbone, partner = BACKBONES["muse_compact_16"](), None
    if settings.branches > 1:
        partner = BACKBONES["muse_compact_16"]()
    return Trident(backbone, partner, settings)


def make_pairs(known: list[bool], seed: int = 0) -> PairBatch:
    """A batch with a set for each item of ``known``; a partner covers most nuclei of the sets for
    which it is True.
    """
    generator = torch.Generator().manual_seed(100 + seed)
    views, has = make_batch(0, seed, len(known)), torch.tensor(known)
    covered = (
        views.shared[0]
        & has[:, None]
        & (torch.rand(views.shared[0].shape, generator=generator) < 0.8)
    )
    pixels = 255 * torch.rand(len(known), 3, WIDE_PX // 8, WIDE_PX // 8, generator=generator)
    pixels = torch.nn.functional.interpolate(pixels, size=WIDE_PX)
    return PairBatch(views, PartnerBatch(pixels[has], has, covered))
