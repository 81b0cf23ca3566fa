"""Teacher and student in each round: the swaps of IKD-MIL.

The paper describes an exchange of roles; its released code restarts both networks from the best student.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from muse_pipeline.methods.mil.config import StageConfig
from muse_pipeline.methods.mil.validation import SCORES
from muse_pipeline.models.region import RegionNetwork
from muse_pipeline.models.weights import load_weights
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint

TEACHER = "teacher"  # in the networks of a student's checkpoint
TEACHER_SCORES = "teacher_scores"  # in its description


@dataclass(frozen=True, eq=False)
class Round:
    """Networks at the beginning of a round.

    Attributes:
        student: network to be trained.
        teacher: network that stays fixed.
        teacher_scores: scores of the teacher's weights on the validation images; empty without any.
        text: line about the networks for the log.
    """

    student: RegionNetwork
    teacher: RegionNetwork
    teacher_scores: dict[str, float]
    text: str


def begin_round(new_network: Callable[[], RegionNetwork], config: StageConfig) -> Round:
    """Load the networks of a round.

    After the teacher's stage, the teacher trains a new network. After a round, the swap of the config takes place,
    unless the student's score is lower than its teacher's by more than the tolerance: then both keep their roles.

    Args:
        new_network: function that makes a network with the weights that training starts from.
        config: settings of the round.

    Raises:
        CheckpointError: the checkpoint of the stage before does not fit.
    """
    path = config.previous
    before = load_checkpoint(path)
    if TEACHER not in before.networks:
        teacher = _load_trained(new_network(), before, path)
        return Round(new_network(), teacher, before.meta["scores"], "the first teacher teaches a new network")
    trained = _load_trained(new_network(), before, path)
    old_teacher = new_network()
    old_teacher.load_state_dict(before.networks[TEACHER])
    if not is_good_enough(before, config):
        scores = before.meta[TEACHER_SCORES]
        return Round(trained, old_teacher, scores, "the student is worse than its teacher: no swap")
    if config.student.swap == "exchange":
        return Round(old_teacher, trained, before.meta["scores"], "the student teaches its old teacher")
    copy = _load_trained(new_network(), before, path)
    return Round(copy, trained, before.meta["scores"], "the student teaches a copy of itself")


def is_good_enough(student: Checkpoint, config: StageConfig) -> bool:
    """True if the student of a round may become the teacher; always without validation."""
    name = SCORES[config.selection]
    scores, of_teacher = student.meta["scores"], student.meta[TEACHER_SCORES]
    return name not in scores or scores[name] >= of_teacher[name] - config.student.tolerance


def _load_trained(network: RegionNetwork, checkpoint: Checkpoint, path: Path) -> RegionNetwork:
    load_weights(network.backbone, checkpoint.backbone, path, always_resample=False)
    network.sides.load_state_dict(checkpoint.head)
    return network
