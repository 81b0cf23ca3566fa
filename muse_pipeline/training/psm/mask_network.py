"""PSM's mask network: rounds of training on masks, later ones with Voronoi labels of the points found before."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.data.mask_windows import MaskedPicture, MaskWindows
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.colour_input import colour_of_fit
from muse_pipeline.labels.statistics import mean_stains
from muse_pipeline.methods.psm_mask import MaskTraining
from muse_pipeline.models.mask_network import MaskNetwork
from muse_pipeline.models.weights import load_weights
from muse_pipeline.proposals.points import find_points, voronoi_label
from muse_pipeline.tissue.stain import ROUNDED_TEXTBOOK, fit_macenko
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from muse_pipeline.training.devices import open_fabric
from muse_pipeline.training.loop import train
from muse_pipeline.training.provenance import describe_run
from muse_pipeline.training.psm.config import PsmConfig
from muse_pipeline.training.psm.masks import read_pictures_and_masks
from muse_pipeline.training.psm.stage import MADE_FROM, Watch
from muse_pipeline.training.run_folder import RunFolder, plain_settings
from muse_pipeline.training.running import Running

KIND = "mask network"


@dataclass(frozen=True, eq=False)
class TrainedMask:
    """A mask network and the colour that it expects.

    Attributes:
        network: in evaluation mode.
        reference: that pictures are taken to.
    """

    network: MaskNetwork
    reference: ColourReference

    @classmethod
    def load(cls, path: Path) -> TrainedMask:
        """The network in a checkpoint of ``train_mask_network``.

        Raises:
            CheckpointError: the file is missing, damaged or holds something else.
        """
        checkpoint = load_checkpoint(path)
        if checkpoint.meta.get("kind") != KIND:
            raise CheckpointError(f"{path}: holds no mask network; give one of `muse psm`'s stage mask_network")
        network = MaskNetwork(checkpoint.meta["backbone"])
        load_weights(network.backbone, checkpoint.backbone, path, always_resample=False)
        network.head.load_state_dict(checkpoint.head)
        return cls(network.eval(), parse_config(checkpoint.meta["colour"], ColourReference, str(path)))

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """(h, w) float32 probability of nucleus in (h, w, 3) uint8, at the mpp of the run."""
        planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        colour = colour_of_fit(self.reference, fit_macenko(pixels.reshape(-1, 3)))
        return self.network.probability(planes, torch.from_numpy(colour)).numpy()


@dataclass(frozen=True)
class MaskNetworkStage:
    """The stage's input and how it computes.

    Attributes:
        config: of the run.
        masks: folder of the masks stage.
        running: how it computes.
        watch: see ``psm.PsmRun``.
    """

    config: PsmConfig
    masks: Path
    running: Running
    watch: Watch

    def train(self, folder: Path) -> Path:
        """All rounds, each in its own folder, and the last one's checkpoint; what is there stays.

        Raises:
            CheckpointError: a round's folder holds a run of other settings or masks.
            DivergedError: the loss is no longer a number.
        """
        torch.set_num_threads(self.running.threads)
        pieces = [(pixels, mask) for _, pixels, mask in read_pictures_and_masks(self.masks)]
        last: Path | None = None
        for number in range(1, self.config.mask_network.rounds + 1):
            last = self._round(pieces, RunFolder(folder / f"round-{number}"), last)
        return last

    def _round(self, pieces: list[tuple[np.ndarray, np.ndarray]], run: RunFolder, last: Path | None) -> Path:
        settings = self.config.mask_network
        provenance = describe_run(plain_settings(settings, portable=True), (), last)
        provenance["labels"] = {"masks": sha256_of(self.masks / MADE_FROM), **self._beside(last)}
        run.require_own()
        try:
            run.require_same_run(settings, provenance, ())
        except CheckpointError:
            if not self.running.start_over:
                raise
            run.forget()
            run.checkpoint.unlink(missing_ok=True)
        if run.checkpoint.is_file():
            return run.checkpoint
        torch.manual_seed(self.config.seed)
        network = TrainedMask.load(last).network.train() if last else MaskNetwork(settings.backbone)
        method = MaskTraining(network.to(memory_format=torch.channels_last), settings.mask_fg, settings.voronoi_weight)
        fabric = open_fabric(self.running.accelerator, 1, settings.precision)
        run.describe(settings, provenance)
        pictures, reference = self._prepare(pieces, last)
        windows = MaskWindows(
            pictures,
            np.array(reference.stains or ROUNDED_TEXTBOOK),
            mpp=self.config.mpp,
            window_px=settings.window_px,
            batch=settings.batch,
            augmentation=settings.augmentation,
            seed=self.config.seed,
            device=fabric.device,
        )
        with self.watch(settings.schedule.steps) as (say, progress):
            say(f"{run.path.name}: {settings.backbone} on {len(pictures)} masks" + (" and points" if last else ""))
            train(method, windows, settings.schedule, run, fabric, seed=self.config.seed, progress=progress)
        trained = method.trained()
        meta = {
            "kind": KIND,
            "backbone": settings.backbone,
            "mpp": self.config.mpp,
            "window_px": settings.window_px,
            "config": plain_settings(settings, portable=True),
            "colour": asdict(reference),
        }
        save_checkpoint(run.checkpoint, Checkpoint(trained.backbone.state_dict(), trained.head.state_dict(), meta))
        return run.checkpoint

    def _beside(self, last: Path | None) -> dict[str, Any]:
        """Settings of the whole run that a round depends on as well."""
        points = {"by `labels.points`": asdict(self.config.labels.points)} if last else {}
        return {"drawn by `seed`": self.config.seed, "seen by `detector.colour`": self.config.detector.colour, **points}

    def _prepare(
        self, pieces: list[tuple[np.ndarray, np.ndarray]], last: Path | None
    ) -> tuple[list[MaskedPicture], ColourReference]:
        """Pieces with their colour maps and, after a first round, the Voronoi labels of its points."""
        fits = [fit_macenko(pixels.reshape(-1, 3)) for pixels, _ in pieces]
        reference = mean_stains(fits, self.config.detector.colour)
        teacher = TrainedMask.load(last) if last else None
        pictures = []
        for (pixels, mask), fit in zip(pieces, fits, strict=True):
            voronoi = None
            if teacher is not None:
                points = find_points(teacher(pixels), self.config.mpp, self.config.labels.points)
                voronoi = voronoi_label(points, mask.shape, self.config.mpp)
            pictures.append(MaskedPicture(pixels, mask.astype(np.uint8), voronoi, colour_of_fit(reference, fit)))
        return pictures, reference
