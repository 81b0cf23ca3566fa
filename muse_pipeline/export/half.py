"""Half precision inside a graph: float16 where the time goes, float32 where positions and ranks are decided."""

from __future__ import annotations

from torch import Tensor

from muse_pipeline.models.base import Backbone, Features
from muse_pipeline.models.detector import NucleusDetector


class HalfBackbone(Backbone):
    """A backbone whose weights and activations are float16, between inputs and features in float32.

    Its inputs are normalised in float32, where 8 bits of colour and the means of ImageNet are exact.

    Args:
        network: taken over; its layers are changed.
    """

    def __init__(self, network: Backbone):
        super().__init__()
        for layers in network.children():  # buffers of the backbone's own belong to its `prepare`
            layers.half()
        self.network = network.eval()
        self.channels, self.image_channels = network.channels, network.image_channels
        self.stride_px, self.lattice = network.stride_px, network.lattice

    def prepare(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """As the network does, in float32."""
        return self.network.prepare(pixels, colour)

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W) float32 -> features in float32, computed in float16."""
        dense, vector = self.network(image.half())
        return Features(dense.float(), vector.float())


def halve(detector: NucleusDetector) -> None:
    """Run the backbone in float16, in place.

    The head stays in float32: it is a small part of the time, and rounded scores tie, so that two neighbouring cells
    would both be peaks of one nucleus.
    """
    detector.backbone = HalfBackbone(detector.backbone)
