"""Multiple-instance learning by generalised means, as in SA-MIL (2023) and DWS-MIL (Jia et al., TMI 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

EXPONENT = 4
LEAST_PROBABILITY = 1e-4


def generalised_mean(maps: Tensor, exponent: float = EXPONENT) -> Tensor:
    """Probability of an image from those of its pixels, ``mean(p ** r) ** (1 / r)``: (B, K, H, W) -> (B, K)."""
    return maps.clamp(min=LEAST_PROBABILITY).pow(exponent).mean((2, 3)).pow(1 / exponent)


def image_cross_entropy(maps: Sequence[Tensor], label: Tensor, judged: Tensor) -> Tensor:
    """Cross-entropy of the generalised mean of every map, summed over maps and averaged over images and classes.

    Args:
        maps: (B, K, H, W) each, probabilities.
        label: (B, K), 1 where the image contains the class.
        judged: (B, K), 0 where no label of the image is given.
    """
    total = 0.0
    for each in maps:
        probability = generalised_mean(each)
        of_label = label * probability + (1 - label) * (1 - probability)
        total = total - judged * of_label.clamp(min=LEAST_PROBABILITY).log()
    return total.sum() / judged.sum().clamp(min=1)
