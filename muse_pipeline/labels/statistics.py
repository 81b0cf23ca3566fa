"""Statistics of the labels before training: counts, checks of their scale, and checks for leaks
between splits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.core.files import write_text
from muse_pipeline.core.text import count_noun, some_of
from muse_pipeline.inference.card import AppearanceReference, ColourReference
from muse_pipeline.inference.doubts import describe_training
from muse_pipeline.labels.labelled_image import LEAST_POINTS, LabelledImage
from muse_pipeline.nuclei.rays import ray_directions
from muse_pipeline.tissue.colour import measure_picture
from muse_pipeline.tissue.stain import MacenkoFit

# medians in breast and skin: 2.0 to 4.3; at twice the mpp: 4.0 to 6.5
PLAUSIBLE_RADIUS_UM = (1.7, 5.5)
# in pictures of BRCA-M2C 0.81 or more, with the labels of another picture 0.44 or less
MIN_SHARE_GROWN = 0.5
# Share of outlines that are not darker inside than around: in H&E (BRCA-M2C, NuCLS, NuInsSeg) 0.01
# or less, with the outlines of another picture 0.21 or more; in fluorescence nearly 1.
SHARE_MISPLACED = 0.15, 0.85
AROUND_UM = 1.5  # distance from an outline to the pixels around it
# patients with a row of their own in the table; a longer table would push the warnings out of sight
LISTED = 24


class HasPatient(Protocol):
    """A labelled picture of a patient."""

    patient: str


class LabelSummary:
    """The nuclei of P pictures by class, and warnings about the size of their outlines."""

    def __init__(self, images: Sequence[LabelledImage], classes: tuple[str, ...], mpp: float):
        self.images, self.columns = images, (*classes, "unknown")
        n = len(self.columns)
        # (P, C + 1) number of nuclei of each class; the index -1 of an unknown class refers to the
        # last column
        self.counts = np.stack(
            [np.bincount(image.nuclei.label % n, minlength=n) for image in images]
        )
        self.areas = tuple(_describe_areas(images))
        self.warnings = (*_doubts_about_scale(images, mpp), *_what_was_left_out(images))

    def text(self) -> str:
        """A table with a row per patient (one for all others after ``LISTED``) and a total, then
        areas and warnings.
        """
        of_patient = defaultdict(list)
        for index, image in enumerate(self.images):
            of_patient[image.patient].append(index)
        groups = sorted(of_patient.items())
        if len(groups) > LISTED + 1:
            others = [index for _, of in groups[LISTED:] for index in of]
            groups[LISTED:] = [(f"{len(groups) - LISTED} others", others)]
        rows = [["patient", "pictures", *self.columns]]
        rows += [[name, len(of), *self.counts[of].sum(0)] for name, of in groups]
        rows += [[count_noun(len(of_patient), "patient"), len(self.images), *self.counts.sum(0)]]
        width = max(len(str(row[0])) for row in rows)
        cells = [[cell if isinstance(cell, str) else f"{cell:,}" for cell in row] for row in rows]
        lines = [
            "  ".join([f"{row[0]:<{width}}", *(f"{cell:>10}" for cell in row[1:])]) for row in cells
        ]
        return "\n".join(
            [*lines, *self.areas, *(f"warning: {warning}" for warning in self.warnings)]
        )

    def write(self, path: Path) -> None:
        """Write a TSV with one row per picture."""
        rows = [["picture", "patient", *self.columns, "left out"]]
        for image, counts in zip(self.images, self.counts, strict=True):
            rows.append([image.name, image.patient, *counts, image.n_left_out])
        text = "\n".join("\t".join(map(str, row)) for row in rows) + "\n"
        write_text(path, text)


def check_leaks(training: Sequence[HasPatient], validation: Sequence[HasPatient]) -> None:
    """Reject patients with pictures in both training and validation."""
    if shared := sorted(
        {image.patient for image in training} & {image.patient for image in validation}
    ):
        raise LabelError(
            f"patients in both training and validation: {some_of(shared)}; move or `exclude` their"
            " pictures, or correct the `patient` rule"
        )


def _describe_areas(images: Sequence[LabelledImage]) -> Iterator[str]:
    """Describe the areas of each class, or set of classes, and the nuclei that the detector found
    in them.
    """
    by_classes = defaultdict(lambda: defaultdict(int))
    for count in (count for image in images for count in image.areas):
        by_classes[count.classes][count.area] += count.n_nuclei
    for classes, n_of_area in by_classes.items():
        n = sorted(n_of_area.values())
        yield (
            f"{classes}: {count_noun(sum(n), 'nucleus', 'nuclei')} in {count_noun(len(n), 'area')} "
            f"({n[0]:,} to {n[-1]:,} per area, median {n[len(n) // 2]:,})"
        )


def _doubts_about_scale(images: Sequence[LabelledImage], mpp_px: float) -> Iterator[str]:
    """Yield a warning for each source whose mpp makes nuclei implausibly small or large, or with
    labels off nuclei.
    """
    by_source = defaultdict(list)
    for image in images:
        by_source[image.source, image.stated_mpp, image.grow_outlines].append(image)
    low, high = PLAUSIBLE_RADIUS_UM
    for (source, mpp, are_grown), of_source in by_source.items():
        scale = f"at the stated {mpp:g} um/px" if mpp else "at the um/px of their files"
        suspect = "`mpp`" if mpp else "that positions are pixels at full size"
        rays = np.concatenate([image.nuclei.rays for image in of_source])
        radii = rays[np.isfinite(rays).all(1)].mean(1)
        off = [
            (image, *counts) for image in of_source if (counts := _find_misplaced(image, mpp_px))
        ]
        if are_grown and len(radii) < MIN_SHARE_GROWN * len(rays):
            yield (
                f"{source}: only {len(radii):,} of {len(rays):,} points lie on something the size"
                f" of a nucleus {scale}; check {suspect} and the order of coordinates in `format`"
            )
        elif len(radii) and not low <= np.median(radii) <= high:
            yield (
                f"{source}: outlines have a median radius of {np.median(radii):.2g} um {scale}, but"
                f" nuclei have {low:g} to {high:g} um; check {suspect}"
            )
        elif off:
            image, what, n, n_all = off[0]
            yield (
                f"{source}: in {count_noun(len(off), 'picture')}, many {what} lie beside nuclei,"
                f" first in {image.name} ({n:,} of {n_all:,}); check that these are the labels of"
                " this picture, in px"
            )


def _find_misplaced(image: LabelledImage, mpp: float) -> tuple[str, int, int] | None:
    """Find labels beside nuclei, as in the labels of another picture: their kind, their number, and
    that of all.
    """
    is_known = np.isfinite(image.nuclei.rays).all(1)
    if image.grow_outlines and len(is_known) >= LEAST_POINTS and is_known.mean() < MIN_SHARE_GROWN:
        return "points", int((~is_known).sum()), len(is_known)
    xy_um = image.nuclei.xy[is_known] * mpp
    rays = image.nuclei.rays[is_known]
    if len(rays) < LEAST_POINTS:
        return None
    reach_um = np.stack([rays / 2, rays + AROUND_UM])
    places = xy_um[:, None] + ray_directions(rays.shape[1]) * reach_um[..., None]
    column, row = np.moveaxis((places / mpp).astype(int), -1, 0)
    height, width = image.pixels.shape[:2]
    inside, around = image.pixels[row.clip(0, height - 1), column.clip(0, width - 1)].mean((2, 3))
    n = int((inside >= around).sum())
    if SHARE_MISPLACED[0] < n / len(rays) < SHARE_MISPLACED[1]:
        return ("outlines", n, len(rays))
    return None


def _what_was_left_out(images: Sequence[LabelledImage]) -> Iterator[str]:
    by_source = defaultdict(int)
    for image in images:
        by_source[image.source] += image.n_left_out
    for source, n in by_source.items():
        if n:
            where = "outside the annotated regions and"
            yield (
                f"{source}:"
                f" {count_noun(n, f'nucleus lies {where} was', f'nuclei lie {where} were')}"
                " left out"
            )


def mean_stains(
    fits: list[MacenkoFit | None], method: str, weights: list[float] | None = None
) -> ColourReference:
    """The mean stain vectors of training images, and the medians of their strong concentrations
    (``MacenkoFit``).

    Fits that failed are None; ``method`` is "macenko" or "identity".
    """
    if method == "identity":
        return ColourReference()
    fitted = [fit is not None for fit in fits]
    weights = np.ones(len(fits)) if weights is None else np.array(weights, float)
    fits = [fit for fit in fits if fit is not None]
    weights = weights[fitted]
    if not fits:
        raise ConfigError(
            "no training image's stains could be fitted; choose colour method 'identity'"
        )
    stains = np.average([fit.stains for fit in fits], 0, weights)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    # "inverted_cdf" is the only method of ``np.quantile`` that supports weights.
    strong = np.quantile(
        [fit.strong for fit in fits], 0.5, axis=0, weights=weights, method="inverted_cdf"
    )
    return ColourReference(
        method, tuple(map(tuple, stains.round(4).tolist())), tuple(strong.round(4).tolist())
    )


def appearance_reference(images: list[LabelledImage], mpp: float) -> AppearanceReference | None:
    """The appearance of the labelled images and their slides, for the model card; None if nothing
    was measured.
    """
    appearances = []
    for image in images:
        # measured if the image is not part of a slide
        left, top, right, bottom = image.annotated_box
        appearances.append(
            image.appearance or measure_picture(image.pixels[top:bottom, left:right], mpp)
        )
    return describe_training(appearances)


def class_weights(images: list[LabelledImage], n_classes: int) -> ndarray:
    """(C,) weights of the classes: inverse square roots of their frequencies, with mean 1 over all
    nuclei.

    A class without nuclei has weight 0. A picture counts in proportion to its sampling weight, and
    a nucleus in a class area by its expected class shares.
    """
    counts = np.zeros(n_classes)
    for image in images:
        counts += image.weight * count_labels([image], n_classes)
    weights = np.zeros(n_classes)
    weights[counts > 0] = counts[counts > 0] ** -0.5
    return (weights * counts.sum() / ((weights * counts).sum() or 1)).astype(np.float32)


def untaught_classes(images: list[LabelledImage], classes: tuple[str, ...]) -> list[str]:
    """The classes of which there is neither a labelled nucleus nor a nucleus in an area of several
    classes.
    """
    in_areas = set()
    for shares in (image.nuclei.prob for image in images if image.areas):
        in_areas |= {*np.flatnonzero((shares > shares.min(1, keepdims=True)).any(0))}
    return [
        name for name in missing_classes(images, classes) if classes.index(name) not in in_areas
    ]


def count_labels(images: Sequence[LabelledImage], n_classes: int) -> ndarray:
    """(C,) number of labels of each class; nuclei in class areas count by their expected shares."""
    return sum(
        image.nuclei.prob.sum(0) if image.areas else count_classes([image], n_classes)
        for image in images
    )


def count_classes(images: list[LabelledImage], n_classes: int) -> ndarray:
    """(C,) number of nuclei of each class."""
    labels = np.concatenate([image.nuclei.label for image in images])
    return np.bincount(labels[labels >= 0], minlength=n_classes)


def missing_classes(images: list[LabelledImage], classes: tuple[str, ...]) -> list[str]:
    """The classes without labelled nuclei."""
    return [
        name for name, n in zip(classes, count_classes(images, len(classes)), strict=True) if not n
    ]


def require_every_class(images: list[LabelledImage], classes: tuple[str, ...], split: str) -> None:
    """Require labelled nuclei of every class, because a class without any can be neither learnt nor
    scored.
    """
    if missing := missing_classes(images, classes):
        raise ConfigError(
            f"the {split} images have no labelled nucleus of {' or of '.join(missing)}; correct"
            " `classes` or the labels"
        )


def require_outlines(images: list[LabelledImage]) -> None:
    """Require at least one outline, without which a detector cannot be trained."""
    if not any(
        image.grow_outlines or np.isfinite(image.nuclei.rays).all(1).any() for image in images
    ):
        raise ConfigError(
            "the training images have no outline; add a source of polygons or masks, or remove"
            " `grow_outlines: false`"
        )
