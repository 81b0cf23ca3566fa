"""What an activation network is trained to say about unlabelled windows: the five tasks that PSM's authors released."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from muse_pipeline.losses.psm import (
    contrastive_hinge,
    detached_similarity,
    mean_value_regression,
    rotation_regression,
    rotation_similarity,
)
from muse_pipeline.methods import TASKS
from muse_pipeline.models.activation import ActivationNetwork


class ActivationTask:
    """A loss of a network on windows.

    Attributes:
        n_outputs: that the network needs.
    """

    n_outputs = 1

    def __call__(self, network: ActivationNetwork, pixels: Tensor) -> Tensor:
        """Scalar loss on (B, 3, S, S) windows, 0 to 255."""
        raise NotImplementedError


@TASKS.register("similarity")
class Similarity(ActivationTask):
    """The same output for a window and its half turn: PSM's default."""

    def __call__(self, network: ActivationNetwork, pixels: Tensor) -> Tensor:
        """See ``losses.psm``."""
        return rotation_similarity(*_both_ways(network, pixels))


@TASKS.register("contrastive")
class Contrastive(ActivationTask):
    """A half turn changes the output less than another window of the batch does."""

    def __call__(self, network: ActivationNetwork, pixels: Tensor) -> Tensor:
        """See ``losses.psm``; the negative of a window is the one before it."""
        output, turned = _both_ways(network, pixels)
        return contrastive_hinge(output, turned, output.roll(1, 0))


@TASKS.register("rotation")
class Rotation(ActivationTask):
    """By how many quarter turns a window was turned."""

    def __call__(self, network: ActivationNetwork, pixels: Tensor) -> Tensor:
        """See ``losses.psm``."""
        quarter_turns = torch.randint(4, (len(pixels),))
        turned = [torch.rot90(one, int(k), (1, 2)) for one, k in zip(pixels, quarter_turns, strict=True)]
        return rotation_regression(network(torch.stack(turned)), quarter_turns.to(pixels))


@TASKS.register("simsiam")
class SimSiamLike(ActivationTask):
    """Each of two views follows the other, on many outputs."""

    n_outputs = 1000

    def __call__(self, network: ActivationNetwork, pixels: Tensor) -> Tensor:
        """See ``losses.psm``."""
        return detached_similarity(*_both_ways(network, pixels))


@TASKS.register("mean_value")
class MeanValue(ActivationTask):
    """How bright a window is."""

    def __call__(self, network: ActivationNetwork, pixels: Tensor) -> Tensor:
        """See ``losses.psm``."""
        return mean_value_regression(network(pixels), pixels)


def _both_ways(network: Callable[[Tensor], Tensor], pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of windows and of their half turns, from one pass, so that batch norms see both alike."""
    output, turned = network(torch.cat((pixels, pixels.flip(2, 3)))).chunk(2)
    return output, turned
