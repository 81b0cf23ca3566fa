"""``nuclei.geojson.gz``: the nuclei for QuPath, written from ``nuclei.parquet`` in batches of
bounded size.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.resources import as_file, files
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pyarrow as pa
from numpy import ndarray
from typing_extensions import override

from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.errors import GeoJSONError, NucleiError
from muse_pipeline.core.files import complete_file, remove, write_json
from muse_pipeline.core.process import MapInOrder
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.text import suggest
from muse_pipeline.core.types import NucleusClass, SlideInfo
from muse_pipeline.nuclei import parquet
from muse_pipeline.nuclei.arrow import (
    lists_to_numpy,
    polygons_to_wkb,
    positions,
    to_arrow,
    to_numpy,
    wkb_to_rings,
)
from muse_pipeline.nuclei.rays import are_clearly_simple, rays_to_rings, rings_to_polygons
from muse_pipeline.qupath.columns import render_coordinates, render_decimals, render_integers, uuid5
from muse_pipeline.slides.isolation import choose_map

SEPARATOR = b",\n"
_HEAD = b'{"type":"FeatureCollection","features":['
_TAIL = b"\n]}\n"
_GZIP_LEVEL = 1  # the fastest level of libdeflate that compresses


@contextmanager
def open_features(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that appends a batch of features, one per line, to a file that appears when
    it is complete.

    The features of a batch are joined by ``SEPARATOR`` and were passed through ``encode``.
    """
    suffix = split_name(path)[1]
    # The first batch follows a line break, each later batch the whole separator.
    separators = chain([encode(SEPARATOR[1:], suffix)], repeat(encode(SEPARATOR, suffix)))
    with complete_file(path) as partial, partial.open("wb") as file:
        file.write(encode(_HEAD, suffix))
        yield lambda batch: file.writelines([next(separators), batch])
        file.write(encode(_TAIL, suffix))


def encode(text: bytes, suffix: str) -> bytes:
    """The text as stored in a file with ``suffix``: unchanged, or as a gzip member without name and
    time.
    """
    return text if suffix == ".geojson" else imagecodecs.gzip_encode(text, _GZIP_LEVEL)


def split_name(path: Path) -> tuple[str, str]:
    """The name of a file before ``.geojson``, and the suffix from there on."""
    for suffix in (".geojson.gz", ".geojson"):
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix), suffix
    raise GeoJSONError(f"{path}: QuPath opens only .geojson and .geojson.gz; choose such a name")


BATCH = 8_192


