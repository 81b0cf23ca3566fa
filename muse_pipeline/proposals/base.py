"""The interface of proposers, and the guard that excludes windows from them.

A proposer is registered by name in ``PROPOSERS``. It is a ``Proposer`` with ``Settings``, a frozen
dataclass with defaults, and ``fit(sample, settings)``, a class method that returns the proposer of
a slide. The sample is taken with a fixed seed, so that the estimates, which ``facts`` contains, are
the same for every shard.

The guard skips windows in which nothing should be proposed: glass, ink, brown stain and windows out
of focus. It judges whole windows; ``tissue.background`` excludes single pen strokes and brown
nuclei within a good window. The guard also judges the sample, for warnings about the whole slide.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pyarrow.parquet as pq
from numpy import ndarray

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.environment import find_versions
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference.card import ModelCard, NucleusClass
from muse_pipeline.inference.detect import Detector, Guard, WindowChoice, detect_shard
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.proposals import PROPOSERS
from muse_pipeline.store.grid import Shard, WindowGrid
from muse_pipeline.store.store import Store
from muse_pipeline.tissue.background import coarsen, find_ink
from muse_pipeline.tissue.colour import SlideColour
from muse_pipeline.tissue.stain import DENSITY, is_brown

NUCLEUS = NucleusClass("Nucleus", (0, 158, 115))
# finer stores are averaged to about this pixel size, at which a nucleus is ten pixels wide
WORK_MPP = 0.5
INPUT_PX = 1024
HALO_UM = 20.0  # more than the windows' slack plus the radius of a nucleus
SAMPLE_PX = 512
MAX_SAMPLES = 16  # 1 mm2 at 0.5 um/px
SEED = 0
N_RAYS = 32
MAX_PER_MM2 = 30_000  # more nuclei than in the densest lymph node


@dataclass(frozen=True, eq=False)
class SlideSample:
    """Sample of a slide to which a proposer is fitted."""

    mpp: float  # um per pixel of ``pictures`` and of the windows
    pictures: tuple[ndarray, ...]  # (h, w, 3) uint8 crops of tissue
    # (2, 3) stain vectors of the slide from ``colour.json``; None if they could not be estimated
    stains: ndarray | None = None
    # the slide, for proposers that read other files about it; None if the image is not a slide of a
    # cohort
    info: SlideInfo | None = None
    is_ihc: bool = False  # True if the slide has the brown of immunohistochemistry


def sample_slide(store: Store, colour: SlideColour, info: SlideInfo | None) -> SlideSample:
    """Take crops of a slide's tissue at random, with a fixed seed."""
    grid = WindowGrid(store.size_px, SAMPLE_PX, 0)
    windows = np.random.default_rng(SEED).permutation(grid.windows_with_tissue(*store.tissue))[
        :MAX_SAMPLES
    ]
    corners = grid.origin_xy(np.sort(windows))
    sides = np.minimum(SAMPLE_PX, np.array(store.size_px) - corners)
    pictures = (
        store.read(tuple(corner), tuple(side)) for corner, side in zip(corners, sides, strict=True)
    )
    return SlideSample(
        store.mpp, tuple(pictures), colour.macenko and colour.macenko.stains, info, colour.is_ihc
    )


def shrink_factor(mpp: float) -> int:
    """Number of pixels averaged along each side to approach ``WORK_MPP``."""
    return max(1, round(WORK_MPP / mpp))


