"""Detection of the nuclei in one shard of a slide: a model or a proposer runs on fixed windows in
fixed batches.

Nuclei in a picture in memory are detected in the same windows, and seams are resolved in the same
way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from muse_pipeline.core.coords import window_to_work
from muse_pipeline.core.environment import find_versions
from muse_pipeline.core.errors import ModelError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.pictures import resize_picture
from muse_pipeline.core.provenance import Verdict, to_json
from muse_pipeline.core.types import Frame
from muse_pipeline.inference.card import EmbedderCard, ModelCard
from muse_pipeline.inference.doubts import judge_appearance
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.shards import ShardWriter
from muse_pipeline.inference.stains import (
    LN_10,
    POSITIVE_OD,
    colour_of_fit,
    is_brown_inside,
    mean_within,
    recolour_brown,
    split_stains,
    stop_at_brown,
)
from muse_pipeline.nuclei.pairs import SeamResolver, cut_apart, report_window, suppress_overlaps
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.slides.isolation import choose_map
from muse_pipeline.store.grid import Shard, WindowGrid
from muse_pipeline.store.store import Store, continue_axis
from muse_pipeline.tissue.colour import SlideColour
from muse_pipeline.tissue.stain import IDENTITY, MacenkoFit

# chunks kept per thread (6 MB in all): those that a window shares with the next one in its row
CACHED_CHUNKS = 8


class Detector(Protocol):
    """Finds nuclei in windows; may be called from several threads at once."""

    card: ModelCard  # mpp, window, halo, batch, capacity, classes, rays and embedding
    suppress_overlaps: bool = (
        False  # True if a nucleus may be outlined twice; it is then reported once
    )
    # True if windows of any size are accepted; those of a batch are then cut to their tissue
    trim: bool = False
    measures_dab: bool = False  # True if the nuclei have ``dab_od``

    def __call__(self, pixels: np.ndarray, origin_xy: np.ndarray) -> list[Nuclei]:
        """Find the nuclei in each of n windows (frame: window), by descending score; tables for
        empty slots may follow.

        Args:
            pixels: (card.batch, S, S, 3) uint8, S = ``card.input_px``; slots without a window are
                white. With ``trim``, (card.batch, H, W, 3), where H and W are multiples of
                ``card.stride_px``.
            origin_xy: (n, 2) top-left corners of the windows in work pixels; n is at most
                ``card.batch``.
        """

    def facts(self) -> dict[str, Any]:
        """Facts that must be the same in all shards of a slide: checksum, provider, colour,
        versions.
        """


@dataclass(frozen=True)
class Guard:
    """A check that excludes windows of a slide from detection.

    The function ``judge`` returns the reason to skip a window (S, S, 3), or ""; ``remarks`` are
    warnings about the slide.
    """

    judge: Callable[[np.ndarray], str]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class WindowChoice:
    """The windows of a slide in which nuclei are searched for: those of a ``shard`` that ``guard``
    does not exclude.

    Only batches with a window whose core touches the rectangle ``within``, two corners (x, y) in
    work pixels, are run.
    """

    shard: Shard = Shard(1, 1)
    guard: Guard | None = None
    within: tuple[np.ndarray, np.ndarray] | None = None
    # shift of the window grid; set only by tests, which check that results do not depend on it
    offset_px: int = 0


EVERY_WINDOW = WindowChoice()


def detect_shard(
    store: Store,
    finder: Detector,
    output: Path,
    choice: WindowChoice = EVERY_WINDOW,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
    in_processes: bool = False,
) -> dict[str, Any]:
    """Find the nuclei of one shard, write them to ``output``, and return the facts that are written
    into the file.

    The facts are the shard, the number of windows, the windows that were full or excluded, and the
    facts about slide, grid and finder that all shards have in common.

    Args:
        store: the slide's image at the card's mpp.
        finder: detector of the nuclei.
        output: path of the shard's file.
        choice: windows that are searched.
        threads: number of batches that are read and run at the same time; results do not depend on
            it.
        progress: function called with (batches done, batches in all).
        in_processes: True to start processes instead of many threads; they import the program's
            main module.
    """
    card, guard = finder.card, choice.guard
    require_mpp(store, card)
    grid = WindowGrid(store.size_px, card.input_px, card.halo_px, choice.offset_px)
    batches = choice.shard.batches(grid.windows_with_tissue(*store.tissue), card.batch)
    if choice.within is not None:
        batches = [windows for windows in batches if grid.touches(windows, *choice.within).any()]
    store.keep_chunks(CACHED_CHUNKS * (threads + 1))
    run_batch = partial(_run_batch, image=store, finder=finder, grid=grid, guard=guard)
    map_batches = choose_map(threads, sum(map(len, batches)), in_processes)
    full, guarded = [], defaultdict(list)  # indices of windows
    columns = len(card.classes), card.n_rays, card.embedding_dim, finder.measures_dab
    with complete_file(output) as unfinished, ShardWriter(unfinished, *columns) as writer:
        for done, batch in enumerate(map_batches(run_batch, batches, threads), 1):
            for window, reports, is_full, reason in batch:
                if is_full:
                    full.append(window)
                if reason:
                    guarded[reason].append(window)
                writer.add(reports, window)
            if progress:
                progress(done, len(batches))
        store.require_unchanged()
        facts = {
            "shard": str(choice.shard),
            "n_windows": sum(map(len, batches)),
            "full_windows": full,
            **({"guarded_windows": guarded} if guard or guarded else {}),
            "common": _describe_common(store, grid, finder, guard),
        }
        writer.finish(facts)
    return facts


def _describe_common(
    store: Store, grid: WindowGrid, finder: Detector, guard: Guard | None
) -> dict[str, Any]:
    """The facts that all shards of a slide have in common."""
    return {
        "slide_id": store.slide_id,
        "fingerprint": store.fingerprint,
        "size_px": list(store.size_px),
        "slide_mpp": list(store.slide_mpp),
        "offset_px": grid.offset_px,
        "corrupt_fraction": store.attributes.get("corrupt_fraction", 0.0),
        "tissue_sha256": store.attributes.get("tissue_sha256"),
        **finder.facts(),
        "card": finder.card.to_json(),
        **({"warnings": list(guard.remarks)} if guard else {}),
    }


def _run_batch(
    windows: np.ndarray,
    image: Store | PictureInMemory,
    finder: Detector,
    grid: WindowGrid,
    guard: Guard | None = None,
) -> list[tuple[int, Nuclei, bool, str]]:
    """For each window of a batch, its index, its nuclei, whether it is full, and the reason to
    exclude it or "".
    """
    card = finder.card
    part = grid.part(windows, *image.tissue, card.stride_px) if finder.trim else grid.whole
    size_px, corners = (part.width, part.height), grid.part_xy(windows, part)
    # Some graphs accept only whole batches, so slots without a window stay white.
    pixels = np.full((card.batch, *size_px[::-1], 3), 255, np.uint8)
    for slot, corner in enumerate(corners):
        pixels[slot] = image.read_continued(tuple(corner), size_px)
    reasons = [guard.judge(pixels[slot]) if guard else "" for slot in range(len(corners))]
    in_windows = finder(pixels, corners) if not all(reasons) else [no_nuclei(card)] * len(corners)
    batch = []
    for window, corner, unguarded, guarded in zip(
        windows.tolist(), corners, in_windows, reasons, strict=False
    ):
        reason = guarded or unguarded.fault
        nuclei = no_nuclei(card) if reason else unguarded
        is_full = len(nuclei) >= card.capacity  # counted before nuclei are dropped
        xy = window_to_work(nuclei.xy, corner)
        nuclei = nuclei[
            ((xy >= 0) & (xy < grid.size_px)).all(1)
        ]  # not beyond the edges of the image
        if finder.suppress_overlaps:
            nuclei = suppress_overlaps(nuclei, card.mpp)
        batch.append((window, report_window(nuclei, window, grid, part, card.mpp), is_full, reason))
    return batch


def no_nuclei(card: ModelCard) -> Nuclei:
    """An empty table (frame: window) with the columns that ``card`` requires."""
    widths = {"rays": card.n_rays, "prob": len(card.classes), "embedding": card.embedding_dim}
    return Nuclei(
        np.zeros((0, 2)),
        Frame.WINDOW,
        **{name: np.zeros((0, width), np.float32) for name, width in widths.items()},
    )


def require_mpp(store: Store, card: ModelCard | EmbedderCard) -> None:
    """Reject a store that is not at the model's mpp."""
    if abs(store.mpp / card.mpp - 1) > 1e-6:
        raise ModelError(
            f"{store.path}: stored at {store.mpp:g} um/px, but model '{card.name}' works at"
            f" {card.mpp:g} um/px; tile the slide at {card.mpp:g} or choose another model"
        )


