"""First stage of PSM: an activation network is trained on a self-supervised task, without any label."""

from __future__ import annotations

from torch import Tensor, nn

from muse_pipeline.methods import TASKS
from muse_pipeline.methods.base import Method
from muse_pipeline.models.activation import ActivationNetwork


class PriorSelfActivation(Method):
    """One task, one network (arXiv 2210.07862).

    Args:
        network: with as many outputs as the task needs.
        task: registered name, see ``activation_tasks``.
    """

    def __init__(self, network: ActivationNetwork, task: str):
        super().__init__()
        self.network, self.task = network, TASKS[task]()

    def losses(self, batch: Tensor, turn: int, progress: float) -> dict[str, Tensor]:
        """The task's loss on (B, 3, S, S) windows."""
        return {"loss": self.task(self.network, batch)}

    def trained(self) -> nn.Module:
        """The network."""
        return self.network
