"""The MUSE run, which trains a backbone on tissue without labels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy import ndarray

from muse_pipeline.core.coords import xy_to_xy_index
from muse_pipeline.core.errors import CollapsedError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.pictures import draw_page, write_png
from muse_pipeline.core.text import count_noun
from muse_pipeline.data.augment import seed_of_step
from muse_pipeline.data.views import ViewBatch, ViewBatches, ViewSampler, ViewSet
from muse_pipeline.inference.stains import colour_of_fit, reference_stains
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.methods.detector.config import require_windows
from muse_pipeline.methods.muse.config import MuseConfig
from muse_pipeline.methods.muse.data import PretrainData, read_pretrain_data, require_apart
from muse_pipeline.methods.muse.method import MusePretraining
from muse_pipeline.methods.muse.validation import SCORE, PointSet, read_held, score_held
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.training.checkpoint import Checkpoint
from muse_pipeline.training.loop import GRACE, IN_A_ROW, Alarm, BestWeights, Monitor
from muse_pipeline.training.method import Method
from muse_pipeline.training.recipe import RECIPES, Recipe, Stage, TrainingStage
from muse_pipeline.training.run import Log, describe_backbone

INDEX = "nuclei"


@RECIPES.register("muse")
class MuseRecipe(Recipe):
    """Trains a backbone on tissue with nucleus positions, in one stage."""

    Config = MuseConfig

    def stages(self, config: MuseConfig, folder: Path) -> Sequence[Stage]:
        """Return the only stage, the pretraining."""
        return (MuseStage(config, folder),)


def make_batches(config: MuseConfig, data: PretrainData) -> ViewBatches:
    """The stream of views of a run."""
    return ViewBatches(data.images, data.colours, reference_stains(data.reference), config)


class MuseStage(TrainingStage[MuseConfig, PretrainData]):
    """Nucleus-guided dense self-distillation on views of tissue."""

    on_cpu = True

    @cached_property
    def _held(self) -> list[LabelledImage]:
        return read_held(self.config.held, self.config.middle_mpp)

    def check(self) -> None:
        """Reject an unknown backbone, and views that it does not accept."""
        require_windows(self.config.backbone, *self.config.sides_px)

    def read(self, log: Log) -> PretrainData:
        """Open the images; stores are read during the run."""
        data = self.open_data(log)
        require_apart([*data.patients, *self.seen.learnt_patients], self.config.held)
        if self.config.held and not self._held:
            log(
                "no scores during training: `held` needs a `class_map` per source, and nuclei of 2"
                " classes, 2 patients"
            )
        return data

    def open_data(self, log: Log) -> PretrainData:
        """Open the images and their nuclei (``data.read_pretrain_data``)."""
        config = self.config
        return read_pretrain_data(
            config.sources, config.views.mpp[0], config.min_nuclei, self.folder / INDEX, log
        )

    def build(self, data: PretrainData) -> Method:
        """Build student and teacher."""
        config = self.config
        return MusePretraining(self.build_backbone(), config.distillation, config.views.n_local)

    def build_backbone(self) -> Backbone:
        """Build the backbone, with the weights of the checkpoint if there is one."""
        backbone = BACKBONES[self.config.backbone]().to(memory_format=torch.channels_last)
        self.begin_with(backbone)
        return backbone

    def batches(self, data: PretrainData, device: torch.device) -> ViewBatches:
        """Batches of sets of views."""
        batches = make_batches(self.config, data)
        batches.on_device = device.type != "cpu"
        return batches

    def finish_batch(self, batch: ViewBatch) -> ViewBatch:
        """Cut the views on the device."""
        return batch.cut(self.config.augmentation)

    def describe(self, data: PretrainData, log: Log) -> None:
        """Print a summary of the training data, and draw some views."""
        config, run = self.config, self.run_folder
        start = self.inputs().checkpoint
        origin = start.name if start else "random weights"
        if run.checkpoint.is_file() or run.resume.is_file():
            origin += " (continued run)"
        images = (
            f"{count_noun(len(data.images), 'image')} of"
            f" {count_noun(len(data.patients), 'patient')}"
        )
        log(f"{config.backbone} from {origin}, on {images}")
        draw_views(make_batches(config, data).sample, config.seed, run.path / "views.png")

    def monitors(self, data: PretrainData, method: Method) -> Sequence[Monitor]:
        """An alarm for collapse and, if labelled nuclei are held out, scores of the teacher."""
        config = self.config
        warmup = max(GRACE, config.schedule.warmup, config.distillation.teacher_warmup)
        alarm = CollapseAlarm(config.schedule, self.folder, warmup)
        return (alarm, *self.validation(data, method))

    def validation(self, data: PretrainData, method: Method) -> Sequence[Monitor]:
        """Scores of the backbone on held-out nuclei, if any; the best backbone is kept."""
        if not self._held:
            return ()

        def describe(done: int, scores: dict[str, float]) -> Checkpoint:
            trained = self.checkpoint(data, method)
            # Held-out patients are included, because weights are chosen on them.
            patients = sorted({*trained.meta["patients"], *(image.patient for image in self._held)})
            return dataclasses.replace(
                trained, meta={**trained.meta, "step": done, "patients": patients, **scores}
            )

        colours = np.stack([colour_of_fit(data.reference, image.stain) for image in self._held])
        points = PointSet(self._held, colours, self.config.views.global_px)
        return (
            BestWeights(
                SCORE, partial(score_held, method.trained(), points), self.run_folder.best, describe
            ),
        )

    def checkpoint(self, data: PretrainData, method: Method) -> Checkpoint:
        """The trained backbone."""
        config = self.config
        meta = {
            "kind": "backbone",
            **describe_backbone(config, config.views.global_px, config.middle_mpp, data.reference),
            **self.seen.extend((image.name for image in data.images), data.patients),
            "step": config.schedule.steps,
        }
        return Checkpoint(method.trained().state_dict(), {}, meta)


# name -> (minimum, maximum) in a run that still learns; healthy runs stay far within these limits
LIMITS = {
    "entropy_nucleus": (0.01, 0.995),
    "entropy_image": (0.01, 0.999),
    "spread": (0.05, math.inf),
}
OF_NUCLEI = {"entropy_nucleus", "spread"}  # meaningless at steps whose views share no nucleus


class CollapseAlarm(Alarm):
    """Ends a run that collapses to constant vectors, or whose views share no nuclei."""

    def check(self, done: int, losses: dict[str, float]) -> None:
        """Compare diagnostics with ``LIMITS``."""
        shares_none = losses.get("shared_nuclei") == 0
        if self.persists("shared_nuclei", shares_none):
            raise CollapsedError(
                f"{self.folder}: by step {done}, no two views had shared a nucleus at {IN_A_ROW}"
                " logged steps in a row, so nothing is learnt about nuclei; start a new run folder"
                " with a larger `views.global_px` or `batch`"
            )
        for name, (least, most) in LIMITS.items():
            if shares_none and name in OF_NUCLEI:
                continue
            if name not in OF_NUCLEI and "entropy_nucleus" in losses:
                # whole views of uniform tissue may have similar vectors while nuclei differ
                continue
            seen = "nuclei" if name in OF_NUCLEI else "views"
            meaning = (
                f"all {seen} look alike to the network; start a new run folder with"
                " `distillation.balance: sinkhorn`, a lower learning rate or a larger batch"
            )
            self.require(done, name, losses.get(name, least), meaning, least, most)


N_SETS, ZOOM = 6, 2
RADIUS_UM, SUBPIXEL_BITS = 4.0, 4


def draw_views(sample: ViewSampler, seed: int, output: Path) -> None:
    """Draw a few sets of views, one per row, global views first; a nucleus has one colour in all
    views of its set.
    """
    generator = np.random.default_rng(seed_of_step(seed, 0))
    sets = [_draw_set(sample(generator)) for _ in range(N_SETS)]
    with complete_file(output) as partial:
        write_png(partial, draw_page([view for views in sets for view in views], len(sets[0])))


def _draw_set(views: ViewSet) -> list[ndarray]:
    """Pictures of the views, all as large as the largest one."""
    colours = np.random.default_rng(0).integers(60, 256, (views.seen.shape[1], 3)).tolist()
    side = ZOOM * max(view.size_px for view in views.views)
    pictures = []
    for number, (view, placed) in enumerate(zip(views.views, views.placed, strict=True)):
        # the teacher only gets global views
        partners = [index for index in (0, 1) if index != number]
        shared = np.unique(np.concatenate([views.shared(partner, number) for partner in partners]))
        picture = cv2.resize(
            view.cut(views.image), None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC
        )
        at = np.round(xy_to_xy_index(placed * ZOOM) * 2**SUBPIXEL_BITS).astype(int).tolist()
        radius = round(RADIUS_UM / view.mpp * ZOOM * 2**SUBPIXEL_BITS)
        for nucleus in shared.tolist():
            cv2.circle(
                picture, at[nucleus], radius, colours[nucleus], 2, cv2.LINE_AA, SUBPIXEL_BITS
            )
        beyond = (0, side - len(picture))
        pictures.append(np.pad(picture, (beyond, beyond, (0, 0)), constant_values=255))
    return pictures
