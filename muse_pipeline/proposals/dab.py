"""Immunohistochemistry for stain-based proposers: pictures in which brown nuclei are painted like blue ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from muse_pipeline.inference.card import ModelCard
from muse_pipeline.inference.dab import ABSOLUTE, BLUE, CLASSES, density_to_pixels, mean_within, split_stains
from muse_pipeline.inference.detect import Detector
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.proposals.base import (
    SlideSample,
    judge_window,
    proposal_card,
    proposer_sha256,
    shrink_factor,
    to_work_mpp,
)
from muse_pipeline.proposals.otsu import otsu_threshold
from muse_pipeline.tissue.stain import TEXTBOOK

CAP = 2.0  # times the threshold of blue nuclei: brown ones may be ten times as dense, and would raise it beyond them
MIN_CAP = 0.6
BLUR_UM = 0.5  # grain


@dataclass(frozen=True)
class BluePaint:
    """Paints a slide's nuclei, brown and blue, as haematoxylin of one hue, so that a finder of blue nuclei finds both.

    Attributes:
        mpp: um per pixel of the input.
        most: optical density at which painted densities are clipped.
    """

    mpp: float
    most: float

    @classmethod
    def fit(cls, sample: SlideSample) -> BluePaint:
        """Clip well above the density of blue nuclei, estimated by Otsu's cut of the pixels that are not brown."""
        blue = [np.zeros(0, np.float32)]
        for picture in sample.pictures:
            stains = split_stains(to_work_mpp(picture, sample.mpp))
            stains = cv2.GaussianBlur(stains, (0, 0), BLUR_UM / (sample.mpp * shrink_factor(sample.mpp)))
            blue.append(stains.sum(-1)[stains[..., 1] < ABSOLUTE])
        density = np.concatenate(blue)
        cut = otsu_threshold(density) if len(density) else np.inf
        return cls(sample.mpp, round(max(CAP * cut, MIN_CAP), 6) if np.isfinite(cut) else MIN_CAP)

    @property
    def work_mpp(self) -> float:
        """Um per pixel of the painted picture."""
        return self.mpp * shrink_factor(self.mpp)

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The painted picture (h', w', 3) uint8 of ``pixels`` (h, w, 3) uint8, and the DAB (h', w') float32 in them."""
        stains = split_stains(to_work_mpp(pixels, self.mpp))
        density = np.minimum(stains[..., 0] + stains[..., 1], np.float32(self.most))
        painted = density_to_pixels(cv2.transform(density, BLUE[:, None]))
        return painted, np.ascontiguousarray(stains[..., 1])

    def sample(self, sample: SlideSample) -> SlideSample:
        """``sample`` painted, with the textbook's stains."""
        return SlideSample(self.work_mpp, tuple(self(one)[0] for one in sample.pictures), TEXTBOOK, sample.info)


MIN_NUCLEI = 20  # fewer fall into no groups
MIN_EXPLAINED = 0.75  # of the variance, by two groups: more than of a uniform distribution; of a normal one it is 0.64


@dataclass(frozen=True)
class DabCut:
    """Threshold of DAB for positive nuclei.

    Attributes:
        threshold: mean optical density (natural logarithm) of DAB within a nucleus.
        rule: "2-means" of the sampled nuclei, or "absolute" where they are of one kind.
        means: mean density of the sampled nuclei below and above the threshold; None for an empty group.
        n_nuclei: number of sampled nuclei.
    """

    threshold: float
    rule: str
    means: tuple[float | None, float | None]
    n_nuclei: int

    @classmethod
    def of(cls, dab: np.ndarray) -> DabCut:
        """Choose the threshold from the mean DAB of sampled nuclei (N,).

        In one dimension 2-means is Otsu's cut. It is used if two groups explain most of the variance and the absolute
        threshold lies between their means: weak and strong brown are both positive, pale and paler both negative.
        """
        cut = otsu_threshold(dab) if len(dab) >= MIN_NUCLEI else np.inf
        low, high = _means(dab, cut)
        if low is not None and high is not None and low < ABSOLUTE <= high:
            explained = np.mean((np.where(dab > cut, high, low) - dab.mean()) ** 2) / dab.var()
            if explained >= MIN_EXPLAINED:
                return cls(round(cut, 6), "2-means", (low, high), len(dab))
        return cls(ABSOLUTE, "absolute", _means(dab, ABSOLUTE), len(dab))

    def remarks(self) -> list[str]:
        """A warning if the threshold is not the slide's own."""
        if self.rule == "2-means":
            return []
        return [
            f"the {self.n_nuclei} sampled nuclei are not clearly of two kinds, brown and blue: Positive begins at the "
            f"absolute DAB density {ABSOLUTE:.2f} (0.2 in QuPath)"
        ]


