"""Prior self-activation maps (PSM, arXiv 2210.07862): the response of an activation network's shallow stage.

For each block b of the stage, ``alpha_k`` is the spatial mean of the gradient of the network's output with respect to
channel k, and ``M_b = sum_k alpha_k A_k``; M_b is rescaled to 0 .. 1, its positive part averaged over the blocks, and
rescaled again. The release repeats all of this for every picture. Here the weights and both ranges are fitted once, to
a sample of a slide: a map does not depend on the borders of tiles and needs no gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from muse_pipeline.core.config import Between, Fraction, NotNegative, OneOf
from muse_pipeline.data.stream import Seed
from muse_pipeline.models.activation import ActivationNetwork
from muse_pipeline.proposals.otsu_mask import blend_stains, haematoxylin
from muse_pipeline.tissue.find import drop_small


@dataclass(frozen=True, eq=False)
class ActivationMap:
    """A network with the weights and ranges of one slide.

    Attributes:
        network: network in evaluation mode.
        weights: (C,) weights alpha of the channels of each block.
        ranges: (least, most) value of each block's map in the sample.
        whole: (least, most) value of their mean in the sample.
    """

    network: ActivationNetwork
    weights: tuple[Tensor, ...]
    ranges: tuple[tuple[float, float], ...]
    whole: tuple[float, float]

    @torch.no_grad()
    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w) float32, 0 to 1, of (h, w, 3) uint8 ``pixels``."""
        _, blocks = _read_activations(self.network, pixels)
        mean = _mean_map(_weigh(blocks, self.weights), self.ranges, pixels.shape[:2], self.network)
        return _rescale(mean, self.whole).clamp(0, 1).numpy()


def fit_activation_map(network: ActivationNetwork, pictures: Sequence[np.ndarray]) -> ActivationMap:
    """Fit weights and ranges to ``pictures``, each (h, w, 3) uint8; a fit to one picture gives the paper's map.

    Args:
        network: network in evaluation mode; with random weights it is the control.
        pictures: a sample of a slide at the network's mpp.
    """
    gradients = [_spatial_gradients(network, pixels) for pixels in pictures]
    weights = tuple(torch.stack(of_block).mean(0) for of_block in zip(*gradients, strict=True))
    with torch.no_grad():
        maps = [_weigh(_read_activations(network, pixels)[1], weights) for pixels in pictures]
        ranges = tuple(_range(of_block) for of_block in zip(*maps, strict=True))
        sizes = [pixels.shape[:2] for pixels in pictures]
        means = [_mean_map(one, ranges, size, network) for one, size in zip(maps, sizes, strict=True)]
    return ActivationMap(network, weights, ranges, _range(means))


def _read_activations(network: ActivationNetwork, pixels: np.ndarray) -> tuple[Tensor, list[Tensor]]:
    """Output and block maps (C, h', w') of one picture, mirrored up to a multiple of the network's stride."""
    stride = network.backbone.stride_px
    height, width = pixels.shape[:2]
    pixels = np.pad(pixels, ((0, -height % stride), (0, -width % stride), (0, 0)), "symmetric")
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float()
    return network.read_activations(image)


def _spatial_gradients(network: ActivationNetwork, pixels: np.ndarray) -> list[Tensor]:
    with torch.enable_grad():
        output, blocks = _read_activations(network, pixels)
        return [gradient.mean((0, 2, 3)) for gradient in torch.autograd.grad(output.sum(), blocks)]


