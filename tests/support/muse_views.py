"""A small MUSE method and batches of views for it, with noise as pixels and nuclei at random
positions.
"""

from __future__ import annotations

import torch

from muse_pipeline.data.views import ViewBatch, Views, ordered_pairs
from muse_pipeline.methods.muse.method import MusePretraining, SelfDistillationSettings
from muse_pipeline.models import BACKBONES

B, WIDE_PX, NEAR_PX, N_NUCLEI = 3, 64, 32, 7


def make_method(n_local: int = 2, **settings) -> MusePretraining:
    """A method with the smallest backbone and the same weights at every call."""
    torch.manual_seed(0)
    settings = SelfDistillationSettings(
        **{"n_prototypes": 32, "hidden": 16, "bottleneck": 8, **settings}
    )
    return MusePretraining(BACKBONES["muse_compact_16"](), settings, n_local)


@torch.no_grad()
def randomise(method: MusePretraining) -> None:
    """Give student and teacher different weights, each large enough to affect the losses, and
    random centres.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in method.backbone.parameters():
        parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    for level in (method.nucleus, method.image):
        level.centre.normal_(std=0.2, generator=generator)
        for layer in (*level.student.layers[::2], *level.teacher.layers[::2]):
            layer.weight.normal_(std=layer.in_features**-0.5, generator=generator)


def make_batch(n_local: int = 2, seed: int = 0, batch: int = B) -> ViewBatch:
    """A batch of sets whose views share between 0 and ``N_NUCLEI`` nuclei."""
    generator = torch.Generator().manual_seed(seed)

    def views(n: int, side: int) -> Views:
        pixels = torch.randint(
            40, 255, (n * batch, 3, side // 8, side // 8), generator=generator
        ).float()
        pixels = torch.nn.functional.interpolate(pixels, size=side, mode="bilinear")
        return Views(
            pixels, torch.eye(3, 4) + 0.1 * torch.randn(n * batch, 3, 4, generator=generator)
        )

    pairs = ordered_pairs(n_local)
    side = torch.tensor([[WIDE_PX if one < 2 else NEAR_PX for one in pair] for pair in pairs]).T[
        ..., None, None, None
    ]
    xy = 2 + torch.rand(2, len(pairs), batch, N_NUCLEI, 2, generator=generator) * (side - 4)
    counts = torch.randint(0, N_NUCLEI + 1, (len(pairs), batch, 1), generator=generator)
    counts[0, 0], counts[1, 0] = 0, N_NUCLEI
    shared = torch.arange(N_NUCLEI) < counts
    return ViewBatch(views(2, WIDE_PX), views(n_local, NEAR_PX) if n_local else None, *xy, shared)
