"""Scores of a detector on labelled pictures, and its comparison with the detector that the run
started from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy import ndarray

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.core.pictures import spread_evenly
from muse_pipeline.core.text import count_noun
from muse_pipeline.evaluation.detection import (
    RADIUS_UM,
    DetectionCounts,
    match_nuclei,
    match_points,
)
from muse_pipeline.inference.card import ColourReference, ModelCard
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.outlines import OutlineRefiner, fit_outlines
from muse_pipeline.inference.predictor import nuclei_of_windows
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.methods.detector.config import DetectorConfig, export_window
from muse_pipeline.methods.detector.data import DetectorData
from muse_pipeline.methods.detector.mixing import (
    BLOCK_UM,
    SHARES,
    describe_falls,
    mix_weights,
    restrict,
)
from muse_pipeline.methods.detector.start import Start, load_trained
from muse_pipeline.models.base import Backbone
from muse_pipeline.models.detector import DetectionGraph, NucleusDetector
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.training.checkpoint import Checkpoint, load_detector_weights

MEAN = "mean class"
# from matches within 3 um; the weights with the highest score are kept
SCORE = f"validation {MEAN} F1"
SUM = f"validation detection + {MEAN} F1"  # likewise, on labels held out in turn


class Scorer:
    """Detects the nuclei of labelled images as the exported network does, with its current weights,
    and counts hits.
    """

    def __init__(
        self, network: NucleusDetector, config: DetectorConfig, reference: ColourReference
    ):
        self.classes = config.class_names
        self.reference = replace(reference, share=config.export.colour_share)
        self.predictor = NetworkPredictor(network, config)

    def find(self, image: LabelledImage) -> Nuclei:
        """The nuclei that the network finds (frame: work)."""
        network = self.predictor.network
        was_training = network.training
        network.eval()
        nuclei = detect_image(
            self.predictor, image.pixels, colour_of_fit(self.reference, image.stain)
        )
        network.train(was_training)
        return nuclei

    def total(self, images: Sequence[LabelledImage]) -> DetectionCounts:
        """Sum of the counts over all images."""
        counts = [self.count_in(image, self.find(image)) for image in images]
        return sum(counts[1:], counts[0])

    def count_in(self, image: LabelledImage, nuclei: Nuclei) -> DetectionCounts:
        """True positives, false positives and false negatives of the nuclei that were found in an
        image, matched within 3 um; in class areas, only classes are counted.

        An unmatched detection is a false positive only in the annotated region.
        """
        mpp = self.predictor.card.mpp
        if image.areas:
            return count_area_classes(nuclei, image.nuclei, mpp)
        true = replace(image.nuclei, frame=nuclei.frame)
        judged = image.in_region(nuclei.xy)
        return match_nuclei(nuclei, true, len(self.classes), mpp, judged=judged).counts

    def count_blocks(self, image: LabelledImage) -> ndarray:
        """(B, C + 1, 3) counts in the B annotated blocks of an image; blocks are
        ``mixing.BLOCK_UM`` wide and high.
        """
        nuclei = self.find(image)
        side_px = round(BLOCK_UM / self.predictor.card.mpp)
        height, width = image.pixels.shape[:2]
        row, column = np.indices((height, width)) // side_px
        block = row * -(-width // side_px) + column
        own = block if image.region is None else block[image.region]
        parts = (restrict(image, block == number) for number in np.unique(own))
        return np.array([self.count_in(part, nuclei).values for part in parts], float)

    def scores(self, total: DetectionCounts) -> dict[str, float]:
        """F1 in percent, keyed by name: detection, each class, and the mean over the labelled
        classes.
        """
        is_labelled = total.values[1:, [0, 2]].sum(1) > 0  # true positives or false negatives
        mean = np.nan_to_num(total.f1[1:][is_labelled]).mean() if is_labelled.any() else 0.0
        scores = {**total.scores(self.classes), MEAN: mean}
        return {name: round(float(np.nan_to_num(value)), 3) for name, value in scores.items()}

    def validate(self, images: Sequence[LabelledImage]) -> dict[str, float]:
        """The ``scores`` over all images, keyed by their names in the log."""
        return {
            f"validation {name} F1": value
            for name, value in self.scores(self.total(images)).items()
        }

    def sum_up(self, images: Sequence[LabelledImage]) -> dict[str, float]:
        """The scores of ``validate`` and, as ``SUM``, the sum of two of them."""
        scores = self.validate(images)
        return {**scores, SUM: scores["validation detection F1"] + scores[SCORE]}


def count_area_classes(predicted: Nuclei, true: Nuclei, mpp: float) -> DetectionCounts:
    """Count right and wrong classes of nuclei in class areas; detection is not counted.

    A detected nucleus that is matched with a nucleus of an area within 3 um is correct if its class
    is one of the area's most frequent classes. Otherwise it counts as a false positive of its class
    and as a false negative of these classes, in equal parts. ``prob`` of the true nuclei contains
    the area's shares of the C classes.
    """
    values = np.zeros((true.prob.shape[1] + 1, 3))
    taken = match_points(predicted.xy * mpp, predicted.score, true.xy * mpp, RADIUS_UM)
    label = predicted.label[taken >= 0]
    shares = true.prob[taken[taken >= 0]]
    allowed = shares == shares.max(1, initial=0, keepdims=True)
    is_right = allowed[np.arange(len(label)), label]
    for column, labels in enumerate((label[is_right], label[~is_right])):
        values[1:, column] = np.bincount(labels, minlength=len(values) - 1)
    values[1:, 2] = (allowed / allowed.sum(1, keepdims=True))[~is_right].sum(0)
    return DetectionCounts(values)


def make_card(config: DetectorConfig, backbone: Backbone) -> ModelCard:
    """The card of a detector, without facts about its training."""
    settings = config.export
    input_px = export_window(config, backbone)
    of_config = ("name", "mpp", "classes", "n_rays", "licence", "training_data")
    of_settings = ("halo_px", "batch", "threshold", "snap_um", "refine", "precision")
    return ModelCard(
        **{name: getattr(config, name) for name in of_config},
        **{name: getattr(settings, name) for name in of_settings},
        input_px=input_px,
        stride_px=backbone.stride_px,
        capacity=min(settings.capacity, (input_px // CELL_PX) ** 2),
        readout=backbone.lattice.name,
        embedding_dim=backbone.channels if settings.embedding else 0,
    )


class NetworkPredictor:
    """A PyTorch network, on any device, with the interface of ``inference.predictor.Predictor``."""

    def __init__(self, network: NucleusDetector, config: DetectorConfig):
        export = config.export
        self.network = network
        self.any_size = network.backbone.lattice.any_size
        self.graph = DetectionGraph(network, export.threshold, export.capacity)
        self.card = replace(make_card(config, network.backbone), batch=1)
        self.refiner = OutlineRefiner() if export.refine else None

    @torch.no_grad()
    def __call__(self, pixels: ndarray, colour: ndarray) -> list[Nuclei]:
        """(1, H, W, 3) uint8 and (3, 4) -> nuclei (frame: window), sorted by descending score."""
        device = next(self.network.parameters()).device
        windows = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)
        outputs = self.graph(windows, torch.as_tensor(colour, dtype=torch.float32, device=device))
        nuclei = nuclei_of_windows([values.float().cpu().numpy() for values in outputs])
        return fit_outlines(nuclei, pixels, self.card.mpp, self.card.snap_um, self.refiner)


def count_held(
    data: DetectorData, start: Start, trained: Checkpoint, images: Sequence[LabelledImage]
) -> ndarray:
    """(1 + S, B, C + 1, 3) counts in B blocks, with the initial weights and then with each of S
    ``mixing.SHARES``.

    ``trained`` is the checkpoint of a detector that was not trained on ``images``.
    """
    network, counts = load_trained(start.path)[0], []
    for share in (0.0, *SHARES):
        load_detector_weights(network, mix_weights(start.checkpoint, trained, share), start.path)
        scorer = Scorer(network, data.config, data.reference)
        counts.append(np.concatenate([scorer.count_blocks(image) for image in images]))
    return np.stack(counts)


def class_shift(images: Sequence[LabelledImage], scorer: Scorer) -> torch.Tensor:
    """(C,) terms added to the class logits in training, so that the class shares of the labels are
    not learnt.

    Class shares in the labels of a few pictures differ from those in the tissue. The terms are half
    the logarithm of the ratio of labelled to expected shares (half, because class weights are
    inverse square roots of frequencies), clamped to -1 to 1. The expected shares are a weighted
    mean of those found by the initial detector in the same regions and those of the labels; the
    more labels there are, the larger is the labels' weight. Images with class areas are ignored.
    """
    n_classes = len(scorer.classes)
    # Counts start at one nucleus per class, so that no logarithm of 0 is taken.
    labelled, detected = np.ones(n_classes), np.ones(n_classes)
    for image in images:
        label = image.nuclei.label[image.nuclei.label >= 0]
        if image.areas or not len(label):
            continue
        nuclei = scorer.find(image)
        labelled += np.bincount(label, minlength=n_classes)
        detected += np.bincount(nuclei.label[image.in_region(nuclei.xy)], minlength=n_classes)
    n = labelled.sum()
    shares = labelled / n
    expected = (labelled + PRIOR_NUCLEI * detected / detected.sum()) / (n + PRIOR_NUCLEI)
    return torch.from_numpy(0.5 * np.log(shares / expected)).float().clamp(-1, 1)


def find_unlabelled(images: Sequence[LabelledImage], scorer: Scorer) -> Iterator[str]:
    """Yield a warning for each of some images in whose annotated area the initial detector finds
    many more nuclei than are labelled.
    """
    for image in (images[index] for index in spread_evenly(len(images), N_IMAGES)):
        if image.areas:
            continue
        n = int(image.in_region(scorer.find(image).xy).sum())
        n_labelled = len(image.nuclei)
        if n >= LEAST_FOUND and n_labelled < SHARE_LABELLED * n:
            yield (
                f"{image.name}: only {count_noun(n_labelled, 'nucleus is', 'nuclei are')} labelled,"
                f" but {n:,} are found; unlabelled nuclei count as background, so label all, or"
                " draw a smaller region"
            )


LEAST_FOUND, SHARE_LABELLED = 20, 0.3
# number of labelled nuclei that have the same weight as the initial detector's shares
PRIOR_NUCLEI = 4000
N_IMAGES = 24
AROUND_UM = 128.0  # width of the tissue that is kept around an annotated region


def compare_with_start(data: DetectorData, start: Start, network: NucleusDetector) -> Iterator[str]:
    """Yield sentences that compare the initial and the trained detector on labels."""
    initial, config, _ = load_trained(start.path)
    initial.to(next(network.parameters()).device)
    before = Scorer(initial, config, start.colour)
    now = Scorer(network, data.config, data.reference)
    labelled = [*_choose(data.held or data.images, config.mpp)]
    totals = [scorer.total(labelled) for scorer in (before, now)]
    first, last = (
        scorer.scores(total) for scorer, total in zip((before, now), totals, strict=True)
    )
    counts = totals[0].values[1:, [0, 2]].sum(1)
    classes = [name for name, n in zip(now.classes, counts, strict=True) if n]
    name = MEAN if classes else "detection"
    old, new = (int(total.values[0, :2].sum()) for total in totals)
    n_true = int(totals[0].values[0, [0, 2]].sum())
    which = (
        "validation labels, not trained on"
        if data.held
        else "training labels, as there is no `validation`"
    )
    by_class = "".join(f"; {name} {first[name]:.1f} to {last[name]:.1f}" for name in classes)
    yield f"{name} F1 on the {which}: {first[name]:.1f} before, {last[name]:.1f} now{by_class}"
    if n_true:
        yield (
            f"nuclei found on them: {old:,} before, {new:,} now ({new - old:+,}), of {n_true:,}"
            " labelled"
        )
    changes = {name: last[name] - first[name] for name in classes}
    yield from describe_falls(changes, which.split(",", maxsplit=1)[0])


def _choose(images: Sequence[LabelledImage], mpp: float) -> Iterator[LabelledImage]:
    """At most ``N_IMAGES`` images, spread evenly, each cropped to its annotated region and
    ``AROUND_UM`` around it.
    """
    margin_px = round(AROUND_UM / mpp)
    for image in (images[index] for index in spread_evenly(len(images), N_IMAGES)):
        left, top, right, bottom = image.annotated_box
        left, top = max(left - margin_px, 0), max(top - margin_px, 0)
        part = slice(top, bottom + margin_px), slice(left, right + margin_px)
        region, annotated = (
            mask if mask is None else mask[part] for mask in (image.region, image.annotated)
        )
        nuclei = replace(image.nuclei, xy=image.nuclei.xy - (left, top))
        yield replace(
            image, pixels=image.pixels[part], region=region, annotated=annotated, nuclei=nuclei
        )
