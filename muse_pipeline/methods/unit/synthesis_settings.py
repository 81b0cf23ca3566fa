"""Settings of synthesised tissue: sizes and shapes of nuclei, glands and densities, in um.

The defaults reproduce the statistics of 81 nuclei measured in the example masks of UNITPathSSL's framework figure
(``experiments/synthetic_masks``; 0.25 um/px is assumed). The authors' generator was never published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from muse_pipeline.core.config import Between, Fraction, OneOf

KINDS = ("Epithelial", "Stroma")  # kinds 0 and 1; all nuclei that are not on the rim of a gland are stroma nuclei
EPITHELIAL, STROMA = range(2)
PLACEMENTS = ("structured", "uniform")


@dataclass(frozen=True)
class Population:
    """Sizes and shapes of the nuclei of one kind.

    Attributes:
        major_um: median of the long axis, which is distributed log-normally.
        major_spread: standard deviation of the long axis's logarithm.
        ratio: parameters (alpha, beta) of the Beta distribution of short axis / long axis.
        spindles: fraction of slender nuclei, whose ratio of axes is uniform between 0.13 and 0.25.
    """

    major_um: Annotated[float, Between(1, 100)]
    major_spread: Annotated[float, Between(0, 2)]
    ratio: tuple[float, float]
    spindles: Fraction = 0.05

    def draw_axes(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw the full long and short axes of n nuclei at random: (n, 2) um."""
        major = self.major_um * np.exp(self.major_spread * rng.standard_normal(n))
        slender = rng.random(n) < self.spindles
        ratio = np.where(slender, rng.uniform(*SPINDLE_RATIO, n), rng.beta(*self.ratio, n).clip(SPINDLE_RATIO[1], 1))
        return np.stack([major, ratio * major], 1)

    @property
    def mean_diameter_um(self) -> float:
        """Diameter of a circle with the area of a nucleus that has the median long axis and the mean ratio of axes."""
        alpha, beta = self.ratio
        return self.major_um * math.sqrt(alpha / (alpha + beta))


SPINDLE_RATIO = (0.13, 0.25)


@dataclass(frozen=True)
class TissueSettings:
    """Settings of synthesised tissue.

    Attributes:
        epithelial: nuclei side by side on the rims of glands, with long axes across the rim.
        stroma: nuclei between glands, at least 0.8 mean diameters apart, with random angles.
        glands_per_mm2: number of closed curves tried per mm2; curves that would cross an earlier one are left out.
        gland_radius_um: range of a gland's mean radius, chosen uniformly.
        gland_wobble: standard deviation of the rim's k-th amplitude (k = 2 to 4), in units of mean radius / k.
        rim_spacing: range of the distance between neighbours on a rim, in short axes, chosen uniformly.
        rim_jitter_um: standard deviation of positions across the rim.
        rim_tilt_deg: standard deviation of the angle between long axes and the rim's normal.
        clear_band: probability that a band around a gland is free of nuclei.
        clear_band_um: range of the width of that band, chosen uniformly.
        stroma_per_mm2: nuclei outside glands per mm2.
        sparsest: minimum factor of ``stroma_per_mm2``; each mask gets a factor chosen uniformly between this and 1.
        roughness: range of the amplitude of an outline's Fourier series, relative to its radius, chosen uniformly.
        max_overlap: largest fraction of its area that a nucleus may lose to earlier ones without being left out.
        min_area_um2: minimum area of an instance, or of its part inside the mask; smaller ones are left out.
        magnification: m; the scale of each mask is chosen log-uniformly between 1 / m and m.
        placement: "structured", or "uniform" for the same nuclei at random positions and angles.
    """

    epithelial: Population = field(default_factory=lambda: Population(9.6, 0.21, (2.7, 2.2), 0.04))
    stroma: Population = field(default_factory=lambda: Population(7.8, 0.28, (2.5, 1.5), 0.03))
    glands_per_mm2: Annotated[float, Between(0, 1000)] = 110.0
    gland_radius_um: tuple[float, float] = (22.5, 55.0)
    gland_wobble: float = 0.15
    rim_spacing: tuple[float, float] = (0.9, 1.3)
    rim_jitter_um: float = 0.75
    rim_tilt_deg: float = 20.0
    clear_band: float = 0.5
    clear_band_um: tuple[float, float] = (3.75, 15.0)
    stroma_per_mm2: Annotated[float, Between(1, 30_000)] = 3800.0
    sparsest: Annotated[float, Between(0.01, 1)] = 1.0
    roughness: tuple[float, float] = (0.04, 0.08)
    max_overlap: Annotated[float, Between(0, 0.5)] = 0.1
    min_area_um2: float = 10.0
    magnification: Annotated[float, Between(1, 3)] = 1.0
    placement: Annotated[str, OneOf(PLACEMENTS)] = "structured"
