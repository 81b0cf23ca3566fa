"""Tables of a cohort: its nuclei, its slides (``cohort.h5ad``), and its groups compared (``statistics.tsv``).

``cohort.h5ad`` has a row per slide and the measures by which groups are compared, patient by patient; the values of
the patients are listed in ``statistics.patients.tsv``.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs

from muse_pipeline.cohort import sheet
from muse_pipeline.cohort.layout import CohortFiles
from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.cohort.sheet import is_missing, read_cells
from muse_pipeline.core.errors import ConfigError, NucleiError
from muse_pipeline.core.files import complete_file, read_json
from muse_pipeline.core.text import count_noun
from muse_pipeline.inference.doubts import OF_CLASSES, OF_NUCLEI, describe_left_out, find_doubts, reason_left_out
from muse_pipeline.nuclei.parquet import open_nuclei, read_provenance
from muse_pipeline.scverse.anndata import begin_anndata, categorical, frame
from muse_pipeline.scverse.elements import Elements, open_hdf5
from muse_pipeline.statistics.comparison import Difference, compare_pairs, mean_by_patient, require_groups
from muse_pipeline.statistics.slides import Measure, measure_slides

LEFT_OUT = {"slide_id", "mpp", "shards"}  # of the sheet: the index, a number, and what changes no result
OF_TABLE = ("status", "appearance", "left_out")  # columns of cohort.tsv
PROVENANCE = ("fingerprint", "model", "features", "versions")


def write_cohort(results: Path, rows: Iterable[Mapping[str, Any]], output: Path) -> int:
    """Write the slides that have nuclei; returns their number.

    Args:
        results: folder of the results; ``OF_TABLE`` of its cohort.tsv, if there is one, become columns.
        rows: rows of the sheet, by the names of its columns.
        output: path of ``cohort.h5ad``.

    Raises:
        MissingPackageError: h5py is not installed.
        NucleiError: no slide has nuclei, or a table is damaged.
        StoreError: a slide has no tissue mask.
    """
    files = CohortFiles(results)
    slides = [row for row in rows if files.slide(row["slide_id"]).nuclei.is_file()]
    if not slides:
        raise NucleiError(f"{results}: has no slides of the sheet with nuclei.parquet; run the slides first")
    measures, values = measure_slides(results, [row["slide_id"] for row in slides])
    with complete_file(output) as partial, open_hdf5(partial) as elements:
        begin_anndata(elements)
        elements.array("X", values.shape, np.float64)[0 : len(slides)] = values
        _write_var(elements, measures)
        _write_obs(elements, slides, _read_table(files.table))
        made = {row["slide_id"]: _describe_origin(files.slide(row["slide_id"]).nuclei) for row in slides}
        elements.scalar("uns/muse", json.dumps({"slides": made}, sort_keys=True, ensure_ascii=False))
    return len(slides)


def _describe_origin(nuclei: Path) -> dict[str, Any]:
    known = read_provenance(nuclei).to_dict()
    return {name: known[name] for name in PROVENANCE if name in known}


def _write_var(elements: Elements, measures: Sequence[Measure]) -> None:
    columns = {name: [getattr(each, name) for each in measures] for name in ("group", "unit")}
    frame(elements, "var", columns)
    for name, values in {"_index": [each.name for each in measures], **columns}.items():
        elements.strings(f"var/{name}", values)


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    """The rows of cohort.tsv by slide; none without the file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["slide_id"]: row for row in csv.DictReader(file, dialect="excel-tab")}


def _write_obs(elements: Elements, slides: Sequence[Mapping[str, Any]], table: Mapping[str, Mapping[str, str]]) -> None:
    """Write the columns of the sheet that have a value, the patient from the sheet or the name, and ``OF_TABLE``.

    Columns of the user's own have their names in cohort.tsv.
    """
    taken = {name for known in table.values() for name in known}
    rows = []
    for row in slides:
        known = table.get(row["slide_id"], {})
        cells = {f"sheet_{name}" if f"sheet_{name}" in taken else name: cell for name, cell in row.items()}
        patient = row.get("patient") or patient_in_name(row["slide_id"])
        rows.append({**{name: known.get(name) for name in OF_TABLE if name in taken}, **cells, "patient": patient})
    filled = {name for row in rows for name, value in row.items() if value is not None}
    own = list(dict.fromkeys(name for row in rows for name in row if name not in sheet.COLUMNS))
    kept = [name for name in (*sheet.COLUMNS, *own) if name in filled - LEFT_OUT]
    column_of = {name: name.replace("/", "_") for name in kept}  # as in HDF5
    frame(elements, "obs", [*column_of.values(), *(["mpp"] if "mpp" in filled else [])])
    elements.strings("obs/_index", [row["slide_id"] for row in rows])
    for name, column in column_of.items():
        known = sorted({str(row[name]) for row in rows if row.get(name) is not None})
        code = {value: number for number, value in enumerate(known)}
        codes = [-1 if row.get(name) is None else code[str(row[name])] for row in rows]
        categorical(elements, column, known, len(rows))[0 : len(rows)] = np.array(codes)
    if "mpp" in filled:
        mpps = [row.get("mpp") or np.nan for row in rows]
        elements.array("obs/mpp", (len(rows),), np.float64)[0 : len(rows)] = np.array(mpps)


def patients_of(results: Path | str) -> dict[str, str]:
    """The patient of every slide with nuclei in a results folder, from the sheet or else from the slide's name.

    Raises:
        NucleiError: no slide has nuclei there.
    """
    files = CohortFiles(Path(results))
    slides = list(files.tables())
    if not slides:
        raise NucleiError(f"{results}: has no slides with nuclei.parquet; give the folder of the results of a run")
    rows = {row["slide_id"]: row for row in read_json(files.sheet)} if files.sheet.is_file() else {}
    return {slide: rows.get(slide, {}).get("patient") or patient_in_name(slide) for slide in slides}


def read_cohort(results: Path | str) -> pads.Dataset:
    """The nuclei of all slides of a run as one Arrow dataset, which reads nothing yet.

    Args:
        results: the folder of the results.

    Returns:
        A dataset with the columns ``slide_id`` and ``patient`` and those of every ``nuclei.parquet``; a column that a
        slide lacks is empty there. ``to_table(columns=..., filter=...)`` reads only the requested part.

    Raises:
        NucleiError: no slide has nuclei there.
    """
    files = CohortFiles(Path(results))
    kind, fragments, schemas = pads.ParquetFileFormat(), [], []
    for slide, patient in patients_of(results).items():
        path = files.slide(slide).nuclei
        with open_nuclei(path) as file:
            schemas.append(file.schema_arrow.remove_metadata())
        where = (pads.field("slide_id") == slide) & (pads.field("patient") == patient)
        fragments.append(kind.make_fragment(str(path), pa.fs.LocalFileSystem(), where))
    schema = pa.unify_schemas([pa.schema([("slide_id", pa.string()), ("patient", pa.string())]), *schemas])
    return pads.FileSystemDataset(fragments, schema, kind, pa.fs.LocalFileSystem())


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