def shrink(pixels: ndarray, factor: int) -> ndarray:
    """(h, w, 3) ``pixels`` shrunk by ``factor`` along each side by averaging; sides are rounded
    up.
    """
    if factor == 1:
        return pixels
    height, width = (-(-side // factor) for side in pixels.shape[:2])
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def proposer_facts(
    proposer: dict[str, Any], colour: list | None, packages: Sequence[str]
) -> dict[str, Any]:
    """The ``facts`` of a proposer; ``proposer`` contains all values that affect nuclei, and is
    hashed like a model.
    """
    return {
        "model_sha256": hashlib.sha256(json.dumps(proposer, sort_keys=True).encode()).hexdigest(),
        "provider": "cpu",
        "colour": colour,
        "proposer": proposer,
        "versions": find_versions(packages),
    }


@dataclass(frozen=True, eq=False)
class Proposer(Detector):
    """Base class of proposers; ``find`` returns the nuclei of a window."""

    name: ClassVar[str]  # name under which the proposer is registered
    is_guarded: ClassVar[bool] = True  # True if the guard skips unsuitable windows

    mpp: float  # um per pixel of the windows

    @cached_property
    def card(self) -> ModelCard:
        """The proposer's card, in the format of a model card, with one class and one window per
        batch.

        Halo and core are multiples of ``shrink_factor(mpp)``, so that they are whole pixels at
        ``WORK_MPP``.
        """
        factor = shrink_factor(self.mpp)
        input_px = INPUT_PX * factor
        return ModelCard(
            name=self.name,
            mpp=self.mpp,
            input_px=input_px,
            halo_px=int(np.ceil(HALO_UM / self.mpp / factor)) * factor,
            stride_px=factor,
            batch=1,
            capacity=int(MAX_PER_MM2 * (input_px * self.mpp / 1000) ** 2),
            classes=(NUCLEUS,),
            threshold=0.0,
            n_rays=N_RAYS,
            readout="pixel",
            licence="Apache-2.0",
            training_data="none",
        )

    def __call__(self, pixels: ndarray, origin_xy: ndarray) -> list[Nuclei]:
        """The nuclei of each window; its position is ignored."""
        return [self.find(window) for window in pixels]


GLASS, INK, BROWN, BLURRED = "glass", "ink", "brown stain", "out of focus"
# optical density of the darkest channel at about 2 um/px; clean glass is below 0.1
STAINED_DENSITY = 0.15
MIN_STAINED = 0.01  # minimum stained share of a window
MAX_FOREIGN = 0.6  # largest share of ink or brown in the stained area
MIN_SHARPNESS = 0.15  # sharp windows are above 0.2, windows blurred by 2 um (sigma) below 0.15
FILL_PX = 24  # distance up to which an edge to white affects detail of 4 um
MIN_CONTRAST = 2.0  # grey levels; windows with less contrast are empty, not blurred


def judge_window(pixels: ndarray, mpp: float) -> str:
    """Reason to skip the window ``pixels``, (h, w, 3) uint8; "" if there is none."""
    if (factor := shrink_factor(mpp)) > 1:
        # Not ``shrink``, which rounds up: crops at the slide's edge would change, and with them the
        # share of brown.
        size = (max(1, pixels.shape[1] // factor), max(1, pixels.shape[0] // factor))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    density = DENSITY[coarsen(pixels)]
    stained = density.max(-1) > STAINED_DENSITY
    n_stained = np.count_nonzero(stained)
    if n_stained < MIN_STAINED * stained.size:
        return GLASS
    for reason, foreign in ((INK, find_ink(density)), (BROWN, is_brown(density))):
        if np.count_nonzero(foreign & stained) > MAX_FOREIGN * n_stained:
            return reason
    return BLURRED if is_blurred(pixels) else ""


def is_blurred(pixels: ndarray) -> bool:
    """True if ``pixels`` (at about 0.5 um/px) have little detail of 0.5 to 1 um relative to that of
    1 to 4 um.

    Pure white areas are ignored, because a store is white outside the tissue and the edge of that
    white is sharp.
    """
    white = (pixels.min(-1) == 255).astype(np.uint8)
    # Erosion by 4 px drops single white pixels, which tissue has too; dilation restores these 4 px
    # and adds FILL_PX.
    solid = cv2.erode(white, np.ones((9, 9), np.uint8))
    seen = cv2.dilate(solid, np.ones((2 * FILL_PX + 9,) * 2, np.uint8)) == 0
    if np.count_nonzero(seen) < MIN_STAINED * seen.size:
        return False
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine, middle, coarse = (cv2.GaussianBlur(grey, (0, 0), sigma) for sigma in (1.0, 2.0, 8.0))
    contrast = float((middle - coarse)[seen].std())
    return contrast > MIN_CONTRAST and float((fine - middle)[seen].std()) < MIN_SHARPNESS * contrast


def judge_sample(sample: SlideSample) -> list[str]:
    """Warnings about the whole slide, judged by the crops of its sample."""
    if not sample.pictures:
        return ["no tissue to propose nuclei in"]
    warnings = []
    reasons = Counter(judge_window(picture, sample.mpp) for picture in sample.pictures)
    for reason in (INK, BLURRED):
        if reasons[reason] * 2 > len(sample.pictures):
            warnings.append(f"most of the tissue is skipped ({reason}); nothing is proposed there")
    if sample.is_ihc:
        warnings.append(
            "brown stain, as in immunohistochemistry: only blue nuclei are proposed, and brown ones"
            " are missing"
        )
    return warnings


def fit_proposer(
    store: Store, method: str, settings: dict[str, Any], colour: SlideColour, info: SlideInfo | None
) -> tuple[Proposer, Guard | None]:
    """Fit a proposer to a slide; return it with the guard that decides which windows it skips, None
    to skip none.

    ``info`` is for proposers that read other files about the slide.
    """
    proposer = PROPOSERS[method]
    sample = sample_slide(store, colour, info)
    guard = (
        Guard(partial(judge_window, mpp=store.mpp), tuple(judge_sample(sample)))
        if proposer.is_guarded
        else None
    )
    return proposer.fit(sample, parse_settings(method, settings)), guard


def propose_shard(
    store: Store,
    proposer: Proposer,
    guard: Guard | None,
    shard: Shard,
    output: Path,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Find nuclei without labels in one shard and write them to ``output``, an input of ``muse
    step stitch``.

    The result does not depend on ``threads``. Returns warnings for the ledger: those of the guard,
    and one if no nuclei were found.
    """
    choice = WindowChoice(shard, guard)
    facts = detect_shard(store, proposer, output, choice, threads=threads, progress=progress)
    warnings = list(guard.remarks) if guard else []
    n_windows = facts["n_windows"]
    for reason, windows in sorted(facts.get("guarded_windows", {}).items()):
        if reason != GLASS:
            warnings.append(
                f"{len(windows)} of {n_windows} windows skipped ({reason}): nothing is proposed"
                " there"
            )
    if n_windows and not pq.read_metadata(output).num_rows:
        warnings.append(f"no nuclei were proposed in shard {shard}")
    return warnings


def parse_settings(method: str, settings: dict[str, Any]) -> Any:
    """``settings`` as the ``Settings`` of a proposer, with defaults filled in."""
    return parse_config(settings, PROPOSERS[method].Settings, f"proposals: {method}")
