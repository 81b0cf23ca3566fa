"""PSM's second and last network: masks without labels teach a network that sees many pictures, and so less noise."""

from __future__ import annotations

import torch
from torch import Tensor

from muse_pipeline.core.config import require_one_of
from muse_pipeline.data.mask_windows import MaskBatch
from muse_pipeline.losses.psm import partial_nll
from muse_pipeline.methods.averaged import AveragedNetwork
from muse_pipeline.methods.base import Method
from muse_pipeline.models.mask_network import MaskNetwork

MASK_FOREGROUNDS = ("positive", "ignore")
VORONOI_WEIGHT = 1.5


class MaskTraining(Method):
    """NLL of the mask plus 1.5 times NLL of the Voronoi label (arXiv 2210.07862); averaged weights leave the run.

    Args:
        network: what is trained.
        mask_fg: "positive", or "ignore": nuclei of the mask are not judged, and only dots of the Voronoi label are
            positive, as in every release of PSM's code.
        voronoi_weight: see above; the term is left out of batches without points.

    Raises:
        ConfigError: ``mask_fg`` is something else.
    """

    def __init__(self, network: MaskNetwork, mask_fg: str = "positive", voronoi_weight: float = VORONOI_WEIGHT):
        super().__init__()
        self.network, self.average = network, AveragedNetwork(network)
        self.mask_fg, self.voronoi_weight = mask_fg, voronoi_weight
        require_one_of(self, "", mask_fg=MASK_FOREGROUNDS)

    def losses(self, batch: MaskBatch, turn: int, progress: float) -> dict[str, Tensor]:
        """Two terms; without points the mask's alone, whose foreground is positive then."""
        logit = self.network(batch.pixels, batch.colour)
        mask = batch.mask
        if self.mask_fg == "ignore" and batch.voronoi is not None:
            mask = torch.where(mask == 1, -torch.ones_like(mask), mask)
        terms = {"mask": partial_nll(logit, mask)}
        if batch.voronoi is not None:
            terms["voronoi"] = partial_nll(logit, batch.voronoi)
        return {"loss": terms["mask"] + self.voronoi_weight * terms.get("voronoi", 0.0), **terms}

    def after_step(self, progress: float) -> None:
        """The average follows."""
        self.average.follow(self.network)

    def trained(self) -> MaskNetwork:
        """The averaged network."""
        return self.average.network
