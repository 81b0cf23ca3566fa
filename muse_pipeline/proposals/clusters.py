"""Nucleus or not by k-means on activation and colour (PSM, arXiv 2210.07862), fitted once per slide.

The release clusters ``JET(map) + beta * RGB`` and takes for nuclei the cluster that a rule on these colours names; the
rule changed between releases, and settings can follow both. By default the stain decides: nuclei are the cluster with
the most haematoxylin.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from muse_pipeline.config import require_between, require_one_of
from muse_pipeline.data.seeds import MAX_SEED

FEATURES = ("stain", "jet", "colour")
FOREGROUNDS = ("haematoxylin", "green", "dark")
SAMPLE = 40_000  # pixels that clusters are fitted on
BATCH, ROUNDS, RESTARTS = 2_000, 60, 5


@dataclass(frozen=True)
class ClusterSettings:
    """What is clustered, and which cluster is nuclei.

    Attributes:
        features: "stain": the map and the optical densities of both stains as they are (in units of their deviations
            eosin would count as much as haematoxylin, which parts nuclei by what lies over them); "jet": the colour map
            of the release plus ``beta`` times RGB; "colour": RGB alone, as a control.
        beta: of "jet".
        map_weight: optical density that the map's range, 0 to 1, counts for in "stain"; 0 leaves the stains alone.
        n_clusters: k; with three, the most haematoxylin in "stain" is only the darkest nuclei.
        foreground: "haematoxylin": the most of it; "green": the greenest in the colour map alone (release of 2022);
            "dark": the least sum of the first two channels of what is clustered (release of 2023).
        seed: of sample and starts.
    """

    features: str = "stain"
    beta: float = 1.0
    map_weight: float = 0.5
    n_clusters: int = 2
    foreground: str = "haematoxylin"
    seed: int = 0

    def __post_init__(self) -> None:
        require_between(self, "clusters", beta=(0, 1e3), map_weight=(0, 1e3), n_clusters=(2, 20), seed=(0, MAX_SEED))
        require_one_of(self, "clusters", features=FEATURES, foreground=FOREGROUNDS)


PRESETS = {  # of the releases, to compare with; a config writes them out (docs/psm.md)
    "rel2022": ClusterSettings(features="jet", beta=0.5, n_clusters=3, foreground="green"),
    "rel2023": ClusterSettings(features="jet", beta=1.0, n_clusters=3, foreground="dark"),
}


@dataclass(frozen=True, eq=False)
class Clusters:
    """Fitted clusters.

    Attributes:
        settings: that they were fitted by.
        scale: (D,) that features are multiplied by.
        centres: (k, D) in scaled features.
        foreground: index of the nuclei's.
        density: (k,) mean optical density of haematoxylin of each in the sample.
        share: (k,) of the sample's pixels.
    """

    settings: ClusterSettings
    scale: np.ndarray
    centres: np.ndarray
    foreground: int
    density: np.ndarray
    share: np.ndarray

    def __call__(self, activation: np.ndarray, pixels: np.ndarray, stains: np.ndarray) -> np.ndarray:
        """(...) uint8: the cluster of each pixel.

        Args:
            activation: (...) 0 to 1.
            pixels: (..., 3) uint8.
            stains: (..., 2) optical densities of haematoxylin and eosin.
        """
        values = features(self.settings, activation, pixels, stains) * self.scale
        return nearest(values.reshape(-1, values.shape[-1]), self.centres).reshape(activation.shape)


def fit_clusters(activation: np.ndarray, pixels: np.ndarray, stains: np.ndarray, settings: ClusterSettings) -> Clusters:
    """Clusters of a sample of a slide's pixels: (N,), (N, 3) uint8 and (N, 2), as ``Clusters`` takes them."""
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
    share = np.bincount(label, minlength=len(centres)) / len(label)
    return Clusters(settings, scale, centres, foreground, _means(label, stains[:, 0], len(centres)), share)


def features(settings: ClusterSettings, activation: np.ndarray, pixels: np.ndarray, stains: np.ndarray) -> np.ndarray:
    """(..., D) float32, unscaled, of what ``Clusters`` takes."""
    if settings.features == "stain":
        return np.concatenate([activation[..., None], stains], -1).astype(np.float32)
    if settings.features == "colour":
        return pixels.astype(np.float32)
    return jet(activation) + np.float32(settings.beta) * pixels


def jet(activation: np.ndarray) -> np.ndarray:
    """(..., 3) float32, 0 to 255: OpenCV's JET, whose channels are blue, green, red, and are so added to RGB."""
    levels = np.rint(activation * 255).astype(np.uint8).reshape(-1, 1)
    return cv2.applyColorMap(levels, cv2.COLORMAP_JET).reshape(*activation.shape, 3).astype(np.float32)


def nearest(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(N,) uint8 index of the nearest of ``centres`` (k, D) to each of ``values`` (N, D)."""
    return ((centres**2).sum(1) - 2 * values @ centres.T).argmin(1).astype(np.uint8)


def mini_batch_k_means(values: np.ndarray, k: int, generator: np.random.Generator) -> np.ndarray:
    """Centres (k, D) of ``values`` (N, D): the best of some starts.

    Sculley, "Web-scale k-means clustering", WWW 2010: each centre is the running mean of what the batches gave it.
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
