"""The training that adapts a detector by MUSE, kept stable by distillation from a frozen copy of
that detector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor

from muse_pipeline.core.config import Between, Count, Fraction, NotNegative, Weights
from muse_pipeline.core.text import count_noun
from muse_pipeline.data.augment import Augmentation, LabelledBatch, WeakView
from muse_pipeline.data.views import MAX_SIDE_PX, ViewBatch, ViewBatches, ViewSettings
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.methods.detector.config import DetectorConfig
from muse_pipeline.methods.detector.method import DistillationTerm
from muse_pipeline.methods.detector.stage import describe_detector
from muse_pipeline.methods.detector.start import Start, describe_origins, load_trained
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.data import PretrainData, require_fine
from muse_pipeline.methods.muse.method import MusePretraining
from muse_pipeline.methods.muse.run import MuseStage, make_batches
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.checkpoint import Checkpoint
from muse_pipeline.training.method import AveragedNetwork, Schedule, build_adamw
from muse_pipeline.training.run import Log


@dataclass(frozen=True)
class HoldSettings:
    """Distillation from the initial detector, at that detector's um per pixel.

    Attributes:
        weight: weight of the distillation loss, relative to MUSE's loss.
        window_px: side of a window, px.
        batch: number of pairs of windows per batch and device; both windows of a pair contain the
            same nucleus.
    """

    weight: NotNegative = 4.0
    window_px: Annotated[int, Between(1, MAX_SIDE_PX)] = 192
    batch: Count = 4


@dataclass(frozen=True)
class AdaptConfig(MuseConfig):
    """Settings of a run that adapts a trained detector to tissue without labels.

    Settings that are not described here are those of ``MuseConfig``.

    Attributes:
        name: name of the model.
        backbone: registered name of the backbone; by default that of ``checkpoint``.
        checkpoint: detector to adapt: a checkpoint of this package, or the name of a built-in
            model. Its classes, colour reference, export settings and licence are kept.
        hold: distillation from that detector.
        network_rate: learning rate of the detector, relative to the schedule's; the projectors,
            which start from random weights, are trained at the full rate.
        distillation: losses between MUSE's student and teacher; batch norms keep the initial
            detector's statistics.
        augmentation: colour and sharpness of views and windows; the geometric settings are ignored.
        grey: fraction of views and windows that are converted to grey.
        seed: seed of projectors, views and windows.
        method: name of the method, "adapt".
    """

    checkpoint: Weights = Path("compact")
    hold: HoldSettings = dataclasses.field(default_factory=HoldSettings)
    network_rate: Fraction = 0.1
    method: str = "adapt"

    @property
    def sides_px(self) -> tuple[int, ...]:
        """Sides of all windows and views that the network gets."""
        return (*super().sides_px, self.hold.window_px)


class AdaptBatch(NamedTuple):
    """Views for MUSE, and windows for the detector.

    Attributes:
        views: sets of views.
        windows: unlabelled windows, each with an unaugmented version for the teacher.
    """

    views: ViewBatch
    windows: LabelledBatch


class Adaptation(MusePretraining):
    """MUSE on a detector's backbone, and distillation of the whole detector from a frozen copy of
    its initial state.

    Batch norms keep their statistics, so that the detector computes the same outputs in training
    and after export.

    Args:
        network: the detector to adapt; the result is the moving average of its weights.
        teacher: the detector that the run starts from.
        config: settings of the run.
    """

    def __init__(self, network: NucleusDetector, teacher: NucleusDetector, config: AdaptConfig):
        super().__init__(network.backbone, config.distillation, config.views.n_local)
        self.network, self.average = network, AveragedNetwork(network)
        self.distillation = DistillationTerm(config.hold.weight, [teacher])
        self.network_rate = config.network_rate

    def optimiser(self, turn: str, schedule: Schedule) -> torch.optim.Optimizer:
        """AdamW with a separate learning rate for the whole detector."""
        # "network.head.*" is renamed to "backbone.head.*", so that the head gets the backbone's
        # learning rate.
        named = (
            (name.replace("network.", "backbone."), value)
            for name, value in self.turn_parameters(turn)
        )
        return build_adamw(named, schedule, self.network_rate)

    def losses(self, batch: AdaptBatch, turn: str, progress: float) -> dict[str, Tensor]:
        """Compute MUSE's terms and diagnostics, the distance from the teacher's maps, and their
        weighted sum.
        """
        found = super().losses(batch.views, turn, progress)
        distance = self.distillation(
            self.network(batch.windows.pixels, batch.windows.colour), batch.windows
        )
        return {
            **found,
            "distillation": distance,
            "loss": found["loss"] + self.distillation.share * distance,
        }

    def after_step(self, progress: float) -> None:
        """Update MUSE's teacher and the averaged detector."""
        super().after_step(progress)
        self.average.update(self.network)

    def train(self, mode: bool = True) -> Adaptation:
        """Set the mode, but keep the detector and MUSE's teacher in evaluation mode."""
        super().train(mode)
        self.network.eval()
        self.teacher.eval()
        return self

    def trained(self) -> NucleusDetector:
        """The averaged detector."""
        return self.average.network


