"""What the labels of a run hold, before anything is trained: counts, doubts about their scale, leaks between splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from muse_pipeline.data.labelled_image import LabelledImage
from muse_pipeline.errors import LabelError
from muse_pipeline.files import complete_file
from muse_pipeline.wording import count_noun, some_of

PLAUSIBLE_RADIUS_UM = (1.5, 8.0)
MIN_SHARE_GROWN = 0.5


@dataclass(frozen=True, eq=False)
class LabelSummary:
    """Counts of P pictures.

    Attributes:
        classes: names of the C classes.
        pictures: (P,) names.
        patients: (P,) whose they are.
        counts: (P, C + 1) nuclei of each class; of unknown class in the last column.
        left_out: (P,) nuclei of each label file outside every region, which are not in ``counts``; of a slide with its
            first region.
        warnings: sentences on what may be wrong.
    """

    classes: tuple[str, ...]
    pictures: tuple[str, ...]
    patients: tuple[str, ...]
    counts: np.ndarray
    left_out: tuple[int, ...]
    warnings: tuple[str, ...]

    def text(self) -> str:
        """A line per patient, a total, and the warnings."""
        of_patient = defaultdict(list)
        for index, patient in enumerate(self.patients):
            of_patient[patient].append(index)
        rows = [["patient", "pictures", *self.columns]]
        rows += [[patient, len(of), *self.counts[of].sum(0)] for patient, of in sorted(of_patient.items())]
        rows += [[count_noun(len(of_patient), "patient"), len(self.pictures), *self.counts.sum(0)]]
        width = max(len(str(row[0])) for row in rows)
        lines = ["  ".join([f"{row[0]:<{width}}", *(_right(cell) for cell in row[1:])]) for row in rows]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    def write(self, path: Path) -> None:
        """A TSV with a row per picture."""
        rows = [["picture", "patient", *self.columns, "left out"]]
        rows += [list(row) for row in zip(self.pictures, self.patients, *self.counts.T, self.left_out, strict=True)]
        text = "\n".join("\t".join(map(str, row)) for row in rows) + "\n"
        with complete_file(path) as partial:
            partial.write_text(text, encoding="utf-8")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of ``counts``."""
        return (*self.classes, "unknown")


def summarise_labels(images: Sequence[LabelledImage], classes: tuple[str, ...]) -> LabelSummary:
    """Count the nuclei of every picture by class, and look at the size of their outlines."""
    counts = [np.bincount(image.nuclei.label % (len(classes) + 1), minlength=len(classes) + 1) for image in images]
    return LabelSummary(
        classes,
        tuple(image.name for image in images),
        tuple(image.patient for image in images),
        np.stack(counts),
        tuple(image.n_left_out for image in images),
        (*_doubts_about_scale(images), *_what_was_left_out(images)),
    )


def check_leaks(
    first: Sequence[LabelledImage],
    second: Sequence[LabelledImage],
    names: tuple[str, str] = ("training", "validation"),
) -> None:
    """Refuse patients with pictures in both of two splits, which ``names`` calls so.

    Raises:
        LabelError: there are some; they are named.
    """
    shared = sorted({image.patient for image in first} & {image.patient for image in second})
    if shared:
        raise LabelError(
            f"patients in {names[0]} and in {names[1]}: {some_of(shared)}; move or `exclude` their "
            "pictures, or correct the `patient` rule"
        )


def _doubts_about_scale(images: Sequence[LabelledImage]) -> Iterator[str]:
    """A sentence on each source whose mpp makes nuclei of a size that no nuclei have."""
    by_source = defaultdict(list)
    for image in images:
        by_source[image.source, image.stated_mpp].append(image.nuclei.rays)
    low, high = PLAUSIBLE_RADIUS_UM
    for (source, mpp), all_rays in by_source.items():
        scale = f"at the stated {mpp:g} um/px" if mpp else "at the um/px of their files"
        suspect = "`mpp`" if mpp else "that positions are pixels at full size"
        rays = np.concatenate(all_rays)
        radii = rays[np.isfinite(rays).all(1)].mean(1)
        if len(radii) < MIN_SHARE_GROWN * len(rays):
            yield (
                f"{source}: only {len(radii):,} of {len(rays):,} points lie on something of a nucleus' size {scale}; "
                f"check {suspect} and the order of coordinates in `format`"
            )
        elif len(radii) and not low <= np.median(radii) <= high:
            yield (
                f"{source}: outlines have a median radius of {np.median(radii):.2g} um {scale}, where nuclei have "
                f"{low:g} to {high:g} um; check {suspect}"
            )


def _what_was_left_out(images: Sequence[LabelledImage]) -> Iterator[str]:
    by_source = defaultdict(int)
    for image in images:
        by_source[image.source] += image.n_left_out
    for source, n in by_source.items():
        if n:
            yield f"{source}: {n:,} nuclei lie outside the annotated regions and were left out"


def _right(cell: object) -> str:
    return f"{cell if isinstance(cell, str) else format(int(cell), ','):>10}"
