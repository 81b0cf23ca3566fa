"""Training of a nucleus detector on points and outlines, and on the maps of trained networks.

Distillation (Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", arXiv
1503.02531) is applied to maps of nuclei. The teachers get the unchanged window; the student gets it
with varied colour and sharpness. For labels that correct a teacher's detections, distillation can
be limited to the area outside the annotated regions, where the student then keeps these detections
("Learning without Forgetting", Li and Hoiem, arXiv 1606.09282).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.core.config import Fraction, OneOf, Weights
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.augment import CLASSES_ONLY, LabelledBatch
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.methods.detector.criterion import CRITERIA, RAY_WEIGHT, mean_over
from muse_pipeline.models.detector import MEAN_RADIUS_UM, NucleusDetector, NucleusMaps
from muse_pipeline.training.method import AveragedTraining, Losses, Schedule, build_adamw

AREAS = ("everywhere", "outside")
# largest `share` with `where: outside` if no picture has tissue around its annotated regions
WHOLE_SHARE = 0.5
NO_LOGIT = -1e4  # of a class whose probability is 0


@dataclass(frozen=True)
class DistillationSettings:
    """Teachers of a run, and the weight and area of the distillation loss.

    Attributes:
        teachers: checkpoints with the run's classes, rays, head, colour and um per pixel; their
            maps are averaged.
        share: weight of the distillation loss, 0 to 1; labels have the remaining weight. With
            ``where: outside`` it is at most 0.5 if no picture has tissue around a region of
            labelled nuclei, because then both losses apply to the same tissue.
        where: area of the distillation loss: "everywhere", or "outside" the annotated regions; if
            all pictures are annotated completely, "outside" means "everywhere". The teachers'
            classes are not used in class areas.
    """

    teachers: tuple[Weights, ...]
    share: Fraction = 0.7
    where: Annotated[str, OneOf(AREAS)] = "everywhere"

    def on(self, images: Sequence[LabelledImage]) -> DistillationSettings:
        """The settings, with ``share`` and ``where`` adapted to the annotated regions of the
        images.
        """
        in_parts = [image for image in images if image.unannotated.any()]
        if self.where == "everywhere" or not all(image.areas for image in in_parts):
            return self
        return replace(
            self, share=min(self.share, WHOLE_SHARE), where=self.where if in_parts else "everywhere"
        )

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ConfigError(
                "distillation: `teachers` is empty; give a checkpoint, or leave `distillation` out"
            )


class DistillationTerm(nn.Module):
    """Distance of the student's maps from the mean of the teachers' maps; ``share`` and ``where``
    are settings.

    The probabilities of the classes ``kept`` are taught everywhere, also inside annotated regions.
    """

    def __init__(
        self,
        share: float,
        teachers: Sequence[NucleusDetector],
        where: str = "everywhere",
        kept: Sequence[int] = (),
    ):
        super().__init__()
        self.share = share
        self.where = where
        self.kept = [*kept]
        self.teachers = nn.ModuleList(teachers).requires_grad_(False)
        # a resumed run loads the teachers again
        self.register_state_dict_post_hook(_leave_out_teachers)
        self.register_load_state_dict_post_hook(_miss_no_teachers)

    def train(self, mode: bool = True) -> DistillationTerm:
        """Set the mode, but keep the teachers in evaluation mode."""
        super().train(mode)
        self.teachers.eval()
        return self

    def forward(self, student: NucleusMaps, batch: LabelledBatch) -> Tensor:
        """Excess cross-entropy of centres and classes, plus distances of offsets and rays; 0 if the
        maps agree.

        ``student`` are the maps of the augmented windows; teachers get the ``weak`` view of the
        batch.
        """
        with torch.no_grad():
            outputs = [teacher(batch.weak.pixels, batch.weak.colour) for teacher in self.teachers]
            teacher_pred = NucleusMaps(
                *(torch.stack(maps).mean(0) for maps in zip(*outputs, strict=True))
            )
            heat = teacher_pred.centre.sigmoid()
            label = teacher_pred.label.log_softmax(1)
        taught = known = torch.ones_like(heat)
        if self.where == "outside":
            region = batch.region[:, None]
            taught = (region == 0).to(heat)
            known = ((region == 0) | (region == CLASSES_ONLY)).to(heat)
        elif (
            batch.shares is not None
        ):  # class areas have class labels, which the teachers might contradict
            taught = (batch.region[:, None] != CLASSES_ONLY).to(heat)
        centre = functional.binary_cross_entropy_with_logits(student.centre, heat, reduction="none")
        centre = centre - functional.binary_cross_entropy_with_logits(
            teacher_pred.centre, heat, reduction="none"
        )
        classes = (label.exp() * (label - student.label.log_softmax(1))).sum(1, keepdim=True)
        offset = (student.offset - teacher_pred.offset).abs().mean(1, keepdim=True)
        rays = (student.rays - teacher_pred.rays).abs().mean(1, keepdim=True) / MEAN_RADIUS_UM
        at_nuclei = mean_over(classes * taught + offset + RAY_WEIGHT * rays, heat * known)
        if self.kept:
            at_nuclei += mean_over(self._error_of_kept(label, student.label.log_softmax(1)), heat)
        # Divided by the sum of heat, the teachers' expected number of centres, as the focal loss is
        # by the true one.
        return (centre * known).sum() / (heat * known).sum().clamp(min=1) + at_nuclei

    def _error_of_kept(self, taught: Tensor, learnt: Tensor) -> Tensor:
        """(B, 1, h, w) divergence of the log-probabilities (B, C, h, w) of the classes ``kept`` and
        of all others together.
        """
        rest = [index for index in range(taught.shape[1]) if index not in self.kept]
        groups = [[index] for index in self.kept] + [rest] * bool(rest)
        taught, learnt = (
            torch.cat([of[:, group].logsumexp(1, keepdim=True) for group in groups], 1)
            for of in (taught, learnt)
        )
        return (taught.exp() * (taught - learnt)).sum(1, keepdim=True)


def _leave_out_teachers(term: DistillationTerm, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}teachers.")]:
        del state[name]


def _miss_no_teachers(term: DistillationTerm, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if "teachers" not in name.split(".")]


class DetectorTraining(AveragedTraining):
    """Training with the head's criterion on labelled windows; the result is the averaged network.

    ``criterion`` is named as the head; ``class_shift`` (C,) is added to the class logits in it
    (``validation.class_shift``). Of the classes ``kept``, labels are not learnt, and labels of all
    other classes only divide what is of none of these.
    """

    def __init__(
        self,
        network: NucleusDetector,
        criterion: str,
        mpp: float,
        class_weights: Tensor,
        distillation: DistillationTerm | None = None,
        backbone_rate: float = 1.0,
        class_shift: Tensor | None = None,
        kept: Sequence[int] = (),
    ):
        super().__init__(network)
        self.criterion = CRITERIA[criterion](mpp, class_weights)
        self.distillation = distillation
        self.backbone_rate = backbone_rate
        self.kept = [*kept]
        # Not saved with the state of the run, because ``build`` measures it again.
        self.register_buffer("class_shift", class_shift, persistent=False)

    def optimiser(self, turn: str, schedule: Schedule) -> torch.optim.Optimizer:
        """AdamW with a separate learning rate for the backbone."""
        return build_adamw(self.turn_parameters(turn), schedule, self.backbone_rate)

    def losses(self, batch: LabelledBatch, turn: str, progress: float) -> Losses:
        """Compute the criterion's terms in annotated regions and, if there are teachers, the
        distillation loss.
        """
        maps = self.network(batch.pixels, batch.colour)
        # The shift compensates for the class shares of the labels, so it is left out of the
        # comparison with teachers.
        shifted = maps
        if self.class_shift is not None:
            shifted = maps._replace(label=maps.label + self.class_shift[:, None, None])
        if self.kept:
            shifted, batch = self._leave_out_kept(shifted, batch)
        terms = self.criterion(shifted, batch)
        if self.distillation is None:
            return terms
        distilled = self.distillation(maps, batch)
        return {
            **terms,
            "distillation": distilled,
            "loss": terms["loss"].lerp(distilled, self.distillation.share),
        }

    def _leave_out_kept(
        self, maps: NucleusMaps, batch: LabelledBatch
    ) -> tuple[NucleusMaps, LabelledBatch]:
        """Maps without the classes ``kept``, and the batch in which such classes are unknown."""
        label = batch.label.clone()
        shares = batch.shares
        logits = maps.label.clone()
        for index in self.kept:
            label[label == index] = -1
        logits[:, self.kept] = NO_LOGIT
        if shares is not None:
            shares = shares.clone()
            shares[..., self.kept] = 0
        return maps._replace(label=logits), batch._replace(label=label, shares=shares)
