"""How well the averaged network finds nuclei on pictures that it is not trained on, and which weights did best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from muse_pipeline.evaluation.detection import DetectionCounts, count_detections
from muse_pipeline.inference.card import ColourReference, ModelCard
from muse_pipeline.inference.picture import detect_image
from muse_pipeline.inference.predictor import nuclei_of_windows
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.statistics import image_colour
from muse_pipeline.models.detector import DetectionGraph, NucleusDetector
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.training.export_window import export_window
from muse_pipeline.training.finetune_config import FinetuneConfig
from muse_pipeline.training.finetune_data import FinetuneData
from muse_pipeline.training.metrics import MetricsLog

MEAN = "mean class"
SCORE = f"validation {MEAN} F1"  # at 3 um; what "best" means


class Scorer:
    """Finds the nuclei of labelled images as a network will be run, and counts those that are right.

    Args:
        network: whose weights at the time of a call are scored.
        config: that it was trained by, with its settings of the export.
        reference: the colour that slides are taken to.
    """

    def __init__(self, network: NucleusDetector, config: FinetuneConfig, reference: ColourReference):
        self.classes = config.class_names
        self.reference = replace(reference, share=config.export.colour_share)
        self.predictor = NetworkPredictor(network, config)

    def find(self, image: LabelledImage) -> Nuclei:
        """The nuclei that the network finds (frame: work)."""
        network, was_training = self.predictor.network, self.predictor.network.training
        network.eval()
        found = detect_image(self.predictor, image.pixels, image_colour(image, self.reference))
        network.train(was_training)
        return found

    def count(self, found: Nuclei, true: Nuclei, where: np.ndarray | None) -> DetectionCounts:
        """Counts at 3 um.

        Args:
            found: as ``find`` gives them.
            true: of the same image.
            where: (h, w) bool, pixels where what is found beside a true nucleus is false; None: everywhere.
        """
        column, row = found.xy.astype(int).T
        judged = None if where is None else where[row, column]
        true = replace(true, frame=found.frame)
        return count_detections(found, true, len(self.classes), self.predictor.card.mpp, judged)

    def score(self, images: Sequence[LabelledImage]) -> dict[str, float]:
        """F1 in percent by name: of any nucleus, of each class, and the mean over the classes that are labelled."""
        counts = [self.count(self.find(image), image.nuclei, image.region) for image in images]
        total = sum(counts[1:], counts[0])
        is_labelled = total.values[1:, [0, 2]].sum(1) > 0  # found or missed
        mean = np.nan_to_num(total.f1[1:][is_labelled]).mean() if is_labelled.any() else 0.0
        scores = {**total.scores(self.classes), MEAN: mean}
        return {name: round(float(np.nan_to_num(value)), 3) for name, value in scores.items()}


class Validation:
    """Scores a network at the threshold of the card, and tells which weights are the best so far.

    Args:
        network: whose weights at the time of a call are scored.
        data: of the run; what it holds back is scored.
        keep: called with the step and the scores whenever they are better than all before.
    """

    def __init__(self, network: NucleusDetector, data: FinetuneData, keep: Callable[[int, dict[str, float]], None]):
        self.images, self.keep = data.held, keep
        self.scorer = Scorer(network, data.config, data.reference)

    def __call__(self, step: int, log: MetricsLog) -> None:
        """Score, keep the weights if they are the best, log."""
        best = max((row[SCORE] for row in log.read() if SCORE in row), default=-np.inf)
        scores = self.scores()
        if scores[SCORE] > best:
            self.keep(step, scores)
        log.append(step - 1, scores)

    def scores(self) -> dict[str, float]:
        """See ``Scorer.score``."""
        return {f"validation {name} F1": value for name, value in self.scorer.score(self.images).items()}


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
