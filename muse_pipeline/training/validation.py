"""How well the averaged network finds nuclei on pictures that it is not trained on, and which weights did best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from muse_pipeline.data.labelled_image import LabelledImage
from muse_pipeline.evaluation.detection import DetectionCounts, count_detections
from muse_pipeline.inference.card import ModelCard
from muse_pipeline.inference.image import detect_image
from muse_pipeline.inference.predictor import nuclei_of_windows
from muse_pipeline.models.detector import DetectionGraph, NucleusDetector
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.training.census import image_colour
from muse_pipeline.training.export_window import export_window
from muse_pipeline.training.finetune_config import FinetuneConfig
from muse_pipeline.training.finetune_data import FinetuneData
from muse_pipeline.training.metrics import MetricsLog

SCORE = "validation mean class F1"  # at 3 um; what "best" means


class Validation:
    """Scores a network as it will be run, at the threshold of the card.

    Args:
        network: whose weights at the time of a call are scored.
        data: of the run; what it holds back is scored.
        keep: called with the step and the scores whenever they are better than all before.
    """

    def __init__(self, network: NucleusDetector, data: FinetuneData, keep: Callable[[int, dict[str, float]], None]):
        config, self.images, self.keep = data.config, data.held, keep
        self.classes = config.class_names
        reference = replace(data.reference, share=config.export.colour_share)
        self.colours = [image_colour(image, reference) for image in self.images]
        self.predictor = NetworkPredictor(network, config)

    def __call__(self, step: int, log: MetricsLog) -> None:
        """Score, keep the weights if they are the best, log."""
        best = max((row[SCORE] for row in log.read() if SCORE in row), default=-np.inf)
        scores = self.scores()
        if scores[SCORE] > best:
            self.keep(step, scores)
        log.append(step - 1, scores)

    def scores(self) -> dict[str, float]:
        """F1 in percent at 3 um: of any nucleus, of each class, and the mean over classes."""
        network, was_training = self.predictor.network, self.predictor.network.training
        network.eval()
        counts = [
            self._count(image, detect_image(self.predictor, image.pixels, colour))
            for image, colour in zip(self.images, self.colours, strict=True)
        ]
        network.train(was_training)
        scores = sum(counts[1:], counts[0]).scores(self.classes)
        return {f"validation {name} F1": round(float(np.nan_to_num(value)), 3) for name, value in scores.items()}

    def _count(self, image: LabelledImage, found: Nuclei) -> DetectionCounts:
        true = replace(image.nuclei, frame=found.frame)
        column, row = found.xy.astype(int).T
        judged = None if image.region is None else image.region[row, column]
        return count_detections(found, true, len(self.classes), self.predictor.card.mpp, judged)


class NetworkPredictor:
    """A network in torch behind the call of ``inference.predictor.Predictor``.

    Args:
        network: on any device.
        config: of the run.
    """

    def __init__(self, network: NucleusDetector, config: FinetuneConfig):
        export = config.export
        self.network, self.any_size = network, network.backbone.lattice.any_size
        self.graph = DetectionGraph(network, export.threshold, export.capacity)
        self.card = ModelCard(
            name=config.name,
            mpp=config.mpp,
            input_px=export_window(config, network.backbone),
            halo_px=export.halo_px,
            stride_px=network.backbone.stride_px,
            batch=1,
            capacity=export.capacity,
            classes=config.classes,
            threshold=export.threshold,
            n_rays=config.n_rays,
            readout=network.backbone.lattice.name,
            licence=config.licence,
            training_data=config.training_data,
        )

    @torch.no_grad()
    def __call__(self, pixels: np.ndarray, colour: np.ndarray) -> list[Nuclei]:
        """(1, H, W, 3) uint8 and (3, 4) -> nuclei (frame: window), by descending score."""
        device = next(self.network.parameters()).device
        windows = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)
        outputs = self.graph(windows, torch.as_tensor(colour, dtype=torch.float32, device=device))
        return nuclei_of_windows([values.float().cpu().numpy() for values in outputs])
