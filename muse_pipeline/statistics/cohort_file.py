"""Write ``cohort.h5ad``: a cohort as AnnData, a row per slide, with the measures for comparing groups."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.cohort.layout import CohortFiles
from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.cohort.sheet import COLUMNS
from muse_pipeline.core.errors import NucleiError
from muse_pipeline.core.files import complete_file
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.scverse.anndata import begin_anndata, categorical, frame
from muse_pipeline.scverse.elements import Elements, open_hdf5
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
        known = {row["slide_id"]: read_provenance(files.slide(row["slide_id"]).nuclei).to_dict() for row in slides}
        made = {slide: {name: each[name] for name in PROVENANCE if name in each} for slide, each in known.items()}
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
    own = list(dict.fromkeys(name for row in rows for name in row if name not in COLUMNS))
    column_of = {name: name.replace("/", "_") for name in (*COLUMNS, *own) if name in filled - LEFT_OUT}  # as in HDF5
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
