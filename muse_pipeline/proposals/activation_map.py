"""Prior self-activation maps (PSM, arXiv 2210.07862): where an activation network's shallow stage answers.

For each block b of the stage, ``alpha_k`` is the spatial mean of the gradient of the network's output with respect to
channel k, and ``M_b = sum_k alpha_k A_k``; M_b is stretched to 0 .. 1, its positive part averaged over the blocks, and
stretched again. The release does all of it anew for every picture. Here the weights and both ranges are fitted on a
sample of a slide and then stay: a map so depends on no tile's borders, and needs no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from muse_pipeline.models.activation import ActivationNetwork


@dataclass(frozen=True, eq=False)
class ActivationMap:
    """A network with the weights and ranges of one slide.

    Attributes:
        network: in evaluation mode.
        layer: "shallow", or "deep" as a control.
        weights: (C,) of each block, alpha.
        ranges: (least, most) of each block's map in the sample.
        whole: (least, most) of their mean in the sample.
    """

    network: ActivationNetwork
    layer: str
    weights: tuple[Tensor, ...]
    ranges: tuple[tuple[float, float], ...]
    whole: tuple[float, float]

    @torch.no_grad()
    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w) float32, 0 to 1, of (h, w, 3) uint8 ``pixels``."""
        _, blocks = _look(self.network, pixels, self.layer)
        mean = _mean_map(_weigh(blocks, self.weights), self.ranges, pixels.shape[:2], self.network)
        return _stretch(mean, self.whole).clamp(0, 1).numpy()


def fit_activation_map(
    network: ActivationNetwork, pictures: Sequence[np.ndarray], layer: str = "shallow"
) -> ActivationMap:
    """Weights and ranges over ``pictures``, each (h, w, 3) uint8; fitted on one, its map is that of the paper.

    Args:
        network: in evaluation mode; with random weights it is the control.
        pictures: a sample of a slide at the network's mpp.
        layer: see ``models.activation.LAYERS``.
    """
    gradients = [_spatial_gradients(network, pixels, layer) for pixels in pictures]
    weights = tuple(torch.stack(of_block).mean(0) for of_block in zip(*gradients, strict=True))
    with torch.no_grad():
        maps = [_weigh(_look(network, pixels, layer)[1], weights) for pixels in pictures]
        ranges = tuple(_range(of_block) for of_block in zip(*maps, strict=True))
        sizes = [pixels.shape[:2] for pixels in pictures]
        means = [_mean_map(one, ranges, size, network) for one, size in zip(maps, sizes, strict=True)]
    return ActivationMap(network, layer, weights, ranges, _range(means))


def _look(network: ActivationNetwork, pixels: np.ndarray, layer: str) -> tuple[Tensor, list[Tensor]]:
    """Output and block maps (C, h', w') of one picture, mirrored up to a multiple of the network's stride."""
    stride = network.backbone.stride_px
    height, width = pixels.shape[:2]
    pixels = np.pad(pixels, ((0, -height % stride), (0, -width % stride), (0, 0)), "symmetric")
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
    return network.look(image, layer)


def _spatial_gradients(network: ActivationNetwork, pixels: np.ndarray, layer: str) -> list[Tensor]:
    with torch.enable_grad():
        output, blocks = _look(network, pixels, layer)
        return [gradient.mean((0, 2, 3)) for gradient in torch.autograd.grad(output.sum(), blocks)]


def _weigh(blocks: list[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """(h', w') for each block: the sum of its channels by their weights."""
    return [torch.einsum("c,chw->hw", weight, block[0]) for weight, block in zip(weights, blocks, strict=True)]


def _mean_map(
    maps: list[Tensor], ranges: Sequence[tuple[float, float]], size: tuple[int, int], network: ActivationNetwork
) -> Tensor:
    """(h, w): the positive parts of stretched maps, enlarged to the picture and averaged."""
    stride = network.backbone.stride_px
    padded = [side + -side % stride for side in size]
    stretched = torch.stack([_stretch(one, limits) for one, limits in zip(maps, ranges, strict=True)])[None]
    enlarged = functional.interpolate(stretched, padded, mode="bilinear", align_corners=False)
    return enlarged[0, :, : size[0], : size[1]].clamp(min=0).mean(0)


def _range(maps: Sequence[Tensor]) -> tuple[float, float]:
    return min(float(one.min()) for one in maps), max(float(one.max()) for one in maps)


def _stretch(values: Tensor, limits: tuple[float, float]) -> Tensor:
    low, high = limits
    return (values - low) / max(high - low, 1e-12)
