"""Compare the groups of a cohort by patient (``statistics.tsv``) and list the values (``statistics.patients.tsv``)."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.cohort.layout import CohortFiles
from muse_pipeline.cohort.sheet import is_missing, read_cells
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.text import count_noun
from muse_pipeline.inference.doubts import OF_CLASSES, OF_NUCLEI, describe_left_out, find_doubts, reason_left_out
from muse_pipeline.nuclei.cohort import patients_of
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.statistics.comparison import Difference, compare_pairs, mean_by_patient, require_groups
from muse_pipeline.statistics.slides import Measure, measure_slides

COLUMNS = (
    *("measure", "unit", "first", "second", "n_first", "n_second", "mean_first", "mean_second"),
    *("effect", "low", "high", "p", "q"),
)


def compare_cohort(
    results: Path, sheet: Path, group: str, patient: str, output: Path, included: Sequence[str] = ()
) -> list[str]:
    """Compare the groups of a results folder and write a row per measure and pair of groups.

    Beside it, ``statistics.patients.tsv`` has a row per patient with the group and the means of the slides.

    Args:
        results: folder of the results.
        sheet: table with a row per slide.
        group: column of the groups; slides with an empty cell are left out.
        patient: column of the patients; if a cell is empty, or there is no column "patient", the patient is the one in
            the slide's name.
        output: path of ``statistics.tsv``.
        included: kinds of doubt (``inference.doubts``) that do not exclude a slide or its counts of classes.

    Returns:
        Sentences about the comparison.

    Raises:
        ConfigError: the groups cannot be compared.
        NucleiError: a table of nuclei is missing or damaged.
        SheetError: the sheet lacks one of the columns.
    """
    groups, patients, organs = read_groups(results, sheet, group, patient)
    files = CohortFiles(results)
    doubts = {slide: find_doubts(read_provenance(files.slide(slide).nuclei), organ) for slide, organ in organs.items()}
    without = {slide: reason_left_out(doubts[slide], OF_NUCLEI, included) for slide in groups}
    groups = {slide: name for slide, name in groups.items() if not without[slide]}
    left_out = describe_left_out(without.values())
    group_of = require_groups(groups, patients, left_out)
    measures, values = measure_slides(results, groups)
    without_classes = [reason_left_out(doubts[slide], OF_CLASSES, included) for slide in groups]
    values[np.ix_(list(map(bool, without_classes)), [measure.is_of_classes for measure in measures])] = np.nan
    means, order = mean_by_patient(values, [patients[slide] for slide in groups])
    compared = list(compare_pairs(means, [group_of[one] for one in order]))
    _write(output, COLUMNS, _rows_of_measures(measures, compared))
    n_slides = Counter(patients[slide] for slide in groups)
    rows = ([one, group_of[one], n_slides[one], *map(_text, mean)] for one, mean in zip(order, means, strict=True))
    header = ["patient", "group", "n_slides", *(measure.name for measure in measures)]
    _write(output.with_suffix(f".patients{output.suffix}"), header, rows)
    lines = [
        f"{len(groups)} slides of {len(order)} patients; the patient is the unit of every test, with the mean of its "
        "slides",
        *filter(None, (left_out, describe_left_out(without_classes, " of the measures of classes"))),
    ]
    if n_without := len(patients_of(results)) - len(without):
        lines.append(f"left out: {count_noun(n_without, 'slide')} without a value in the column '{group}'")
    for first, second, difference in compared:
        n_found = int((difference.q < 0.05).sum())
        lines.append(
            f"{second} against {first}: {n_found} of {len(measures)} measures differ at a false discovery rate of 5 %"
        )
    return lines


def read_groups(results: Path, sheet: Path, group: str, patient: str) -> tuple[dict[str, str], ...]:
    """Group, patient and organ ("" without one) of the slides that have results and a group.

    Raises:
        ConfigError: none of the slides has a group.
        NucleiError: no slide has results.
        SheetError: the sheet cannot be read, or lacks one of the columns.
    """
    of_slide = read_cells(sheet, group, *({patient} - {"patient"}))
    patients = patients_of(results)
    groups = {slide: of_slide[slide][group] for slide in patients if of_slide.get(slide, {}).get(group)}
    if not groups:
        raise ConfigError(f"no slide of {results} has a value in the column '{group}' of {sheet}")
    named = {slide: of_slide[slide].get(patient) for slide in groups}
    stated = {slide: name for slide, name in named.items() if name and not is_missing("patient", name)}
    organs = {slide: of_slide[slide].get("organ") or "" for slide in groups}
    return groups, {slide: patients[slide] for slide in groups} | stated, organs


def _rows_of_measures(measures: list[Measure], compared: list[tuple[str, str, Difference]]) -> Iterator[list[Any]]:
    for first, second, found in compared:
        for k, measure in enumerate(measures):
            numbers = (getattr(found, each)[k] for each in ("effect", "low", "high", "p", "q"))
            row = [measure.name, measure.unit, first, second, *found.n[:, k]]
            yield [*row, *map(_text, (*found.mean[:, k], *numbers))]


def _write(output: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with complete_file(output) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, dialect="excel-tab", lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


def _text(number: float) -> str:
    return f"{number:.5g}" if np.isfinite(number) else ""
