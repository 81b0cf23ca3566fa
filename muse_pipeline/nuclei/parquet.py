"""The table of a slide's nuclei: GeoParquet 1.1, written and read in batches of bounded size."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import shapely
from numpy import ndarray

from muse_pipeline.core.errors import NucleiError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.text import one_line
from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.arrow import (
    lists_to_numpy,
    polygons_to_wkb,
    positions,
    texts_to_arrow,
    to_arrow,
    to_numpy,
)
from muse_pipeline.nuclei.shape import SHAPE_COLUMNS
from muse_pipeline.nuclei.table import Nuclei

ROW_GROUP = 32_768
PROVENANCE_KEY = b"muse"
CLUSTER = "cluster"  # cluster by shape (``MorphologyClusters``), in tables of one class
DAB_OD, POSITIVE = "dab_od", "positive"  # for immunohistochemistry
# if tissue regions are known
REGION, REGION_PROB, BORDER = "region", "region_prob", "border_distance_um"
UNLIKE_REGION = "unlike_region"  # True for nuclei of a class that does not occur in their region
CELL_RAYS = "cell_rays"  # if nuclei are grown into cells; with as many numbers per row as "rays"
QUALITY = "quality"  # kind of artefact at the nucleus; null if there is none
_NO_CLASS = -1
_NAME = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True)
class Rows:
    """Nuclei as rows of the table, and the bounds (4,) of their outlines: minimum x and y, maximum
    x and y.

    The bounds are not finite if there are no rows.
    """

    table: pa.Table
    bounds: ndarray


@dataclass(frozen=True)
class OptionalColumns:
    """Columns that not every table of nuclei has."""

    embedding_dim: int = 0  # number of features in ``embedding``; 0 to leave the column out
    clusters: bool = False  # True to add the column ``cluster``
    # minimum ``dab_od`` of a positive nucleus; None to leave out both columns
    positive_od: float | None = None
    # names of the classes of tissue regions; None to leave out their columns
    regions: Sequence[str] | None = None
    # classes of tissue regions with a column for the distance to their own border
    borders: Sequence[str] = ()
    unlike_region: bool = False  # True to add the column ``unlike_region``
    # names of further numeric columns; rows of ``cell_rays`` are lists
    features: Sequence[str] = ()
    # names of the kinds of artefacts; None to leave out ``quality``
    artefacts: Sequence[str] | None = None


NO_OPTIONAL = OptionalColumns()


@dataclass(frozen=True)
class RowFormat:
    """The columns of a table of nuclei, to which rows are converted on any thread or in any
    process.
    """

    classes: tuple[str, ...]  # names of the classes, in the order of the labels
    optional: OptionalColumns
    schema: pa.Schema

    def to_rows(self, nuclei: Nuclei, polygons: ndarray, shapes: Mapping[str, ndarray]) -> Rows:
        """Convert nuclei (frame: level-0), their polygons (N,) and ``shapes`` to rows.

        ``shapes`` contains the result of ``shape.measure_shapes`` and, under their names, the
        optional columns: the cluster; the index of the region's class (-1 for none), its
        probability and the distance to the border (NaN if unknown); the index of the artefact (-1
        for none); and the features.
        """
        nuclei.require(Frame.LEVEL0)
        optional, dab_od = self.optional, nuclei.dab_od.ravel()
        values = {
            "label": nuclei.label,
            "class": nuclei.label,
            "score": nuclei.score,
            "rays": nuclei.rays,
            **shapes,
        }
        values |= {"embedding": nuclei.embedding, **dict(zip("xy", nuclei.xy.T, strict=True))}
        values |= {
            f"prob_{name}": prob for name, prob in zip(self.classes, nuclei.prob.T, strict=True)
        }
        if optional.positive_od is not None:
            values |= {DAB_OD: dab_od, POSITIVE: dab_od >= optional.positive_od}
        names = {"class": self.classes, REGION: optional.regions, QUALITY: optional.artefacts}
        nullable = {REGION_PROB, BORDER, *map(border_of, optional.borders), *optional.features}
        columns = [
            (
                polygons_to_wkb(polygons)
                if field.name == "geometry"
                else _to_column(
                    values[field.name], field.type, names.get(field.name), field.name in nullable
                )
            )
            for field in self.schema
        ]
        bounds = shapely.total_bounds(polygons) if len(polygons) else np.full(4, np.nan)
        return Rows(pa.Table.from_arrays(columns, schema=self.schema), bounds)


class NucleiWriter:
    """Writes ``nuclei.parquet``; the file appears when the ``with`` block ends without an error.

    Rows keep their order, and row groups are full, so the bytes do not depend on how rows are
    batched.

    The ``provenance`` is the table's metadata, which ``complete`` may fill in until the block ends.
    The writer then adds ``n_nuclei`` and ``n_by_class`` of the nuclei included in totals; under
    "quality", the same counts of the nuclei left out; and, with ``positive_od``, ``n_positive``.

    Args:
        path: file to write.
        classes: names of the classes, in the order of the labels.
        provenance: slide, model, settings and versions.
        n_rays: number of rays per nucleus.
        optional: columns in addition to those of every table.
    """

    def __init__(
        self,
        path: Path | str,
        classes: Sequence[str],
        provenance: Provenance,
        n_rays: int,
        optional: OptionalColumns = NO_OPTIONAL,
    ):
        self.path = Path(path)
        self.classes = tuple(classes)
        self.provenance = provenance
        self.optional = optional
        # The schema has only the provenance known so far; the complete one is added to the file's
        # metadata at the end.
        schema = nuclei_schema(self.classes, n_rays, optional)
        schema = schema.with_metadata({PROVENANCE_KEY: _to_json(self.provenance.to_dict())})
        self.format = RowFormat(self.classes, optional, schema)
        self._waiting: list[pa.Table] = []
        # nuclei that totals include, and that they leave out, by label; the last have no class
        self._counts = np.zeros((2, len(self.classes) + 1), int)
        self._n_by_kind: Counter[str] = Counter()
        self._n_positive = 0  # only nuclei included in totals
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])

    def __enter__(self) -> NucleiWriter:
        # If opening the writer fails, the stack removes the unfinished file; otherwise ``__exit__``
        # completes it.
        with ExitStack() as stack:
            partial = stack.enter_context(complete_file(self.path))
            # few distinct values
            settings = {"compression": "zstd", "use_dictionary": ["class", "label"]}
            # without it, damaged bytes would pass for valid numbers
            settings["write_page_checksum"] = True
            self._file = stack.enter_context(
                pq.ParquetWriter(partial, self.format.schema, **settings)
            )
            self._stack = stack.pop_all()
        return self

    def write(self, nuclei: Nuclei, polygons: ndarray, shapes: Mapping[str, ndarray]) -> None:
        """Append nuclei: ``RowFormat.to_rows`` and ``append`` in one call."""
        self.append(self.format.to_rows(nuclei, polygons, shapes))

    def append(self, rows: Rows) -> None:
        """Append rows that ``RowFormat.to_rows`` made."""
        if not len(rows.table):
            return
        self._bounds[:2] = np.minimum(self._bounds[:2], rows.bounds[:2])
        self._bounds[2:] = np.maximum(self._bounds[2:], rows.bounds[2:])
        label = to_numpy(rows.table["label"])
        is_left_out = left_out(rows.table, self.provenance)
        np.add.at(self._counts, (is_left_out.astype(int), label), 1)
        if self.optional.artefacts is not None:
            counts = pc.value_counts(rows.table[QUALITY].cast(pa.string()).drop_null()).to_pylist()
            self._n_by_kind.update({count["values"]: count["counts"] for count in counts})
        if self.optional.positive_od is not None:
            self._n_positive += int((to_numpy(rows.table[POSITIVE]) & ~is_left_out).sum())
        self._waiting.append(rows.table)
        if sum(map(len, self._waiting)) >= ROW_GROUP:
            self._write_row_groups()

    def complete(self, **fields: Any) -> None:
        """Fill in fields of the provenance, until the block ends."""
        self.provenance = replace(self.provenance, **fields)

    def __exit__(self, *error: Any) -> None:
        with self._stack:  # closes and renames the file, or removes it
            if error[0] is not None:
                self._stack.__exit__(*error)
                return
            self._write_row_groups(whole_only=False)
            n_nuclei, n_left_out = self._counts.sum(1).tolist()
            counts, of_left_out = (
                dict(zip(self.classes, row, strict=False)) for row in self._counts.tolist()
            )
            self.complete(n_nuclei=n_nuclei, n_by_class=counts)
            if self.optional.positive_od is not None:
                self.complete(n_positive=self._n_positive)
            if self.optional.artefacts is not None:
                by_kind = {kind: self._n_by_kind[kind] for kind in self.optional.artefacts}
                quality = replace(
                    self.provenance.quality,
                    n_nuclei=n_left_out,
                    n_by_class=of_left_out,
                    n_by_kind=by_kind,
                )
                self.complete(quality=quality)
            geo = _geo_metadata(self._bounds if n_nuclei + n_left_out else None)
            provenance = self.provenance.to_dict()
            self._file.add_key_value_metadata(
                {b"geo": _to_json(geo), PROVENANCE_KEY: _to_json(provenance)}
            )

    def _write_row_groups(self, whole_only: bool = True) -> None:
        if not self._waiting:
            return
        waiting = pa.concat_tables(self._waiting)
        stop = len(waiting) // ROW_GROUP * ROW_GROUP if whole_only else len(waiting)
        # Rows are combined into one chunk, because each chunk begins a page, and bytes must not
        # depend on batches. The remaining rows are cut from the batches, because a slice of the
        # chunk would keep the chunk in memory.
        groups = waiting[:stop].combine_chunks()
        self._waiting = [waiting[stop:]]
        del waiting
        if stop:
            self._file.write_table(groups, row_group_size=ROW_GROUP)


def _to_column(
    values: ndarray, kind: pa.DataType, names: Sequence[str] | None, is_nullable: bool
) -> pa.Array:
    """A column of numbers (N,) or lists (N, K), null where not finite if nullable; or of the
    ``names`` of indices (N,).

    The index of a name that is null is -1.
    """
    if names is not None:
        return pa.DictionaryArray.from_arrays(
            to_arrow(values, valid=values != _NO_CLASS), texts_to_arrow(names)
        )
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(
            to_arrow(np.asarray(values, np.float32).ravel()), type=kind
        )
    column = np.asarray(values, kind.to_pandas_dtype())
    return to_arrow(column, valid=np.isfinite(column) if is_nullable else None)


def border_of(region: str | None) -> str:
    """Name of the column of the distance to the border of a class of tissue regions, or of all
    classes for None.
    """
    return BORDER if region is None else f"{BORDER}_{region}"


def nuclei_schema(
    classes: Sequence[str], n_rays: int, optional: OptionalColumns = NO_OPTIONAL
) -> pa.Schema:
    """The columns of ``nuclei.parquet`` and their types."""
    rays = pa.list_(pa.float32(), n_rays)
    dim = optional.embedding_dim
    regions = [(REGION, _NAME), (REGION_PROB, pa.float32()), (BORDER, pa.float32())]
    return pa.schema(
        [
            ("x", pa.float64()),
            ("y", pa.float64()),
            ("label", pa.int32()),
            ("class", _NAME),
            ("score", pa.float32()),
            *((f"prob_{name}", pa.float32()) for name in classes),
            *((name, pa.float32()) for name in SHAPE_COLUMNS),
            *([(CLUSTER, pa.int32())] if optional.clusters else []),
            *(
                [(DAB_OD, pa.float32()), (POSITIVE, pa.bool_())]
                if optional.positive_od is not None
                else []
            ),
            *(regions if optional.regions is not None else []),
            *((border_of(name), pa.float32()) for name in optional.borders),
            *([(UNLIKE_REGION, pa.bool_())] if optional.unlike_region else []),
            *([(QUALITY, _NAME)] if optional.artefacts is not None else []),
            *((name, rays if name == CELL_RAYS else pa.float32()) for name in optional.features),
            ("rays", rays),
            *([("embedding", pa.list_(pa.float32(), dim))] if dim else []),
            ("geometry", pa.binary()),
        ]
    )


def _geo_metadata(bounds: ndarray | None) -> dict[str, Any]:
    """GeoParquet's own metadata; they name no coordinate reference system, because coordinates are
    image pixels.
    """
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": None,
        "orientation": "counterclockwise",
    }
    if bounds is not None:
        column["bbox"] = bounds.tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _to_json(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True, ensure_ascii=False).encode()


def open_nuclei(path: Path | str) -> pq.ParquetFile:
    """Open a table of nuclei."""
    try:
        # With a buffer, everything that is read would stay in memory until the file is closed.
        file = pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise NucleiError(f"{path}: no such file; correct the path") from error
    except (pa.ArrowException, OSError) as error:
        raise NucleiError(
            f"{path}: not a readable Parquet file ({one_line(error)}); make it with `muse step"
            " stitch` again"
        ) from error
    if PROVENANCE_KEY not in (file.metadata.metadata or {}):
        raise NucleiError(
            f"{path}: has no 'muse' metadata; give a nuclei.parquet that 'muse step stitch' wrote"
        )
    return file


def read_provenance(path: Path | str) -> Provenance:
    """Read the provenance in a table: slide, model, card, settings, versions and counts."""
    with open_nuclei(path) as file:
        text = file.metadata.metadata[PROVENANCE_KEY]
    try:
        provenance = _parse_provenance(text)
        if provenance.n_nuclei is not None:
            return provenance
    except (ValueError, RecursionError):
        pass
    raise NucleiError(
        f"{path}: its 'muse' metadata are from a different version; make it with `muse step stitch`"
        " again"
    )


@lru_cache(4)  # every step of a slide reads the same text
def _parse_provenance(text: bytes) -> Provenance:
    return Provenance.from_dict(json.loads(text))


def footer_checksum(path: Path) -> str:
    """A cheap checksum of a table, computed from its footer, which has the provenance and the range
    of each column.
    """
    with path.open("rb") as file:
        # A Parquet file ends with its footer, the length of the footer in four bytes, and "PAR1".
        file.seek(-8, 2)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, 2)
        return hashlib.sha256(file.read()).hexdigest()[:32]


def iterate_rows(
    path: Path | str, batch_size: int, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yield tables of exactly ``batch_size`` rows (the last may be shorter, but not empty), in the
    file's order.
    """
    with open_nuclei(path) as file:
        order = list(columns or file.schema_arrow.names)
        waiting = []
        for batch in _undamaged(
            path, file.iter_batches(min(batch_size, ROW_GROUP), columns=order, use_threads=False)
        ):
            waiting.append(pa.Table.from_batches([batch]).select(order))
            while sum(map(len, waiting)) >= batch_size:
                table = pa.concat_tables(waiting).combine_chunks()
                yield table[:batch_size]
                # An empty slice would keep its whole source in memory.
                waiting = [table[batch_size:]] if len(table) > batch_size else []
        if waiting:
            yield pa.concat_tables(waiting).combine_chunks()


