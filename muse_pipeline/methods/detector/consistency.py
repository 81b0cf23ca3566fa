"""L_cons of LFoV fine-tuning (MUSE, arXiv 2511.05170): pseudo-labels outside of annotations.

The paper defines the region (outside Omega), the quantities (types, no offsets) and the proposals (those more confident
than a threshold). All numbers are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.core.config import require_between
from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.methods.detector.criterion import unannotated_cells
from muse_pipeline.models.heads import NucleusMaps

MEMORY = 0.99  # of the running mean confidence of each type


@dataclass(frozen=True)
class ConsistencySettings:
    """Choice and weight of pseudo-labels.

    Attributes:
        weight: weight of the loss.
        ramp: fraction of the run over which the weight rises from 0.
        threshold: lowest probability of a pseudo-label, relative to the running mean confidence of its class.
        floor: lower bound of that product.
        background_threshold: lowest probability of pseudo-background.
        background_ratio: pseudo-background cells per pseudo-nucleus.
    """

    weight: float = 1.0
    ramp: float = 0.2
    threshold: float = 0.8
    floor: float = 0.6
    background_threshold: float = 0.95
    background_ratio: float = 3.0

    def __post_init__(self) -> None:
        for name in ("ramp", "threshold", "floor", "background_threshold"):
            require_between(self, "consistency", **{name: (0, 1)})
        require_between(self, "consistency", weight=(0, math.inf), background_ratio=(0, math.inf))


class Teacher(NamedTuple):
    """Output of the averaged network for the weak view.

    Attributes:
        maps: maps of its head.
        prob: (B, 1, h, w) probability that a cell is a nucleus.
        is_peak: (B, 1, h, w) bool, True for the peak of a nucleus.
    """

    maps: NucleusMaps
    prob: Tensor
    is_peak: Tensor


class PseudoLabels(NamedTuple):
    """Pseudo-labels that the teacher gives the student.

    Attributes:
        nuclei: (B, 1, h, w) bool, the cells of pseudo-nuclei.
        label: (B, 1, h, w) class index of each cell.
        background: (B, 1, h, w) bool, the cells of pseudo-background.
    """

    nuclei: Tensor
    label: Tensor
    background: Tensor


class ConsistencyTerm(nn.Module):
    """Cross-entropy over types and background between the student and the teacher's confident cells outside Omega.

    Args:
        settings: settings of the term.
        class_weights: (C,) weights of the classes in the cross-entropy over types, as in the loss on labels.
        mpp: um per pixel of the windows.
    """

    def __init__(self, settings: ConsistencySettings, class_weights: Tensor, mpp: float):
        super().__init__()
        self.settings, self.cell_um = settings, CELL_PX * mpp
        self.register_buffer("class_weights", class_weights)
        self.register_buffer("confidence", torch.ones(len(class_weights)))

    def forward(self, student: NucleusMaps, teacher: Teacher, batch: LabelledBatch) -> dict[str, Tensor]:
        """The unweighted term, and pseudo-nuclei per window."""
        nuclei, label, background = self.choose(teacher, unannotated_cells(batch))
        type_error = functional.cross_entropy(student.label, label[:, 0], self.class_weights, reduction="none")[:, None]
        error = (functional.softplus(-student.centre) + type_error) * nuclei
        error = error + functional.softplus(student.centre) * background
        return {
            "consistency": error.sum() / (nuclei.sum() + background.sum()).clamp(min=1),
            "pseudo_nuclei": nuclei.sum() / len(nuclei),
        }

    def choose(self, teacher: Teacher, outside: Tensor) -> PseudoLabels:
        """Choose confident cells of the teacher among ``outside`` (B, 1, h, w); follows its mean confidence."""
        confidence, label = (teacher.maps.label.softmax(1) * teacher.prob).max(1, keepdim=True)
        is_peak = teacher.is_peak & outside
        threshold = (self.settings.threshold * self.confidence).clamp(min=self.settings.floor)
        nuclei = is_peak & (confidence >= threshold[label])
        if self.training:
            self._remember(confidence[is_peak], label[is_peak])
        sure = outside & (1 - teacher.prob >= self.settings.background_threshold)
        return PseudoLabels(nuclei, label, self._draw_background(sure, nuclei))

    def weight(self, progress: float) -> float:
        """Weight of the term after a fraction ``progress`` of the run."""
        return self.settings.weight * min(1.0, progress / max(self.settings.ramp, 1e-9))

    @torch.no_grad()
    def _remember(self, confidence: Tensor, label: Tensor) -> None:
        """Follow the mean confidence of each type among the cells for which it is the likeliest of all."""
        likely = confidence > 0.5
        n = torch.bincount(label[likely], minlength=len(self.confidence))
        mean = torch.bincount(label[likely], confidence[likely], minlength=len(self.confidence)) / n.clamp(min=1)
        self.confidence.lerp_(torch.where(n > 0, mean.to(self.confidence), self.confidence), 1 - MEMORY)

    def _draw_background(self, candidates: Tensor, nuclei: Tensor) -> Tensor:
        """Draw as many of the candidates as the number of pseudo-nuclei allows."""
        n = int(self.settings.background_ratio * int(nuclei.sum()))
        order = torch.rand(candidates.shape, device=candidates.device).masked_fill(~candidates, 2).flatten().argsort()
        drawn = torch.zeros_like(candidates)
        drawn.view(-1)[order[:n]] = True
        return drawn & candidates
