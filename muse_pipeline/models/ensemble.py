"""Several trained detectors as one, that says what they say on average."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from muse_pipeline.models.base import Backbone, Features
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.models.heads import NucleusHead, NucleusMaps


class BackboneEnsemble(Backbone):
    """Networks of one kind side by side; the dense map and the image vector hold theirs one after the other.

    Args:
        members: backbones that read the same and have the same lattice.
    """

    def __init__(self, members: Sequence[Backbone]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.channels = sum(member.channels for member in members)
        self.image_channels = sum(member.image_channels for member in members)
        self.stride_px, self.lattice = members[0].stride_px, members[0].lattice

    def prepare(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """As the members read it."""
        return self.members[0].prepare(pixels, colour)

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W) -> features of all members."""
        dense, vectors = zip(*(member(image) for member in self.members), strict=True)
        return Features(torch.cat(dense, 1), torch.cat(vectors, 1))

    def fix_size(self, height: int, width: int) -> None:
        """Every member's."""
        for member in self.members:
            member.fix_size(height, width)


class HeadEnsemble(NucleusHead):
    """Heads of one kind, each on its own part of the dense map; logits, offsets and rays are averaged.

    Args:
        members: heads with the same classes and rays.
        channels: of the part of each.
    """

    def __init__(self, members: Sequence[NucleusHead], channels: Sequence[int]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.channels, self.sizes = list(channels), members[0].sizes

    def forward(self, features: Tensor) -> NucleusMaps:
        """(B, D, h, w) -> four maps."""
        parts = features.split(self.channels, 1)
        said = [head(part) for head, part in zip(self.members, parts, strict=True)]
        return NucleusMaps(*(torch.stack(maps).mean(0) for maps in zip(*said, strict=True)))

    def scores(self, maps: NucleusMaps) -> Tensor:
        """By the members' own rule, on the average."""
        return self.members[0].scores(maps)

    def locate(self, located: Tensor, cell: Tensor) -> Tensor:
        """By the members' own rule, on the average."""
        return self.members[0].locate(located, cell)


def average_detectors(members: Sequence[NucleusDetector]) -> NucleusDetector:
    """One detector that says what ``members``, of the same kind, say on average."""
    backbones = [member.backbone for member in members]
    head = HeadEnsemble([member.head for member in members], [backbone.channels for backbone in backbones])
    return NucleusDetector.of(BackboneEnsemble(backbones), head)
