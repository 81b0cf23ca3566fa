"""The nuclei of all slides of a results folder as one table that is read on demand."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs

from muse_pipeline.cohort.layout import CohortFiles
from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.core.errors import NucleiError
from muse_pipeline.core.files import read_json
from muse_pipeline.nuclei.parquet import open_nuclei


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
