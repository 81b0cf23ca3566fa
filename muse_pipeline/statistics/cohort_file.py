"""Write ``cohort.h5ad``: a cohort as AnnData, a row per slide, with the measures for comparing groups."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.cohort.sheet import COLUMNS
from muse_pipeline.core.errors import NucleiError
from muse_pipeline.core.files import complete_file
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.scverse.anndata import begin_anndata, categorical, frame
from muse_pipeline.scverse.elements import Elements, open_hdf5
from muse_pipeline.statistics.slides import Measure, measure_slides

LEFT_OUT = {"slide_id", "mpp", "shards"}  # of the sheet: the index, a number, and what changes no result
PROVENANCE = ("fingerprint", "model", "features", "versions")


def write_cohort(results: Path, rows: Iterable[Mapping[str, Any]], output: Path) -> int:
    """Write the slides that have nuclei; returns their number.

    Args:
        results: folder of the results.
        rows: rows of the sheet, by the names of its columns.
        output: path of ``cohort.h5ad``.

    Raises:
        MissingPackageError: h5py is not installed.
        NucleiError: no slide has nuclei, or a table is damaged.
        StoreError: a slide has no tissue mask.
    """
    slides = [row for row in rows if (results / row["slide_id"] / "nuclei.parquet").is_file()]
    if not slides:
        raise NucleiError(f"{results}: has no slides of the sheet with nuclei.parquet; run the slides first")
    measures, values = measure_slides(results, [row["slide_id"] for row in slides])
    with complete_file(output) as partial, open_hdf5(partial) as elements:
        begin_anndata(elements)
        elements.array("X", values.shape, np.float64)[0 : len(slides)] = values
        _write_var(elements, measures)
        _write_obs(elements, slides)
        known = {row["slide_id"]: read_provenance(results / row["slide_id"] / "nuclei.parquet") for row in slides}
        made = {slide: {name: each[name] for name in PROVENANCE if name in each} for slide, each in known.items()}
        elements.scalar("uns/muse", json.dumps({"slides": made}, sort_keys=True, ensure_ascii=False))
    return len(slides)


def _write_var(elements: Elements, measures: Sequence[Measure]) -> None:
    columns = {name: [getattr(each, name) for each in measures] for name in ("group", "unit")}
    frame(elements, "var", columns)
    for name, values in {"_index": [each.name for each in measures], **columns}.items():
        elements.strings(f"var/{name}", values)


def _write_obs(elements: Elements, slides: Sequence[Mapping[str, Any]]) -> None:
    """Write the columns of the sheet that have a value, and the patient of every slide, from the sheet or its name."""
    rows = [{**row, "patient": row.get("patient") or patient_in_name(row["slide_id"])} for row in slides]
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
