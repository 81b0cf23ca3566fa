"""Detection of one shard of one slide: its windows through an ONNX model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.inference.appearance import Verdict
from muse_pipeline.inference.card import ModelCard
from muse_pipeline.inference.dab import LN_10, POSITIVE_OD, mean_within, recolour_brown, split_stains
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.walk import NucleusFinder, walk_shard
from muse_pipeline.nuclei.doubles import drop_doubles
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.surroundings import find_versions
from muse_pipeline.tiles.chunks import tissue_on_lattice
from muse_pipeline.tiles.grid import Shard, WindowGrid
from muse_pipeline.tiles.store import Store, tissue_pixel_px
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.stain_map import IDENTITY

PACKAGES = ("muse-pipeline", "numpy", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")


@dataclass(frozen=True)
class ModelFinder(NucleusFinder):
    """A model on one slide, as the walk calls it.

    Attributes:
        predictor: the model.
        colour: (3, 4), see ``inference.colour``.
        appearance: whether the slide looks like the model's training pictures, if that was judged.
    """

    each_once = True

    predictor: Predictor
    colour: np.ndarray
    appearance: Verdict | None = None

    @property
    def trim(self) -> bool:
        """Whether the model takes windows of any size."""
        return self.predictor.any_size

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.predictor.card

    @property
    def measures_dab(self) -> bool:
        """Whether the slide looks like immunohistochemistry."""
        return self.appearance is not None and self.appearance.is_brown

    def __call__(self, pixels: np.ndarray, origin_xy: np.ndarray) -> list[Nuclei]:
        """The model's nuclei; where a window lies makes no difference to it."""
        found = self.predictor(pixels, self.colour)
        if not self.measures_dab:
            return found
        stains = list(map(split_stains, pixels))
        recoloured = self.predictor(np.stack(list(map(recolour_brown, pixels, stains))), IDENTITY)
        return list(map(self._with_brown, found, recoloured, stains))

    def _with_brown(self, found: Nuclei, recoloured: Nuclei, stains: np.ndarray) -> Nuclei:
        """Nuclei of one window with ``dab_od``: brown ones of the recoloured pixels, and what else was found."""
        dab = np.ascontiguousarray(stains[..., 1])
        found, recoloured = (
            replace(nuclei, dab_od=mean_within(dab, nuclei, self.card.mpp)[:, None] / LN_10)
            for nuclei in (found, recoloured)
        )
        brown = recoloured[recoloured.dab_od[:, 0] >= POSITIVE_OD]
        both = drop_doubles(Nuclei.concatenate([brown, found]), self.card.mpp)  # of two the first stays
        return both[np.argsort(-both.score, kind="stable")]

    def facts(self) -> dict[str, Any]:
        """Checksum, provider, colour map, verdict on the slide's appearance, where positive begins, and versions."""
        return {
            "model_sha256": self.predictor.sha256,
            "provider": self.predictor.provider,
            "colour": self.colour.tolist(),
            **({"appearance": self.appearance.to_dict()} if self.appearance else {}),
            **({"positive_od": POSITIVE_OD} if self.measures_dab else {}),
            "versions": find_versions(PACKAGES),
        }


def plan_windows(predictor: Predictor, tissue: TissueMask, size_px: tuple[int, int]) -> np.ndarray:
    """What a slide's shards run the model on, window by window: corner, width and height (N, 4) in work pixels.

    Args:
        predictor: the model.
        tissue: of the slide.
        size_px: (width, height) of the slide at the model's mpp.
    """
    card = predictor.card
    grid = WindowGrid(size_px, card.input_px, card.halo_px)
    label = tissue_on_lattice(tissue, card.mpp, size_px), float(tissue_pixel_px(card.mpp))
    windows = grid.windows_with_tissue(*label)
    parts = [
        grid.part(windows[i : i + 1], *label, card.stride_px) if predictor.any_size else grid.whole
        for i in range(len(windows))
    ]
    places = [
        (*grid.part_xy(window, part), part.width, part.height) for window, part in zip(windows, parts, strict=True)
    ]
    return np.array(places, int).reshape(-1, 4)


def detect_shard(
    store: Store,
    predictor: Predictor,
    colour: np.ndarray,
    shard: Shard,
    output: Path,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
    offset_px: int = 0,
    appearance: Verdict | None = None,
    within: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Find the nuclei of one shard with a model and write them to ``output``; see ``walk.walk_shard``.

    On a slide that looks like immunohistochemistry the model also runs on recoloured pixels, for brown nuclei, and the
    brown of every nucleus is measured (``inference.dab``).

    Raises:
        ModelError: the store's mpp is not the card's.
    """
    finder = ModelFinder(predictor, colour, appearance)
    how = {"threads": threads, "progress": progress, "offset_px": offset_px, "within": within}
    return walk_shard(store, finder, shard, output, **how)