PACKAGES = ("muse-pipeline", "numpy", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")


@dataclass(frozen=True)
class ModelFinder(Detector):
    """A model with the stains of one slide, for ``detect_shard``.

    On a slide of immunohistochemistry, the model also runs on recoloured pixels, to find brown
    nuclei, and the DAB of every nucleus is measured (``inference.stains``).
    """

    suppress_overlaps = True

    predictor: Predictor
    colour: np.ndarray  # (3, 4) map of the slide's colours, see ``inference.stains``
    appearance: Verdict | None = None  # comparison of the slide with the model's training pictures
    third_stain: Sequence[float] | None = (
        None  # unit vector of a stain other than haematoxylin and DAB
    )

    @classmethod
    def of_slide(
        cls, predictor: Predictor, stained: SlideColour, stain: str | None = None
    ) -> ModelFinder:
        """The model for a slide with these colours, and with the ``stain`` that the user states."""
        card = predictor.card
        verdict = judge_appearance(card.appearance, stained, stain)
        return cls(
            predictor, colour_of_fit(card.colour, stained.macenko), verdict, stained.third_stain
        )

    @property
    def trim(self) -> bool:
        """True if the model accepts windows of any size."""
        return self.predictor.any_size

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.predictor.card

    @property
    def measures_dab(self) -> bool:
        """True for immunohistochemistry."""
        return self.appearance is not None and self.appearance.is_ihc

    def __call__(self, pixels: np.ndarray, origin_xy: np.ndarray) -> list[Nuclei]:
        """The model's nuclei, which do not depend on ``origin_xy``."""
        windows = self.predictor(pixels, self.colour)
        if not self.measures_dab:
            return windows
        stains = [split_stains(window, self.third_stain) for window in pixels]
        recoloured = self.predictor(np.stack(list(map(recolour_brown, pixels, stains))), IDENTITY)
        return list(map(self._with_brown, windows, recoloured, stains))

    def _with_brown(self, as_stained: Nuclei, recoloured: Nuclei, stains: np.ndarray) -> Nuclei:
        """Nuclei of one window with ``dab_od``: brown ones from ``recoloured``, and ``as_stained``
        elsewhere.
        """
        dab, mpp = np.ascontiguousarray(stains[..., 1]), self.card.mpp
        fault = as_stained.fault or recoloured.fault
        is_brown = is_brown_inside(dab, as_stained, mpp)
        blue = stop_at_brown(dab, as_stained[~is_brown], mpp)
        as_stained, recoloured = (
            replace(nuclei, dab_od=mean_within(dab, nuclei, mpp)[:, None] / LN_10)
            for nuclei in (Nuclei.concatenate([as_stained[is_brown], blue]), recoloured)
        )
        # around a blue nucleus with a brown membrane, the recoloured one includes the membrane
        brown = recoloured[
            (recoloured.dab_od[:, 0] >= POSITIVE_OD) & is_brown_inside(dab, recoloured, mpp)
        ]
        both = suppress_overlaps(
            Nuclei.concatenate([brown, as_stained]), self.card.mpp
        )  # keeps the first of two
        return replace(both[np.argsort(-both.score, kind="stable")], fault=fault)

    def facts(self) -> dict[str, Any]:
        """Checksums, provider, colour map, comparison with training, positivity threshold, third
        stain, versions.
        """
        return {
            "model_sha256": self.predictor.sha256,
            **({"refiner_sha256": self.predictor.refiner.sha256} if self.predictor.refiner else {}),
            "provider": self.predictor.provider,
            **({"device": self.predictor.device} if self.predictor.device else {}),
            "colour": self.colour.tolist(),
            **({"appearance": to_json(self.appearance)} if self.appearance else {}),
            **({"positive_od": POSITIVE_OD} if self.measures_dab else {}),
            **(
                {"third_stain": list(self.third_stain)}
                if self.measures_dab and self.third_stain
                else {}
            ),
            "versions": find_versions((*PACKAGES, "torch") if self.predictor.device else PACKAGES),
        }


def detect_picture(
    predictor: Predictor, pixels: np.ndarray, mpp: float, stain: MacenkoFit | None
) -> Nuclei:
    """Nuclei in a picture (h, w, 3) uint8 of any mpp, in pixels of that picture (frame: work).

    The picture is resampled to the model's mpp. Its ``stain`` is None if unknown.
    """
    resized = resize_picture(pixels, mpp / predictor.card.mpp)
    nuclei = detect_image(predictor, resized, colour_of_fit(predictor.card.colour, stain))
    # The resized sides are whole pixels, so their ratio to the original sides is not exactly that
    # of the mpps.
    return replace(nuclei, xy=nuclei.xy * (np.array(pixels.shape[1::-1]) / resized.shape[1::-1]))


def detect_image(predictor: Predictor, pixels: np.ndarray, colour: np.ndarray) -> Nuclei:
    """Nuclei in (h, w, 3) uint8 ``pixels`` at the card's mpp, in pixels of that picture (frame:
    work).
    """
    nuclei, mpp = detect_overlapping(predictor, pixels, colour), predictor.card.mpp
    none = nuclei[:0]
    return replace(nuclei, rays=cut_apart(nuclei.xy * mpp, nuclei.rays, none.xy, none.rays))


def detect_overlapping(predictor: Predictor, pixels: np.ndarray, colour: np.ndarray) -> Nuclei:
    """The nuclei of ``detect_image`` with the network's own outlines, which may overlap."""
    card, finder = predictor.card, ModelFinder(predictor, colour)
    picture = PictureInMemory(pixels, card.stride_px)
    grid = WindowGrid(picture.size_px, card.input_px, card.halo_px)
    windows = np.arange(grid.shape[0] * grid.shape[1])
    reports = [
        _run_batch(windows[[window]], picture, finder, grid)[0][1].require(Frame.WORK)
        for window in windows
    ]
    nuclei, seams = Nuclei.concatenate(reports), SeamResolver(grid, card.mpp)
    kept = (
        seams.add(nuclei.xy, np.repeat(windows, [len(report) for report in reports])),
        seams.finish(),
    )
    return nuclei[np.concatenate(kept)]


class PictureInMemory:
    """A picture (h, w, 3) uint8 in memory, all of which is tissue."""

    def __init__(self, pixels: np.ndarray, stride_px: int):
        self._pixels, (height, width) = pixels, pixels.shape[:2]
        self.size_px = width, height
        self.tissue = np.ones((-(-height // stride_px), -(-width // stride_px)), bool), stride_px

    def read_continued(self, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """Read a box as ``Store.read_continued`` does."""
        columns, rows = map(continue_axis, xy, size, self.size_px)
        return self._pixels[np.ix_(rows, columns)]
