"""Labelled slides as bags: the features of their tiles, in one memory-mapped float16 file per
slide.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.cohort.sheet import read_sheet
from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import LabelError, StoreError
from muse_pipeline.core.text import count_noun
from muse_pipeline.data.unlabelled import list_tiles
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.inference.stains import colour_of_fit, read_colour
from muse_pipeline.methods.mil.config import MilConfig, SlideLabelSettings
from muse_pipeline.methods.mil.tissue import find_label, read_label_table
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone
from muse_pipeline.slides.signature import fingerprint_file
from muse_pipeline.store.store import Store, open_store
from muse_pipeline.training.checkpoint import load_backbone
from muse_pipeline.training.recipe import PreparedStage
from muse_pipeline.training.run import Log, plain_settings

BATCH = 16
INDEX = "slides.tsv"


@dataclass(frozen=True)
class LabelledSlide:
    """A slide with a label."""

    slide_id: str  # id in the sheet
    label: int  # class index
    patient: str  # patient of the slide


def list_labelled_slides(
    settings: SlideLabelSettings, classes: tuple[str, ...]
) -> list[LabelledSlide]:
    """List the slides that have a label."""
    rows = {row.slide_id: row for row in read_sheet(settings.slides)}
    if settings.table is None:
        labels = {row.slide_id: (row.label, "") for row in rows.values() if row.label}
    else:
        labels = read_label_table(settings.table, "slide")
    location, slides = settings.table or settings.slides, []
    for slide_id, (word, patient) in labels.items():
        if slide_id not in rows:
            raise LabelError(
                f"{location}: labels '{slide_id}', which is not in {settings.slides}; correct"
                " either file"
            )
        label = find_label(word, settings.class_map, classes, location)
        of_slide = patient or rows[slide_id].patient or patient_in_name(slide_id)
        slides.append(LabelledSlide(slide_id, label, of_slide))
    dealt = deal_folds(slides, settings.folds)
    for index, name in enumerate(classes):
        own = np.array([slide.label == index for slide in slides], bool)
        if len(np.unique(dealt[own])) < settings.folds:
            n_patients = len({slide.patient for slide in slides if slide.label == index})
            raise LabelError(
                f"{location}: slides of {name} come from {count_noun(n_patients, 'patient')}, too"
                f" few for each of {settings.folds} folds to have one; add slides of other"
                " patients, or lower `folds`"
            )
    return slides


def deal_folds(slides: Sequence[LabelledSlide], folds: int) -> ndarray:
    """(N,) index of each slide's fold; a patient's slides share a fold, and classes are spread
    evenly over folds.
    """
    labels = defaultdict(set)
    for slide in slides:
        labels[slide.patient].add(slide.label)
    # Patients of several classes come first, so that the others can fill the folds that still lack
    # a class.
    ordered = sorted(
        labels, key=lambda patient: (-len(labels[patient]), min(labels[patient]), patient)
    )
    fold_of = {}
    of_class = Counter()
    dealt = Counter()
    for patient in ordered:
        like = [sum(of_class[fold, label] for label in labels[patient]) for fold in range(folds)]
        fold = fold_of[patient] = min(
            range(folds), key=lambda number: (like[number], dealt[number])
        )
        of_class.update((fold, label) for label in labels[patient])
        dealt[fold] += 1
    return np.array([fold_of[slide.patient] for slide in slides])


def open_slide_store(settings: SlideLabelSettings, slide_id: str, mpp: float) -> Store:
    """Open the coarsest of a slide's stores that are fine enough for ``mpp``, and return it at
    ``mpp``.
    """
    folder = settings.stores / slide_id
    stores = [open_store(path) for path in sorted(folder.glob("image-*nm.zarr"))]
    # Of the stores that are fine enough, the coarsest has the fewest pixels to read and average.
    for store in sorted(stores, key=lambda store: -store.mpp):
        if store.mpp <= mpp * 1.001:
            return store.at(mpp)
    problem = (
        f"has no store at {mpp:g} um/px or finer" if folder.is_dir() else "there is no such folder"
    )
    raise StoreError(
        f"{folder}: {problem}; make it with `muse step image`, or correct `slide_labels.stores`"
    )


@dataclass
class BagsStage(PreparedStage):
    """Writes a list of slides and, for each, features ``<slide_id>.npy`` and corners
    ``<slide_id>-xy.npy`` of tiles.
    """

    config: MilConfig
    folder: Path
    name: str = "bags"

    def made_from(self) -> dict[str, Any]:
        """The settings of the bags, the labels, the slides, and the weights of the backbone."""
        settings = self.config.slide_labels
        slides = list_labelled_slides(settings, self.config.class_names)
        stores = [open_slide_store(settings, slide.slide_id, self.config.mpp) for slide in slides]
        facts = [
            [slide.label, slide.patient, store.fingerprint]
            for slide, store in zip(slides, stores, strict=True)
        ]
        # Settings of the folds and of their models do not affect the bags.
        names = ("backbone", "class_map", "slides", "table")
        return {
            "settings": {name: plain_settings(settings, portable=True)[name] for name in names},
            "classes": list(self.config.class_names),
            "mpp": self.config.mpp,
            "tile_px": self.config.window_px,
            "slides": {slide.slide_id: fact for slide, fact in zip(slides, facts, strict=True)},
            "weights": (
                settings.checkpoint and fingerprint_file(find_checkpoint(settings.checkpoint))
            ),
        }

    def write(self, folder: Path, log: Log) -> None:
        """Compute the features of every slide."""
        torch.manual_seed(self.config.seed)
        settings = self.config.slide_labels
        backbone = BACKBONES[settings.backbone]()
        reference = ColourReference()
        if settings.checkpoint:
            path = find_checkpoint(settings.checkpoint)
            initial = load_backbone(backbone, path, settings.trust_pickle)
            reference = parse_config(
                initial.meta.get("colour") or {}, ColourReference, f"{path}: colour"
            )
        rows = []
        for slide in list_labelled_slides(settings, self.config.class_names):
            store = open_slide_store(settings, slide.slide_id, self.config.mpp)
            corners = list_tiles(store, self.config.window_px)
            if not len(corners):
                raise LabelError(
                    f"{store.path}: has no tile of {self.config.window_px} px at"
                    f" {self.config.mpp:g} um/px that is at least half tissue; leave the slide out"
                    " of the labels, or lower `window_px`"
                )
            fit = read_colour(SlideFiles(settings.stores / slide.slide_id).colour).macenko
            colour = colour_of_fit(reference, fit)
            features = compute_features(
                backbone.eval(), store, corners, self.config.window_px, colour
            )
            np.save(folder / f"{slide.slide_id}.npy", features)
            np.save(folder / f"{slide.slide_id}-xy.npy", corners)
            rows.append([slide.slide_id, slide.label, slide.patient, len(corners)])
            log(f"bags: {slide.slide_id}: {len(corners):,} tiles")
        with (folder / INDEX).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)


@torch.no_grad()
def compute_features(
    backbone: Backbone, store: Store, corners: ndarray, tile_px: int, colour: ndarray
) -> ndarray:
    """(N, D) float16 image vectors of the tiles with upper left corners ``corners`` (N, 2), work
    px, in a store.

    The backbone is in evaluation mode, the store at the model's mpp; ``colour`` (3, 4) is the map
    of the slide.
    """
    features = []
    for start in range(0, len(corners), BATCH):
        tiles = [
            store.read(tuple(xy), (tile_px, tile_px))
            for xy in corners[start : start + BATCH].tolist()
        ]
        pixels = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float()
        vectors = backbone(backbone.prepare(pixels, torch.from_numpy(colour))).image
        # Values above 65,504, the largest in half precision, would become infinite.
        features.append(vectors.clamp(-6e4, 6e4).half().numpy())
    return np.concatenate(features)


@dataclass(frozen=True, eq=False)
class Bag:
    """A slide and the file with the features of its N tiles."""

    slide: LabelledSlide  # the slide with its label
    fold: int  # index of the slide's fold; the fold's model is not trained on the slide
    path: Path  # file with the features

    def features(self) -> ndarray:
        """(N, D) float16 features of the tiles, memory-mapped."""
        return np.load(self.path, mmap_mode="r")

    def corners(self) -> ndarray:
        """(N, 2) corners of the tiles, work px."""
        return np.load(self.path.with_name(f"{self.slide.slide_id}-xy.npy"))


def open_bags(folder: Path, folds: int) -> list[Bag]:
    """Open the bags that a ``BagsStage`` wrote, and assign each to a fold."""
    with (folder / INDEX).open(encoding="utf-8", newline="") as file:
        slides = [
            LabelledSlide(row[0], int(row[1]), row[2]) for row in csv.reader(file, delimiter="\t")
        ]
    dealt = deal_folds(slides, folds)
    return [
        Bag(slide, int(fold), folder / f"{slide.slide_id}.npy")
        for slide, fold in zip(slides, dealt, strict=True)
    ]
