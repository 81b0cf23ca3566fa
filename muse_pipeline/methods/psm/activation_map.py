"""Prior self-activation maps (PSM, arXiv 2210.07862): the response of an activation network's
shallow stage.

For each block b of the stage, ``alpha_k`` is the spatial mean of the gradient of the network's
output with respect to channel k, and ``M_b = sum_k alpha_k A_k``; each M_b is rescaled to 0 .. 1,
their positive parts are averaged over the blocks, and the mean is rescaled again. The authors'
release repeats this for every picture. Here the weights and both ranges are fitted once to a sample
of the slide, so that later maps need no gradient and do not depend on how the slide is tiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import torch
from numpy import ndarray
from scipy.cluster.vq import kmeans, vq
from scipy.ndimage import mean
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.core.config import Between, OneOf
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.models.muse import MuseBackbone, ResNet50
from muse_pipeline.proposals.otsu_mask import blend_stains, haematoxylin
from muse_pipeline.tissue.components import drop_small

# One list per thread, because several threads run windows of a slide through the same network.
_RECORDED: ContextVar[list[Tensor] | None] = ContextVar("recorded", default=None)


class ActivationNetwork(nn.Module):
    """A self-supervised network; gradients of its output with respect to a stage's activations
    define PSM's map.

    The registered ``backbone`` must have a stage at stride 4.
    """

    def __init__(self, backbone: str):
        super().__init__()
        self.backbone: Backbone = BACKBONES[backbone]()
        self.head = nn.Linear(self.backbone.image_channels, 1)
        for block in _first_stage(self.backbone, backbone):
            block.register_forward_hook(_record)
        self.register_buffer("colour", torch.eye(3, 4), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W), 0 to 255 -> (B, 1); sides are multiples of the backbone's ``stride_px``."""
        return self.head(self.backbone(self.backbone.prepare(pixels, self.colour)).image)

    def read_activations(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The output (B,) and the activations (B, C, h, w) after each block of the stage at stride
        4.

        ``autograd.grad`` can differentiate the output with respect to them; ``pixels`` are as in
        ``forward``.
        """
        activations = []
        token = _RECORDED.set(activations)
        try:
            output = self(pixels)
        finally:
            _RECORDED.reset(token)
        return output[:, 0], activations


def _record(block: nn.Module, inputs: tuple, output: Tensor) -> None:
    if (activations := _RECORDED.get()) is not None:
        activations.append(output)


def _first_stage(backbone: Backbone, name: str) -> nn.Sequential:
    """The blocks of the stage at stride 4."""
    if isinstance(backbone, MuseBackbone) and isinstance(
        encoder := backbone.encoder["encoder"], ResNet50
    ):
        return encoder.layer1
    if stages := getattr(backbone, "stages", None):
        return stages[0]
    raise ConfigError(
        f"backbone '{name}' has no stage at stride 4; choose shallow_cnn, a compact one or a ResNet"
    )


class ActivationMap:
    """Computes the activation maps of the pictures of one slide, with a network in evaluation mode.

    The map is fitted to a sample of (h, w, 3) uint8 pictures at the network's mpp. A single picture
    gives the paper's map of that picture, and a network with random weights serves as the control.

    Attributes:
        weights: weights alpha (C,) of the channels of each block.
        ranges: (minimum, maximum) of each block's map in the sample.
        whole: (minimum, maximum) of the mean of the blocks' maps in the sample.
    """

    def __init__(self, network: ActivationNetwork, pictures: Sequence[ndarray]):
        self.network = network
        gradients = []
        with torch.enable_grad():
            for output, blocks in map(self._read, pictures):
                gradients.append(
                    [
                        gradient.mean((0, 2, 3))
                        for gradient in torch.autograd.grad(output.sum(), blocks)
                    ]
                )
        self.weights = tuple(
            torch.stack(of_block).mean(0) for of_block in zip(*gradients, strict=True)
        )
        with torch.no_grad():
            maps = [self._weigh(pixels) for pixels in pictures]
            self.ranges = tuple(_range(of_block) for of_block in zip(*maps, strict=True))
            sizes = [pixels.shape[:2] for pixels in pictures]
            self.whole = _range(
                [self._mean(of_picture, size) for of_picture, size in zip(maps, sizes, strict=True)]
            )

    @torch.no_grad()
    def __call__(self, pixels: ndarray) -> ndarray:
        """The activation map (h, w) float32, 0 to 1, of (h, w, 3) uint8 ``pixels``."""
        mean = self._mean(self._weigh(pixels), pixels.shape[:2])
        return _rescale(mean, self.whole).clamp(0, 1).numpy()

    def _read(self, pixels: ndarray) -> tuple[Tensor, list[Tensor]]:
        """``read_activations`` of a picture, padded by reflection to multiples of the stride."""
        stride = self.network.backbone.stride_px
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, -height % stride), (0, -width % stride), (0, 0)), "symmetric")
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
        return self.network.read_activations(image)

    def _weigh(self, pixels: ndarray) -> list[Tensor]:
        """For each block, the weighted sum (h', w') of its channels."""
        blocks = self._read(pixels)[1]
        return [
            torch.einsum("c,chw->hw", alpha, block[0])
            for alpha, block in zip(self.weights, blocks, strict=True)
        ]

    def _mean(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        """(h, w): the blocks' maps, rescaled, enlarged to the picture's ``size``, cut off at 0 and
        averaged.
        """
        stride = self.network.backbone.stride_px
        padded = [side + -side % stride for side in size]
        rescaled = torch.stack(
            [_rescale(values, limits) for values, limits in zip(maps, self.ranges, strict=True)]
        )
        enlarged = functional.interpolate(
            rescaled[None], padded, mode="bilinear", align_corners=False
        )
        return enlarged[0, :, : size[0], : size[1]].clamp(min=0).mean(0)


def _range(maps: Sequence[Tensor]) -> tuple[float, float]:
    return min(float(values.min()) for values in maps), max(float(values.max()) for values in maps)


def _rescale(values: Tensor, limits: tuple[float, float]) -> Tensor:
    low, high = limits
    return (values - low) / max(high - low, 1e-12)


FEATURES = ("stain", "jet")
FOREGROUNDS = ("haematoxylin", "green", "dark")
SAMPLE = 40_000  # number of pixels that the clusters are fitted to
RESTARTS = 5
MAP_WEIGHT = 0.5  # optical density that weighs as much as the map's whole range in "stain"


@dataclass(frozen=True)
class ClusterSettings:
    """Features of the clustering, and the rule that chooses the cluster of nuclei.

    Attributes:
        features: "stain": the map and the optical densities of both stains, not standardised
            (otherwise eosin would weigh as much as haematoxylin and split nuclei by the tissue
            above them); "jet": the map in the release's colours plus ``beta`` times RGB.
        beta: weight of RGB in "jet".
        n_clusters: number of clusters; with "stain", 3 clusters leave only the darkest nuclei in
            the foreground.
        foreground: "haematoxylin": the cluster with the most haematoxylin; "green": the greenest
            cluster in the map's colours (2022 release); "dark": the cluster with the smallest sum
            of the first two features (2023 release).
    """

    features: Annotated[str, OneOf(FEATURES)] = "stain"
    beta: Annotated[float, Between(0, 1e3)] = 1.0
    n_clusters: Annotated[int, Between(2, 20)] = 2
    foreground: Annotated[str, OneOf(FOREGROUNDS)] = "haematoxylin"


class Clusters:
    """Clusters of a slide's pixels, from N activations (0 to 1), RGB (N, 3) uint8 and densities (N,
    2) of both stains.

    Attributes:
        centres: (k, D) cluster centres in the space of features.
        foreground: index of the cluster of nuclei.
    """

    def __init__(
        self, activation: ndarray, pixels: ndarray, stains: ndarray, settings: ClusterSettings
    ):
        self.settings, generator = settings, np.random.default_rng(0)
        drawn = generator.permutation(len(activation))[:SAMPLE]
        activation = activation[drawn]
        pixels = pixels[drawn]
        stains = stains[drawn]
        values = features(settings, activation, pixels, stains)
        self.centres = kmeans(values, settings.n_clusters, RESTARTS, seed=generator)[0]
        rules = {
            "haematoxylin": stains[:, 0],
            "green": jet(activation)[:, 1],
            "dark": -values[:, :2].sum(1),
        }
        label = vq(values, self.centres)[0]
        means = mean(rules[settings.foreground], label, range(len(self.centres)))
        self.foreground = int(np.nanargmax(means))  # a cluster may be empty

    def __call__(self, activation: ndarray, pixels: ndarray, stains: ndarray) -> ndarray:
        """Cluster of each pixel, (...) int, from arguments (...), (..., 3) and (..., 2) as in the
        constructor.
        """
        values = features(self.settings, activation, pixels, stains)
        return vq(values.reshape(-1, values.shape[-1]), self.centres)[0].reshape(activation.shape)


def features(
    settings: ClusterSettings, activation: ndarray, pixels: ndarray, stains: ndarray
) -> ndarray:
    """(..., D) float32 features of pixels; arguments as in ``Clusters``."""
    if settings.features == "stain":
        return np.concatenate([MAP_WEIGHT * activation[..., None], stains], -1).astype(np.float32)
    return jet(activation) + np.float32(settings.beta) * pixels


def jet(activation: ndarray) -> ndarray:
    """Activation in OpenCV's JET colours, (..., 3) float32, 0 to 255; they are BGR, but added to
    RGB as they are.
    """
    levels = np.rint(activation * 255).astype(np.uint8).reshape(-1, 1)
    return (
        cv2.applyColorMap(levels, cv2.COLORMAP_JET).reshape(*activation.shape, 3).astype(np.float32)
    )


MIN_AREA_UM2 = 12.5  # of an object; 200 px at 40x in the release
MAX_HOLE_UM2 = 4.0  # smaller holes are filled; 64 px at 40x in the release
MIN_DENSITY = 0.3  # mean optical density of haematoxylin in a mask; a paler mask is emptied
MAX_SHARE = 0.6  # of a picture that nuclei can cover; a larger mask is emptied


class PseudoMasker:
    """Pseudo-masks of the pictures of a slide, fitted to random pictures (h, w, 3) uint8 of its
    tissue.

    Without ``stains`` (2, 3), textbook vectors are used.
    """

    def __init__(
        self,
        network: ActivationNetwork,
        sample: Sequence[ndarray],
        mpp: float,
        stains: ndarray | None = None,
        settings: ClusterSettings = ClusterSettings(),
    ):
        self.mpp, self.stains = mpp, blend_stains(stains)
        self.activation = ActivationMap(network, sample)
        maps = np.concatenate([self.activation(pixels).ravel() for pixels in sample])
        pixels = np.concatenate([pixels.reshape(-1, 3) for pixels in sample])
        densities = np.concatenate(
            [stain_densities(pixels, self.stains).reshape(-1, 2) for pixels in sample]
        )
        self.clusters = Clusters(maps, pixels, densities, settings)

    def __call__(self, pixels: ndarray) -> ndarray:
        """(h, w) bool: the nuclei in (h, w, 3) uint8 ``pixels``; none if the mask is too pale or
        too large.
        """
        densities = stain_densities(pixels, self.stains)
        clusters = self.clusters(self.activation(pixels), pixels, densities)
        mask = clean(clusters == self.clusters.foreground, self.mpp)
        is_pale = mask.any() and densities[..., 0][mask].mean() < MIN_DENSITY
        return np.zeros_like(mask) if is_pale or mask.mean() > MAX_SHARE else mask


def stain_densities(pixels: ndarray, stains: ndarray) -> ndarray:
    """(h, w, 2) float32: optical densities of haematoxylin and eosin."""
    return np.stack([haematoxylin(pixels, order) for order in (stains, stains[::-1])], -1)


def clean(mask: ndarray, mpp: float) -> ndarray:
    """``mask`` without small holes and small objects; only pixels that share an edge touch."""
    filled = ~drop_small(~mask, MAX_HOLE_UM2 / mpp**2, connectivity=4)
    return drop_small(filled, MIN_AREA_UM2 / mpp**2, connectivity=4)