def read_within(
    path: Path | str, low_xy: ndarray, high_xy: ndarray, columns: Sequence[str]
) -> pa.Table:
    """Read ``columns``, which must include "x" and "y", of the nuclei in a half-open rectangle of
    level-0 px.

    Only row groups that touch the rectangle are read. (Arrow's own filters do the same, but load
    pandas.)
    """
    with open_nuclei(path) as file:
        touching = [
            number
            for number in range(file.num_row_groups)
            if _may_hold(file.metadata.row_group(number), low_xy, high_xy)
        ]
        parts = []
        for batch in _undamaged(
            path, file.iter_batches(ROW_GROUP, touching, list(columns), use_threads=False)
        ):
            table = pa.Table.from_batches([batch])
            xy = positions(table)
            inside = ((xy >= low_xy) & (xy < high_xy)).all(1)
            parts.append(batch.take(to_arrow(np.flatnonzero(inside))))
        return pa.Table.from_batches(
            parts, pa.schema([file.schema_arrow.field(name) for name in columns])
        )


def left_out(table: pa.Table, provenance: Provenance) -> ndarray:
    """(N,) bool: True for nuclei that totals leave out, because they lie in an artefact that is
    subtracted.

    The rows of the table include the column ``quality`` if the table has it.
    """
    if provenance.quality is None:
        return np.zeros(len(table), bool)
    return to_numpy(
        pc.is_in(table[QUALITY].cast(pa.string()), texts_to_arrow(provenance.quality.subtract))
    )