class AdaptStage(MuseStage):
    """Trains a detector by MUSE and distillation; reads data as MUSE's pretraining does."""

    config: AdaptConfig

    @cached_property
    def begun(self) -> tuple[NucleusDetector, DetectorConfig, Start]:
        """The initial detector, the settings of its training, and its checkpoint."""
        network, config, checkpoint = load_trained(self._start)
        return network, config, Start(self._start, checkpoint, is_whole=True)

    def open_data(self, log: Log) -> PretrainData:
        """Open the images, and normalise their stains to the detector's reference."""
        _, begun, start = self.begun
        data = super().open_data(log)
        for image in data.images:
            require_fine(image.name, image.mpp, begun.mpp)
        return _normalise(data, start.colour)

    def build(self, data: PretrainData) -> Adaptation:
        """Build the detector, and a copy of it as the teacher."""
        network, teacher = load_trained(self._start)[0], self.begun[0]
        network.backbone = self.build_backbone()  # rejects a checkpoint with a different backbone
        networks = (each.to(memory_format=torch.channels_last) for each in (network, teacher))
        return Adaptation(*networks, self.config)

    def batches(self, data: PretrainData, device: torch.device) -> Callable[[int], AdaptBatch]:
        """Batches of views, and of pairs of windows at the detector's um per pixel."""
        config, begun = self.config, self.begun[1]
        of_one_scale = _views_of_one_scale(config.hold.window_px, begun.mpp)
        varied = dataclasses.replace(config, views=of_one_scale, batch=config.hold.batch)
        none = Augmentation(
            stain_gain=0, stain_mix=0, shift=0, partial_colour=1, blur=0, blur_um=0, noise=0
        )
        as_run = _normalise(
            data, dataclasses.replace(data.reference, share=begun.export.colour_share)
        )
        views, windows = make_batches(config, data), make_batches(varied, data)
        # These show the same tissue as the student's windows: seeds are equal, and geometry is
        # drawn before appearance.
        weak = make_batches(dataclasses.replace(varied, augmentation=none, grey=0.0), as_run)
        return partial(_draw_batch, views, windows, weak, begun.n_rays)

    def finish_batch(self, batch: AdaptBatch) -> AdaptBatch:
        """The batch unchanged, because its views are cut on the CPU."""
        return batch

    def checkpoint(self, data: PretrainData, method: Adaptation) -> Checkpoint:
        """Checkpoint of the averaged detector, with the initial detector's settings."""
        config, (_, begun, start), network = self.config, self.begun, method.trained()
        known = super().checkpoint(data, method).meta
        learnt_from = (
            f"{count_noun(len(data.images), 'image')} of"
            f" {count_noun(len(data.patients), 'patient')}"
        )
        settings = dataclasses.replace(
            begun,
            **{
                name: getattr(config, name)
                for name in ("name", "checkpoint", "schedule", "seed", "precision")
            },
            **{
                "sources": (),
                "validation": (),
                "distillation": None,
                "mixing": None,
                "metrics": {},
            },
            training_data=(
                f"Adapted without labels, by MUSE and distillation from {begun.name}, to"
                f" {learnt_from}."
            ),
            limits="The adapted detector was not evaluated on labels.",
        )
        meta = {
            **describe_detector(settings, data.reference),
            "origins": describe_origins(
                [start.path], settings, {image.name for image in data.images}
            ),
            "appearance": start.appearance and dataclasses.asdict(start.appearance),
            **{name: known[name] for name in ("images", "patients", "learnt_patients", "step")},
        }
        return Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta)


def _draw_batch(
    views: ViewBatches, windows: ViewBatches, weak: ViewBatches, n_rays: int, number: int
) -> AdaptBatch:
    pixels, colour = windows(number).global_views
    n = len(pixels)
    nuclei = torch.zeros(n, 0, 2), torch.zeros(n, 0), torch.zeros(n, 0, n_rays)
    of_teacher = WeakView(*weak(number).global_views)
    return AdaptBatch(views(number), LabelledBatch(pixels, colour, *nuclei, weak=of_teacher))


def _views_of_one_scale(side_px: int, mpp: float) -> ViewSettings:
    return ViewSettings(global_px=side_px, n_local=0, mpp=(mpp, mpp), min_matches=0)


def _normalise(data: PretrainData, reference: ColourReference) -> PretrainData:
    """Return ``data`` with colour maps that normalise the images' stains to ``reference``."""
    colours = np.stack([colour_of_fit(reference, image.stain) for image in data.images])
    return dataclasses.replace(data, colours=colours, reference=reference)
