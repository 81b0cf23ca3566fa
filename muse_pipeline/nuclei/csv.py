"""The table of nuclei as text for spreadsheets and R: one row a nucleus, without rays and outline."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from muse_pipeline.files import complete_file
from muse_pipeline.nuclei.parquet import ROW_GROUP, iterate_rows, open_nuclei


def write_csv(nuclei_path: Path | str, output: Path | str) -> None:
    """Write ``nuclei.csv.gz`` from ``nuclei.parquet``, batch by batch; positions to 0.01 px, the rest as it is."""
    with open_nuclei(nuclei_path) as file:
        columns = [name for name in file.schema_arrow.names if name not in {"rays", "embedding", "geometry"}]
        empty = _printable(file.schema_arrow.empty_table().select(columns))
    with (
        complete_file(output) as partial,
        partial.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=3, fileobj=raw, mtime=0) as compressed,
        pa.csv.CSVWriter(compressed, empty.schema) as text,
    ):
        for table in iterate_rows(nuclei_path, ROW_GROUP, columns):
            text.write_table(_printable(table))


def _printable(table: pa.Table) -> pa.Table:
    for name in ("x", "y"):
        table = table.set_column(table.column_names.index(name), name, pc.round(table[name], 2))
    return table.set_column(table.column_names.index("class"), "class", table["class"].cast(pa.string()))
