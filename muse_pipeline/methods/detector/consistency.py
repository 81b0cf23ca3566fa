"""L_cons of LFoV fine-tuning (MUSE, arXiv 2511.05170): pseudo-labels where nobody annotated.

The paper says where (outside Omega), on what (types, no offsets) and of which proposals (those more confident than a
threshold). All numbers are ours.
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
from muse_pipeline.data.augment import HiddenNuclei, LabelledBatch
from muse_pipeline.methods.detector.criterion import unannotated_cells
from muse_pipeline.models.heads import NucleusMaps, own_places

MEMORY = 0.99  # of the running mean confidence of each type
RIGHT_UM = 3.0  # a pseudo-label no further than this from a hidden nucleus of its class is right


@dataclass(frozen=True)
class ConsistencySettings:
    """How pseudo-labels are chosen and how much they count.

    Attributes:
        weight: of the term.
        ramp: share of the run over which the weight rises from 0.
        threshold: least probability of a pseudo-label, times the mean confidence of its type so far.
        floor: the least that this product may be.
        background_threshold: least probability of "no nucleus".
        background_ratio: pseudo-background cells for each pseudo-nucleus.
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
    """What the averaged network says about the weak view.

    Attributes:
        maps: of its head.
        prob: (B, 1, h, w) that a cell speaks for a nucleus.
        speaks: (B, 1, h, w) bool, whether the cell is its nucleus' only one.
    """

    maps: NucleusMaps
    prob: Tensor
    speaks: Tensor


class ConsistencyTerm(nn.Module):
    """Cross-entropy over types and background between the student and the teacher's confident cells outside Omega.

    Args:
        settings: see there.
        n_classes: C.
        mpp: um per pixel of the windows.
    """

    def __init__(self, settings: ConsistencySettings, n_classes: int, mpp: float):
        super().__init__()
        self.settings, self.cell_um = settings, CELL_PX * mpp
        self.register_buffer("confidence", torch.ones(n_classes))

    def forward(self, student: NucleusMaps, teacher: Teacher, batch: LabelledBatch) -> dict[str, Tensor]:
        """The unweighted term; pseudo-nuclei per window, and how many of them are right where that is known."""
        outside = unannotated_cells(batch)
        confidence, label = (teacher.maps.label.softmax(1) * teacher.prob).max(1, keepdim=True)
        speaks = teacher.speaks & outside
        threshold = (self.settings.threshold * self.confidence).clamp(min=self.settings.floor)
        nuclei = speaks & (confidence >= threshold[label])
        if self.training:
            self._remember(confidence[speaks], label[speaks])
        background = self._draw_background(outside & (1 - teacher.prob >= self.settings.background_threshold), nuclei)
        type_error = functional.cross_entropy(student.label, label[:, 0], reduction="none")[:, None]
        error = (functional.softplus(-student.centre) + type_error) * nuclei
        error = error + functional.softplus(student.centre) * background
        terms = {
            "consistency": error.sum() / (nuclei.sum() + background.sum()).clamp(min=1),
            "pseudo_nuclei": nuclei.sum() / len(nuclei),
        }
        if batch.hidden is not None:
            terms["pseudo_right"] = self._is_right(teacher.maps, nuclei, label, batch.hidden).sum() / len(nuclei)
        return terms

    def weight(self, progress: float) -> float:
        """Of the term, after a share ``progress`` of the run."""
        return self.settings.weight * min(1.0, progress / max(self.settings.ramp, 1e-9))

    @torch.no_grad()
    def _remember(self, confidence: Tensor, label: Tensor) -> None:
        """Follow the mean confidence of each type among the cells that are more likely it than anything else."""
        likely = confidence > 0.5
        n = torch.bincount(label[likely], minlength=len(self.confidence))
        mean = torch.bincount(label[likely], confidence[likely], minlength=len(self.confidence)) / n.clamp(min=1)
        self.confidence.lerp_(torch.where(n > 0, mean.to(self.confidence), self.confidence), 1 - MEMORY)

    def _draw_background(self, candidates: Tensor, nuclei: Tensor) -> Tensor:
        """As many of the candidates, at random, as the pseudo-nuclei allow."""
        n = int(self.settings.background_ratio * int(nuclei.sum()))
        order = torch.rand(candidates.shape, device=candidates.device).masked_fill(~candidates, 2).flatten().argsort()
        drawn = torch.zeros_like(candidates)
        drawn.view(-1)[order[:n]] = True
        return drawn & candidates

    def _is_right(self, maps: NucleusMaps, nuclei: Tensor, label: Tensor, hidden: HiddenNuclei) -> Tensor:
        """(P,) bool: whether a hidden nucleus of the same class lies where the cell of each pseudo-nucleus says."""
        window, _, row, column = nuclei.nonzero(as_tuple=True)
        point = own_places(maps.offset)[window, :, row, column]
        distance_um = (hidden.xy[window] / CELL_PX - point[:, None]).norm(dim=2) * self.cell_um
        same = hidden.label[window] == label[window, 0, row, column][:, None]
        return ((distance_um <= RIGHT_UM) & same).any(1)