def _weigh(blocks: list[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """(h', w') for each block: the weighted sum of its channels."""
    return [torch.einsum("c,chw->hw", weight, block[0]) for weight, block in zip(weights, blocks, strict=True)]


def _mean_map(
    maps: list[Tensor], ranges: Sequence[tuple[float, float]], size: tuple[int, int], network: ActivationNetwork
) -> Tensor:
    """(h, w): the positive parts of rescaled maps, enlarged to the picture and averaged."""
    stride = network.backbone.stride_px
    padded = [side + -side % stride for side in size]
    rescaled = torch.stack([_rescale(one, limits) for one, limits in zip(maps, ranges, strict=True)])[None]
    enlarged = functional.interpolate(rescaled, padded, mode="bilinear", align_corners=False)
    return enlarged[0, :, : size[0], : size[1]].clamp(min=0).mean(0)


def _range(maps: Sequence[Tensor]) -> tuple[float, float]:
    return min(float(one.min()) for one in maps), max(float(one.max()) for one in maps)


def _rescale(values: Tensor, limits: tuple[float, float]) -> Tensor:
    low, high = limits
    return (values - low) / max(high - low, 1e-12)


FEATURES = ("stain", "jet", "colour")
FOREGROUNDS = ("haematoxylin", "green", "dark")
SAMPLE = 40_000  # pixels that clusters are fitted on
BATCH, ROUNDS, RESTARTS = 2_000, 60, 5


@dataclass(frozen=True)
class ClusterSettings:
    """Features of the clustering, and the rule that chooses the cluster of nuclei.

    Attributes:
        features: "stain": the map and the unscaled optical densities of both stains (scaled by their deviations, eosin
            would count as much as haematoxylin and split nuclei by the tissue over them); "jet": the colour map of the
            release plus ``beta`` times RGB; "colour": RGB alone, as a control.
        beta: weight of RGB in "jet".
        map_weight: optical density that the map's range, 0 to 1, counts for in "stain"; 0 clusters the stains alone.
        n_clusters: k; with three, the cluster richest in haematoxylin in "stain" contains only the darkest nuclei.
        foreground: "haematoxylin": the cluster with the most of it; "green": the greenest in the colour map alone
            (release of 2022); "dark": the smallest sum of the first two channels that are clustered (release of 2023).
        seed: seed of the sample and of the starts.
    """

    features: Annotated[str, OneOf(FEATURES)] = "stain"
    beta: Annotated[float, Between(0, 1e3)] = 1.0
    map_weight: Annotated[float, Between(0, 1e3)] = 0.5
    n_clusters: Annotated[int, Between(2, 20)] = 2
    foreground: Annotated[str, OneOf(FOREGROUNDS)] = "haematoxylin"
    seed: Seed = 0


PRESETS = {  # of the releases, to compare with; a config writes them out (docs/guide/label-free.md)
    "rel2022": ClusterSettings(features="jet", beta=0.5, n_clusters=3, foreground="green"),
    "rel2023": ClusterSettings(features="jet", beta=1.0, n_clusters=3, foreground="dark"),
}


@dataclass(frozen=True, eq=False)
class Clusters:
    """Fitted clusters.

    Attributes:
        settings: settings of the clustering.
        scale: (D,) factors of the features.
        centres: (k, D) centres in scaled features.
        foreground: index of the cluster of nuclei.
    """

    settings: ClusterSettings
    scale: np.ndarray
    centres: np.ndarray
    foreground: int

    def __call__(self, activation: np.ndarray, pixels: np.ndarray, stains: np.ndarray) -> np.ndarray:
        """(...) uint8: the cluster of each pixel.

        Args:
            activation: (...) values of the map, 0 to 1.
            pixels: (..., 3) uint8 RGB.
            stains: (..., 2) optical densities of haematoxylin and eosin.
        """
        values = features(self.settings, activation, pixels, stains) * self.scale
        return nearest(values.reshape(-1, values.shape[-1]), self.centres).reshape(activation.shape)


def fit_clusters(activation: np.ndarray, pixels: np.ndarray, stains: np.ndarray, settings: ClusterSettings) -> Clusters:
    """Fit clusters to a sample of a slide's pixels: (N,), (N, 3) uint8 and (N, 2), as ``Clusters`` takes them."""
    generator = np.random.default_rng(settings.seed)
    drawn = generator.permutation(len(activation))[:SAMPLE]
    activation, pixels, stains = activation[drawn], pixels[drawn], stains[drawn]
    values = features(settings, activation, pixels, stains)
    scale = np.ones(values.shape[1], np.float32)
    if settings.features == "stain":
        scale[0] = settings.map_weight
    values = values * scale
    centres = mini_batch_k_means(values, settings.n_clusters, generator)
    label = nearest(values, centres)
    rules = {
        "haematoxylin": stains[:, 0],
        "green": jet(activation)[:, 1],
        "dark": -values[:, :2].sum(1),
    }
    foreground = int(np.argmax(_means(label, rules[settings.foreground], len(centres))))
    return Clusters(settings, scale, centres, foreground)


def features(settings: ClusterSettings, activation: np.ndarray, pixels: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """(..., D) float32 unscaled features of the arguments of ``Clusters``."""
    if settings.features == "stain":
        return np.concatenate([activation[..., None], stains], -1).astype(np.float32)
    if settings.features == "colour":
        return pixels.astype(np.float32)
    return jet(activation) + np.float32(settings.beta) * pixels


def jet(activation: np.ndarray) -> np.ndarray:
    """(..., 3) float32, 0 to 255, of OpenCV's JET; its channels are blue, green, red and are so added to RGB."""
    levels = np.rint(activation * 255).astype(np.uint8).reshape(-1, 1)
    return cv2.applyColorMap(levels, cv2.COLORMAP_JET).reshape(*activation.shape, 3).astype(np.float32)


def nearest(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(N,) uint8 index of the nearest of ``centres`` (k, D) to each of ``values`` (N, D)."""
    return ((centres**2).sum(1) - 2 * values @ centres.T).argmin(1).astype(np.uint8)


def mini_batch_k_means(values: np.ndarray, k: int, generator: np.random.Generator) -> np.ndarray:
    """Centres (k, D) of ``values`` (N, D): the best of several starts.

    Sculley, "Web-scale k-means clustering", WWW 2010: each centre is the running mean of its values in the batches.
    Starts are drawn as by k-means++ (Arthur and Vassilvitskii, SODA 2007).
    """
    best, least = None, np.inf
    for _ in range(RESTARTS):
        centres = _spread_start(values, k, generator)
        n = np.zeros(k)
        for _ in range(ROUNDS):
            batch = values[generator.integers(len(values), size=BATCH)]
            label = nearest(batch, centres)
            n_batch = np.bincount(label, minlength=k)
            n += n_batch
            for one in np.flatnonzero(n_batch):
                centres[one] += (batch[label == one].mean(0) - centres[one]) * (n_batch[one] / n[one])
        error = float(((values - centres[nearest(values, centres)]) ** 2).sum())
        if error < least:
            best, least = centres, error
    return best


def _spread_start(values: np.ndarray, k: int, generator: np.random.Generator) -> np.ndarray:
    centres = [values[generator.integers(len(values))]]
    for _ in range(k - 1):
        distance = np.min([((values - centre) ** 2).sum(1, dtype=float) for centre in centres], 0)
        total = distance.sum()
        share = distance / total if total else None  # all alike: any will do
        centres.append(values[generator.choice(len(values), p=share)])
    return np.array(centres)


def _means(label: np.ndarray, values: np.ndarray, k: int) -> np.ndarray:
    """(k,) means of ``values`` by cluster; -inf where a cluster is empty."""
    n = np.bincount(label, minlength=k)
    return np.where(n > 0, np.bincount(label, values, minlength=k) / np.maximum(n, 1), -np.inf)


@dataclass(frozen=True)
class MaskSettings:
    """Settings of a slide's pseudo-masks.

    Attributes:
        clusters: features and rule of the clustering; docs/guide/label-free.md names those of the releases.
        min_area_um2: smallest object that is kept; 200 px at 40x in the release.
        max_hole_um2: smallest hole that is kept; smaller ones are filled; 64 px at 40x in the release.
        min_density: least mean optical density of haematoxylin in the mask.
        max_share: largest share of a picture that nuclei can cover.
    """

    clusters: ClusterSettings = field(default_factory=ClusterSettings)
    min_area_um2: NotNegative = 12.5
    max_hole_um2: NotNegative = 4.0
    min_density: Annotated[float, Between(0, 10)] = 0.3
    max_share: Fraction = 0.6


@dataclass(frozen=True, eq=False)
class PseudoMasker:
    """Pseudo-masker fitted to a slide; gives the pseudo-mask of any picture of it.

    Attributes:
        settings: settings of the masks.
        mpp: um per pixel of pictures.
        stains: (2, 3) unit vectors, haematoxylin first.
        activation: map of the slide; None if colour alone is clustered.
        clusters: clusters of the slide.
    """

    settings: MaskSettings
    mpp: float
    stains: np.ndarray
    activation: ActivationMap | None
    clusters: Clusters

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w) bool mask of (h, w, 3) uint8 ``pixels``; empty if it is too pale or too large to be of nuclei."""
        densities = stain_densities(pixels, self.stains)
        activation = _activation(self.activation, pixels)
        mask = self.clusters(activation, pixels, densities) == self.clusters.foreground
        mask = clean(mask, self.mpp, self.settings)
        is_pale = mask.any() and densities[..., 0][mask].mean() < self.settings.min_density
        return np.zeros_like(mask) if is_pale or mask.mean() > self.settings.max_share else mask


def fit_pseudo_masker(
    network: ActivationNetwork | None,
    sample: Sequence[np.ndarray],
    mpp: float,
    stains: np.ndarray | None = None,
    settings: MaskSettings | None = None,
) -> PseudoMasker:
    """Fit map and clusters to a slide.

    Args:
        network: network in evaluation mode; None clusters colour alone.
        sample: (h, w, 3) uint8 pictures drawn from the slide's tissue (``data.unlabelled``).
        mpp: um per pixel of pictures.
        stains: (2, 3) stain vectors of the slide (``colour.json``); the textbook's if None.
        settings: settings of the masks; the defaults if None.
    """
    settings = settings or MaskSettings()
    stains = blend_stains(stains)
    activation = network and fit_activation_map(network, sample)
    maps = np.concatenate([_activation(activation, pixels).ravel() for pixels in sample])
    pixels = np.concatenate([pixels.reshape(-1, 3) for pixels in sample])
    densities = np.concatenate([stain_densities(pixels, stains).reshape(-1, 2) for pixels in sample])
    return PseudoMasker(settings, mpp, stains, activation, fit_clusters(maps, pixels, densities, settings.clusters))


def stain_densities(pixels: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """(h, w, 2) float32: optical densities of haematoxylin and eosin."""
    return np.stack([haematoxylin(pixels, order) for order in (stains, stains[::-1])], -1)


def clean(mask: np.ndarray, mpp: float, settings: MaskSettings) -> np.ndarray:
    """(h, w) bool without holes and objects below the sizes of the settings; neighbours share an edge."""
    filled = ~drop_small(~mask, settings.max_hole_um2 / mpp**2, connectivity=4)
    return drop_small(filled, settings.min_area_um2 / mpp**2, connectivity=4)


def _activation(activation: ActivationMap | None, pixels: np.ndarray) -> np.ndarray:
    return np.zeros(pixels.shape[:2], np.float32) if activation is None else activation(pixels)