def iterate_counted(path: Path | str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the nuclei included in totals, in batches of bounded size with ``columns`` and, if
    present, ``quality``.
    """
    provenance = read_provenance(path)
    quality = [QUALITY] if provenance.quality else []
    for table in iterate_rows(path, ROW_GROUP, [*columns, *quality]):
        yield table.filter(to_arrow(~left_out(table, provenance))) if quality else table


def _may_hold(group: pq.RowGroupMetaData, low_xy: ndarray, high_xy: ndarray) -> bool:
    """True if a row group's statistics allow positions in the rectangle."""
    x_and_y = (group.column(index).statistics for index in (0, 1))
    return all(
        range_ is None or not range_.has_min_max or (range_.max >= low and range_.min < high)
        for range_, low, high in zip(x_and_y, low_xy, high_xy, strict=True)
    )


def _undamaged(path: Path | str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the same batches, but replace Arrow's errors about damaged files by one message."""
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise NucleiError(
            f"{path}: is damaged ({one_line(error)[:200]}); make it with `muse step stitch` again"
        ) from error


def parse_outlines(geometry: ndarray) -> ndarray:
    """Convert the column ``geometry``, (N,) WKB, to (N,) shapely polygons."""
    try:
        return shapely.from_wkb(geometry)
    except (shapely.errors.GEOSException, TypeError) as error:
        raise NucleiError(
            f"an outline in the table of nuclei is damaged ({one_line(error)}); make it with `muse"
            " step stitch` again"
        ) from error


def read_nuclei(path: Path | str) -> Nuclei:
    """All nuclei of a table, in the level-0 frame."""
    with open_nuclei(path) as file:
        used = {"x", "y", "label", "score", "rays", "embedding", DAB_OD}
        columns = [
            name for name in file.schema_arrow.names if name in used or name.startswith("prob_")
        ]
        empty = file.schema_arrow.empty_table().select(columns)
    table = pa.concat_tables([empty, *iterate_rows(path, ROW_GROUP, columns)])
    probabilities = [name for name in table.column_names if name.startswith("prob_")]
    return Nuclei(
        xy=positions(table),
        frame=Frame.LEVEL0,
        rays=lists_to_numpy(table["rays"]),
        label=to_numpy(table["label"]),
        score=to_numpy(table["score"]),
        prob=(
            np.stack([to_numpy(table[name]) for name in probabilities], axis=-1)
            if probabilities
            else None
        ),
        embedding=lists_to_numpy(table["embedding"]) if "embedding" in table.column_names else None,
        dab_od=to_numpy(table[DAB_OD])[:, None] if DAB_OD in table.column_names else None,
    )


def write_csv(nuclei_path: Path | str, output: Path | str) -> None:
    """Write ``nuclei.csv.gz`` from ``nuclei.parquet``, batch by batch; positions are rounded to
    0.01 px.
    """
    with open_nuclei(nuclei_path) as file:
        columns = [
            name
            for name in file.schema_arrow.names
            if name not in {"rays", CELL_RAYS, "embedding", "geometry"}
        ]
        empty = _printable(file.schema_arrow.empty_table().select(columns))
    with (
        complete_file(output) as partial,
        partial.open("wb") as raw,
        # Without the name and time of the file, equal tables have equal bytes.
        gzip.GzipFile("", "wb", compresslevel=3, fileobj=raw, mtime=0) as compressed,
        pa.csv.CSVWriter(compressed, empty.schema) as text,
    ):
        for table in iterate_rows(nuclei_path, ROW_GROUP, columns):
            text.write_table(_printable(table))


def _printable(table: pa.Table) -> pa.Table:
    for name in ("x", "y"):
        table = table.set_column(table.column_names.index(name), name, pc.round(table[name], 2))
    for name in {"class", REGION, QUALITY} & set(table.column_names):
        table = table.set_column(
            table.column_names.index(name), name, table[name].cast(pa.string())
        )
    return table