@dataclass(frozen=True, eq=False)
class DabFinder(Detector):
    """Finds blue and brown nuclei and gives them different classes.

    Attributes:
        finder: finder of a proposer, fitted to the painted slide.
        method: name of the proposer.
        paint: paints brown nuclei like blue ones for the finder.
        cut: threshold for positive nuclei.
    """

    finder: Detector
    method: str
    paint: BluePaint
    cut: DabCut

    @classmethod
    def fit(cls, sample: SlideSample, method: str, fit: Callable[[SlideSample], Detector]) -> DabFinder:
        """Fit paint, proposer and cut, in this order, to the same crops.

        Args:
            sample: sample of the slide.
            method: name of the proposer.
            fit: function that fits the proposer to a sample.
        """
        paint = BluePaint.fit(sample)
        loose = cls(fit(paint.sample(sample)), method, paint, DabCut(ABSOLUTE, "absolute", (None, None), 0))
        means = [loose.measure(picture)[1] for picture in sample.pictures]
        return replace(loose, cut=DabCut.of(np.concatenate([np.zeros(0), *means])))

    @cached_property
    def card(self) -> ModelCard:
        """The proposer's card, with two classes."""
        return replace(proposal_card(self.method, self.paint.mpp), classes=CLASSES)

    def __call__(self, pixels: np.ndarray, origin_xy: np.ndarray) -> list[Nuclei]:
        """The nuclei of each window; its position makes no difference."""
        return [self.find(window) for window in pixels]

    def find(self, pixels: np.ndarray) -> Nuclei:
        """The nuclei (frame: window) of (h, w, 3) uint8 ``pixels``, with the proposer's order and scores."""
        nuclei, dab = self.measure(pixels)
        positive = dab > self.cut.threshold
        prob = np.stack([~positive, positive], -1).astype(np.float32)  # colour has no probability
        return replace(nuclei, label=positive.astype(np.int32), prob=prob)

    def measure(self, pixels: np.ndarray) -> tuple[Nuclei, np.ndarray]:
        """The proposer's nuclei (frame: window) of ``pixels``, and the mean DAB density (N,) within each."""
        painted, dab = self.paint(pixels)
        nuclei = self.finder(painted[None], np.zeros((1, 2)))[0]
        means = mean_within(dab, nuclei, self.paint.work_mpp)
        return replace(nuclei, xy=nuclei.xy * shrink_factor(self.paint.mpp)), means

    def judge_window(self, pixels: np.ndarray) -> str:
        """Reason to skip ``pixels``, or ""; brown is no reason, nor is ink, which cannot be distinguished from it."""
        return judge_window(self.paint(pixels)[0], self.paint.work_mpp)

    def facts(self) -> dict[str, Any]:
        """The proposer's facts with the cut, and the checksum of both."""
        inner = self.finder.facts()
        cut = {"threshold": self.cut.threshold, "rule": self.cut.rule, "n_nuclei": self.cut.n_nuclei}
        classes = {"by": "dab", **cut, "means": list(self.cut.means), "most": self.paint.most}
        proposer = {**inner["proposer"], "classes": classes}
        return {**inner, "model_sha256": proposer_sha256(proposer), "proposer": proposer}


def _means(dab: np.ndarray, cut: float) -> tuple[float | None, float | None]:
    return tuple(round(float(part.mean()), 6) if len(part) else None for part in (dab[dab <= cut], dab[dab > cut]))
