"""What a run has changed that goes on with a whole detector: scores before and after, and agreement elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.finetune_data import FinetuneData
from muse_pipeline.training.start import Start
from muse_pipeline.training.trained_detector import load_trained
from muse_pipeline.training.validation import MEAN, Scorer

N_IMAGES = 24
AROUND_UM = 128.0  # of tissue around an annotated region


def compare_with_start(data: FinetuneData, start: Start, network: NucleusDetector) -> Iterator[str]:
    """A sentence on what was corrected and one on the tissue around it.

    Args:
        data: of the run.
        start: the detector that the run started from.
        network: the detector that leaves the run.
    """
    first, config, _ = load_trained(start.path)
    first.to(next(network.parameters()).device)
    before, now = Scorer(first, config, start.colour), Scorer(network, data.config, data.reference)
    labelled = _choose(data.held or data.images, config.mpp)
    scores = [scorer.score(labelled)[MEAN] for scorer in (before, now)]
    which = "validation labels, not trained on" if data.held else "training labels, as there is no `validation`"
    yield f"mean class F1 on the {which}: {scores[0]:.1f} before, {scores[1]:.1f} now"
    agreement = _agreement(before, now, _choose(data.images, config.mpp))
    if agreement is not None:
        yield f"outside the labelled regions: agrees with {start.path.name} on {agreement:.0f} % of nuclei"


def _choose(images: Sequence[LabelledImage], mpp: float) -> list[LabelledImage]:
    """At most ``N_IMAGES``, spread evenly, each cut to its annotated region with some tissue around it."""
    chosen = np.unique(np.linspace(0, len(images) - 1, N_IMAGES).round().astype(int))
    return [_cut(images[index], round(AROUND_UM / mpp)) for index in chosen]


def _cut(image: LabelledImage, margin_px: int) -> LabelledImage:
    left, top, right, bottom = image.annotated_box
    left, top = max(left - margin_px, 0), max(top - margin_px, 0)
    part = slice(top, bottom + margin_px), slice(left, right + margin_px)
    region, annotated = (mask if mask is None else mask[part] for mask in (image.region, image.annotated))
    nuclei = replace(image.nuclei, xy=image.nuclei.xy - (left, top))
    return replace(image, pixels=image.pixels[part], region=region, annotated=annotated, nuclei=nuclei)


def _agreement(before: Scorer, now: Scorer, images: Sequence[LabelledImage]) -> float | None:
    """Percent of the nuclei outside of annotated regions that both find with the same class, F1; None without any."""
    hits = misses = 0
    for image in images:
        outside = image.unannotated
        if not outside.any():
            continue
        old, new = before.find(image), now.find(image)
        column, row = old.xy.astype(int).T
        counts = now.count(new, old[outside[row, column]], outside).values[1:].sum(0)
        hits, misses = hits + 2 * counts[0], misses + counts[1] + counts[2]
    return 100 * hits / (hits + misses) if hits + misses else None