def write_geojson(
    nuclei_path: Path | str,
    info: SlideInfo,
    output: Path | str,
    frame: str = "qupath",
    max_features: int | None = None,
    threads: int = 1,
    measurements: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the nuclei of a slide for QuPath and ``<name>.provenance.json``, and return the content
    of the latter.

    Positions count from the origin of the ``frame``, as in ``coords.qupath_offset_px``. If there
    are more nuclei than ``max_features``, ``<name>.part-001.geojson.gz`` and so on are written as
    well, each with at most this number. The columns ``measurements`` are written in addition to
    those of ``measurements_of``.
    """
    output = Path(output)
    provenance = _read_provenance(nuclei_path, info)
    offset_px = qupath_offset_px(info.bounds, frame)
    renderer = FeatureRenderer(provenance.classes, provenance.run_name, offset_px)
    with parquet.open_nuclei(nuclei_path) as file:
        columns = list_columns(file.schema_arrow, measurements)
        n_nuclei = file.metadata.num_rows
    tables = partial(_read_tables, nuclei_path, columns, provenance)
    map_batches = partial(choose_map(threads, provenance.n_windows), threads=threads)
    parts = _write_files(tables, renderer, output, n_nuclei, max_features, map_batches)
    # size of the image in the program that the frame is named after
    size_px = (
        (info.bounds.width, info.bounds.height)
        if frame == "qupath" and info.bounds
        else info.size_px
    )
    sidecar = {
        "slide_id": info.slide_id,
        "slide_file": Path(info.path).name,
        "slide_path": info.path,
        "size_px": list(size_px),
        "frame": frame,
        "offset_px": list(offset_px),
        "measurements": [name for name, _, _ in measurements_of(columns)],
        "parts": [path.name for path in parts],
        "provenance": provenance.to_dict(),
    }
    write_json(output.with_name(f"{split_name(output)[0]}.provenance.json"), sidecar)
    return sidecar


def write_cells(
    nuclei_path: Path | str,
    info: SlideInfo,
    output: Path | str,
    frame: str = "qupath",
    threads: int = 1,
    measurements: Sequence[str] = (),
) -> None:
    """Write the cells of a slide for QuPath, each with its nucleus and its id; arguments as in
    ``write_geojson``.
    """
    provenance = _read_provenance(nuclei_path, info)
    with parquet.open_nuclei(nuclei_path) as file:
        schema = file.schema_arrow
    if parquet.CELL_RAYS not in schema.names:
        raise NucleiError(
            f"{nuclei_path}: has no cells; run the slide again with the setting `cells`"
        )
    tables = partial(
        _read_tables,
        nuclei_path,
        [*list_columns(schema, measurements), parquet.CELL_RAYS],
        provenance,
    )
    map_batches = partial(choose_map(threads, provenance.n_windows), threads=threads)
    _write_files(tables, CellRenderer(info, provenance, frame), Path(output), 0, None, map_batches)


def list_columns(schema: pa.Schema, measurements: Sequence[str]) -> list[str]:
    """Columns of a table of nuclei that are written for QuPath, including ``measurements``."""
    columns = [*COLUMNS, *(name for name in (*OPTIONAL, parquet.POSITIVE) if name in schema.names)]
    return columns + [name for name in require_numbers(schema, measurements) if name not in columns]


def require_numbers(schema: pa.Schema, names: Sequence[str]) -> Sequence[str]:
    """Require that ``names`` are columns of floating-point numbers, and return each of them
    once.
    """
    columns = [field.name for field in schema if pa.types.is_floating(field.type)]
    for name in names:
        if name not in columns:
            hint = suggest(name, columns, f"its numeric columns are {', '.join(columns)}")
            raise GeoJSONError(
                f"measurements: the table of nuclei has no numeric column '{name}'; {hint}"
            )
    return list(dict.fromkeys(names))


def _read_provenance(nuclei_path: Path | str, info: SlideInfo) -> Provenance:
    provenance = parquet.read_provenance(nuclei_path)
    if provenance.fingerprint != info.fingerprint:
        raise NucleiError(
            f"{nuclei_path}: made from slide '{provenance.slide_id}' with fingerprint"
            f" {provenance.fingerprint}, while slide '{info.slide_id}' has {info.fingerprint}; run"
            " the slide again or give its own slide.json"
        )
    return provenance


def _read_tables(
    nuclei_path: Path | str, columns: list[str], provenance: Provenance, batch_size: int
) -> Iterator[pa.Table]:
    """Read the columns of all nuclei; ``quality`` becomes 1 for nuclei that totals leave out, and 0
    for others.
    """
    for table in parquet.iterate_rows(nuclei_path, batch_size, columns):
        if parquet.QUALITY in columns:
            flags = to_arrow(parquet.left_out(table, provenance).astype(float))
            yield table.set_column(columns.index(parquet.QUALITY), parquet.QUALITY, flags)
        else:
            yield table


def _render(table: pa.Table, renderer: FeatureRenderer, suffix: str) -> bytes:
    return encode(renderer.render(table), suffix)


def _write_files(
    read_tables: Callable[[int], Iterator[pa.Table]],
    renderer: FeatureRenderer,
    output: Path,
    n_nuclei: int,
    max_features: int | None,
    map_batches: MapInOrder,
) -> list[Path]:
    """Write the whole file and its parts, and return the paths of the parts."""
    if max_features is not None and max_features < 1:
        raise GeoJSONError(f"parts of at most {max_features} nuclei hold none; give 1 or more")
    stem, suffix = split_name(output)
    # A part consists of whole batches, which are rendered and compressed once for both the part and
    # the whole file.
    n_batches = -(-(max_features or BATCH) // BATCH)
    # parts may have slightly fewer nuclei than ``max_features``
    batch_size = (max_features or BATCH) // n_batches
    n_parts = -(-n_nuclei // (n_batches * batch_size)) if max_features else 0
    numbers = range(1, n_parts + 1) if n_parts > 1 else ()
    parts = [output.with_name(f"{stem}.part-{number:03d}{suffix}") for number in numbers]
    of_any_number = re.compile(re.escape(stem) + r"\.part-\d{3,}" + re.escape(suffix))
    for stale in [
        path for path in output.parent.glob("*.part-*") if of_any_number.fullmatch(path.name)
    ]:
        remove(stale)
    batches = map_batches(
        partial(_render, renderer=renderer, suffix=suffix), read_tables(batch_size)
    )
    with open_features(output) as write_to_whole:
        for path in parts:
            with open_features(path) as write_to_part:
                for batch in islice(batches, n_batches):
                    write_to_whole(batch)
                    write_to_part(batch)
        for batch in batches:  # all of them if there are no parts
            write_to_whole(batch)
    return parts


NAMESPACE = uuid.UUID("6a1c7f0e-52f4-5b0a-9d0e-2f6c1a3b8e47")
COLUMNS = ("x", "y", "label", "score", "area_um2", "eccentricity", "geometry")
# Name in QuPath, column of the table, digits after the point.
MEASUREMENTS = (
    ("Detection probability", "score", 3),
    ("Area um^2", "area_um2", 2),
    ("Eccentricity", "eccentricity", 3),
)
OPTIONAL = {  # for tables with these columns
    parquet.CLUSTER: ("Morphology cluster", parquet.CLUSTER, 1),
    parquet.REGION_PROB: ("Region probability", parquet.REGION_PROB, 3),
    parquet.BORDER: ("Border distance um", parquet.BORDER, 1),
    parquet.UNLIKE_REGION: (
        "Unlike region",
        parquet.UNLIKE_REGION,
        1,
    ),  # 1 if the class does not occur in the region
    parquet.QUALITY: ("In artefact", parquet.QUALITY, 1),  # 1 where totals leave a nucleus out
}
CHOSEN_DIGITS = 4  # digits after the point, for columns that the user chose
# QuPath's names, and brightness relative to the class's colour
INTENSITIES = (("Negative", 1.25), ("Positive", 0.75))
_CENTROID_DIGITS = 12
# nuclei rendered together; at some 1,400 bytes each, they fit into the cache of a core
_AT_ONCE = 2_048


class FeatureRenderer:
    """Renders tables with ``COLUMNS``, and perhaps some of ``OPTIONAL``, as features, joined by
    ``SEPARATOR``.

    Labels are indices of ``classes``; other labels are written without classification. If the table
    has ``POSITIVE``, classes are derived from those of the model, such as "Epithelial: Positive".
    The same centroid in the same ``run``, which identifies slide and model, has the same id. The
    offset (x, y) is subtracted from every position.
    """

    def __init__(self, classes: Sequence[NucleusClass], run: str, offset_px: tuple[int, int]):
        self._namespace = uuid.uuid5(NAMESPACE, run)
        self._offset_px = np.asarray(offset_px, float)
        self._plain = np.array(
            [*(_classification("name", kind.name, kind.color) for kind in classes), b""]
        )
        self._derived = np.array([text for kind in classes for text in _derive(kind)] + [b""])

    def render(self, table: pa.Table) -> bytes:
        """Render a batch of at least one nucleus as features, in the order of its rows."""
        ids = uuid5(self._namespace, _centroid_names(to_numpy(table["x"]), to_numpy(table["y"])))
        batches = [slice(first, first + _AT_ONCE) for first in range(0, len(table), _AT_ONCE)]
        first, *others = (self._render_batch(table[batch], ids[batch]) for batch in batches)
        return b"".join([first[len(SEPARATOR) :], *others])

    def _render_batch(self, table: pa.Table, ids: ndarray) -> bytearray:
        n = len(table)
        parts = [
            _constant(SEPARATOR + b'{"type":"Feature","id":"', n),
            ids,
            _constant(b'","geometry":{"type":"Polygon","coordinates":[[[', n),
            *self._render_outlines(table),
            self._render_classifications(table),
            _constant(b',"measurements":{', n),
            *_render_measurements(table),
            _constant(b"}}}", n),
        ]
        text = bytearray(n * sum(part.shape[1] for part in parts))
        np.concatenate(parts, axis=1, out=np.frombuffer(text, np.uint8).reshape(n, -1))
        # Texts of different lengths are padded with zeros (``columns.BLANK``), which JSON cannot
        # contain.
        return text.translate(None, b"\0")

    def _render_outlines(self, table: pa.Table) -> list[ndarray]:
        """Render the outlines and the text that follows them, up to and including the type of the
        objects.
        """
        outlines = self._render_rings(wkb_to_rings(table["geometry"]), len(table))
        return [outlines, _constant(b'},"properties":{"objectType":"detection"', len(table))]

    def _render_rings(self, groups: Iterable[tuple[ndarray, ndarray]], n: int) -> ndarray:
        """Render rings given as groups of rows (M,) in a batch of ``n`` and their rings (M, V,
        2).
        """
        texts = [(rows, render_coordinates(rings - self._offset_px)) for rows, rings in groups]
        if len(texts) == 1:
            return texts[0][1]
        matrix = np.zeros((n, max(text.shape[1] for _, text in texts)), np.uint8)
        for rows, text in texts:
            matrix[rows, : text.shape[1]] = text
        return matrix

    def _render_classifications(self, table: pa.Table) -> ndarray:
        texts, number = self._plain, to_numpy(table["label"])
        if parquet.POSITIVE in table.column_names:
            texts = self._derived
            number = 2 * number + to_numpy(table[parquet.POSITIVE])
        unknown = len(texts) - 1
        text = texts[np.where((number >= 0) & (number < unknown), number, unknown)]
        return text.view(np.uint8).reshape(len(text), -1)


class CellRenderer(FeatureRenderer):
    """Renders tables with ``CELL_RAYS`` as cells that contain nuclei; arguments as in
    ``write_cells``.
    """

    def __init__(self, info: SlideInfo, provenance: Provenance, frame: str):
        super().__init__(
            provenance.classes, provenance.run_name, qupath_offset_px(info.bounds, frame)
        )
        self._info = info

    @override
    def _render_outlines(self, table: pa.Table) -> list[ndarray]:
        nuclei = super()._render_outlines(table)[0]
        cells = self._render_rings(self._cell_rings(table), len(table))
        key = _constant(b'},"nucleusGeometry":{"type":"Polygon","coordinates":[[[', len(table))
        return [cells, key, nuclei, _constant(b'},"properties":{"objectType":"cell"', len(table))]

    def _cell_rings(self, table: pa.Table) -> Iterable[tuple[ndarray, ndarray]]:
        """Outlines of cells, in groups as from ``wkb_to_rings``; the few that are not simple are
        repaired.
        """
        xy = positions(table)
        rings = rays_to_rings(xy, lists_to_numpy(table[parquet.CELL_RAYS]), self._info.mpp)
        rounded = np.round(rings, 1)
        if are_clearly_simple(rounded).all():
            return [(np.arange(len(rings)), np.concatenate([rounded, rounded[:, :1]], axis=1))]
        polygons = rings_to_polygons(rings, size_px=self._info.size_px)[0]
        return wkb_to_rings(pa.chunked_array([polygons_to_wkb(polygons)]))


def nucleus_ids(run: str, x: ndarray, y: ndarray) -> ndarray:
    """The ids in QuPath, (N,) S36, of nuclei at these positions in level-0 px; ``run`` is a
    ``Provenance.run_name``.
    """
    return uuid5(uuid.uuid5(NAMESPACE, run), _centroid_names(x, y)).view("S36").ravel()


def _derive(kind: NucleusClass) -> Iterator[bytes]:
    """The derived classes for negative and for positive nuclei of a class, named and coloured as
    QuPath does.
    """
    names = [part.strip() for part in kind.name.split(":")]
    for intensity, scale in INTENSITIES:
        yield _classification(
            "names", [*names, intensity], [min(int(part * scale), 255) for part in kind.color]
        )


def _classification(key: str, name: str | list[str], color: Sequence[int]) -> bytes:
    value = {key: name, "color": list(color)}
    return (
        b',"classification":'
        + json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    )


def _centroid_names(x: ndarray, y: ndarray) -> ndarray:
    """Names (N, L) of absolute positions, to 0.01 px; a running number distinguishes equal
    positions in a batch.
    """
    hundredths = np.rint(np.stack([x, y]) * 100).astype(np.int64)
    key = hundredths[0] << 32 | hundredths[1]
    order = np.argsort(key, kind="stable")
    rank = np.arange(len(key))
    begins = np.diff(key[order], prepend=-1) != 0
    repeat = np.empty_like(rank)  # all zeros after `stitch`, whose nuclei have distinct positions
    repeat[order] = rank - np.maximum.accumulate(np.where(begins, rank, 0))
    columns = [render_integers(values, _CENTROID_DIGITS) for values in (*hundredths, repeat)]
    return np.concatenate(columns, axis=1)


def measurements_of(columns: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    """For each measurement of a table with ``columns``: name in QuPath, column, and digits after
    the decimal point.
    """
    own = {*COLUMNS, *OPTIONAL, parquet.POSITIVE, parquet.CELL_RAYS}
    chosen = ((name, name, CHOSEN_DIGITS) for name in columns if name not in own)
    return (*MEASUREMENTS, *(entry for name, entry in OPTIONAL.items() if name in columns), *chosen)


def _render_measurements(table: pa.Table) -> list[ndarray]:
    """Render the finite measurements; QuPath 0.4 fails on NaN."""
    parts, is_first = [], np.ones(len(table), bool)
    for name, column, decimals in measurements_of(table.column_names):
        values = to_numpy(table[column])
        finite = np.isfinite(values)
        key = _constant(f",{json.dumps(name, ensure_ascii=False)}:".encode(), len(table))
        text = np.concatenate([key, render_decimals(np.where(finite, values, 0), decimals)], axis=1)
        # Each text begins with a comma, which the first measurement of a nucleus must not have.
        text[is_first, 0] = 0
        text[~finite] = 0
        is_first &= ~finite
        parts.append(text)
    return parts


def _constant(text: bytes, n: int) -> ndarray:
    return np.tile(np.frombuffer(text, np.uint8), (n, 1))


IMPORT_SCRIPT = "import_nuclei.groovy"


def copy_import_script(folder: Path | str) -> Path:
    """Copy the import script for QuPath into ``folder``, and return its path."""
    target = Path(folder) / IMPORT_SCRIPT
    with (
        as_file(files("muse_pipeline.qupath") / IMPORT_SCRIPT) as source,
        complete_file(target) as partial,
    ):
        shutil.copyfile(source, partial)
    return target
