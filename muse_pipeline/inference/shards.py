"""The file that ``detect`` or ``propose`` writes for ``stitch``: the nuclei that windows report, in
window order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy import ndarray

from muse_pipeline.core.errors import StoreError
from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.arrow import lists_to_numpy, positions, to_arrow, to_numpy
from muse_pipeline.nuclei.table import Nuclei

T = TypeVar("T")

METADATA_KEY = b"muse_shard"
ROWS_PER_GROUP = 16_384
MAKERS = "`muse step detect` or `muse step propose`"


class ShardWriter:
    """Collects reported nuclei and writes them in groups of rows; use it as a context manager.

    The columns ``prob``, ``rays`` and ``embedding`` have ``n_classes``, ``n_rays`` and
    ``embedding_dim`` values per row; for 0, there is no ``embedding``. With ``dab``, there is a
    column ``dab_od``.
    """

    def __init__(
        self, path: Path, n_classes: int, n_rays: int, embedding_dim: int = 0, dab: bool = False
    ):
        widths = {"prob": n_classes, "rays": n_rays, "embedding": embedding_dim, "dab_od": int(dab)}
        self.lists = {
            name: width for name, width in widths.items() if width or name in {"prob", "rays"}
        }
        self.schema = pa.schema(
            [
                ("window", pa.int32()),
                ("x", pa.float64()),
                ("y", pa.float64()),
                ("score", pa.float32()),
                *((name, pa.list_(pa.float32(), width)) for name, width in self.lists.items()),
            ]
        )
        self._writer = pq.ParquetWriter(
            path, self.schema, compression="zstd", write_page_checksum=True
        )
        self._tables: list[pa.Table] = []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, nuclei: Nuclei, window: int) -> None:
        """Add the nuclei (frame: work) that one window reports; windows must be added in ascending
        order.
        """
        x, y = nuclei.require(Frame.WORK).xy.T
        columns = list(map(to_arrow, (np.full(len(nuclei), window, np.int32), x, y, nuclei.score)))
        columns += [
            pa.FixedSizeListArray.from_arrays(to_arrow(getattr(nuclei, name).ravel()), width)
            for name, width in self.lists.items()
        ]
        self._tables.append(pa.Table.from_arrays(columns, schema=self.schema))
        # A group contains whole windows: stitching orders the nuclei within a window, and returns
        # them group by group.
        if sum(map(len, self._tables)) >= ROWS_PER_GROUP:
            self._flush()

    def finish(self, facts: dict[str, Any]) -> None:
        """Write the remaining nuclei, and the ``facts`` that ``detect_shard`` collects."""
        self._flush()
        self._writer.add_key_value_metadata({METADATA_KEY: json.dumps(facts, sort_keys=True)})

    def _flush(self) -> None:
        if self._tables:
            self._writer.write_table(pa.concat_tables(self._tables))
            self._tables = []


def read_shard_facts(path: Path) -> dict[str, Any]:
    """The facts that ``finish`` wrote about a shard."""
    try:
        facts = json.loads(pq.read_metadata(path).metadata[METADATA_KEY])
        _require_facts(facts)
        return facts
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such shard; run {MAKERS} for it") from error
    except (
        pa.ArrowException,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise StoreError(
            f"{path}: not a complete shard of {MAKERS}; delete it and run the command again"
        ) from error


def _require_facts(facts: dict[str, Any]) -> None:
    """Check that the facts have the types that stitching needs."""
    common = facts["common"]
    words = (
        facts["shard"],
        common["card"],
        common["fingerprint"],
        common["model_sha256"],
        common["provider"],
    )
    numbers = facts["n_windows"], common["offset_px"], *common["size_px"], *facts["full_windows"]
    if not all(isinstance(word, str) for word in words) or not all(
        type(number) is int for number in numbers
    ):
        raise ValueError("a fact has the wrong type")
    if (
        len(common["size_px"]) != 2
        or not isinstance(common["versions"], dict)
        or min(common["size_px"]) < 1
    ):
        raise ValueError("a fact has the wrong type")
    colour = common["colour"] or []  # some proposers do not use colours
    # Evaluated only to raise an error unless the first two are lists and the last one is a number.
    [*colour, *common["slide_mpp"], float(common["corrupt_fraction"])]


def iterate_groups(path: Path, read: Callable[[pq.ParquetFile, int], T]) -> Iterator[T]:
    """Yield what ``read_reports`` or ``read_positions`` returns for each group of a shard, in
    window order.
    """
    with _as_damage(path), pq.ParquetFile(path) as file:
        n_groups = file.num_row_groups
    for group in range(n_groups):
        with _as_damage(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            part = read(file, group)
        yield part


@contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    """Replace every error in the block with the StoreError for a damaged file."""
    try:
        yield
    except Exception as error:
        raise StoreError(f"{path}: is damaged; delete it and run {MAKERS} for it again") from error


def read_positions(file: pq.ParquetFile, group: int) -> tuple[ndarray, ndarray]:
    """Positions (N, 2) in work pixels and window indices (N,) of a group; reads only a tenth of the
    data.
    """
    table = file.read_row_group(group, ["x", "y", "window"], use_threads=False)
    return _positions(table), to_numpy(table["window"])


def read_reports(file: pq.ParquetFile, group: int) -> Nuclei:
    """The reported nuclei (frame: work) of a group."""
    table = file.read_row_group(group, use_threads=False)
    prob, rays = (lists_to_numpy(table[name]) for name in ("prob", "rays"))
    if not np.isfinite(rays).all():
        raise ValueError("rays that are not numbers")
    return Nuclei(
        _positions(table),
        Frame.WORK,
        rays=rays,
        label=prob.argmax(1) if prob.shape[1] else None,
        score=to_numpy(table["score"]),
        prob=prob,
        **{
            name: lists_to_numpy(table[name])
            for name in ("embedding", "dab_od")
            if name in table.column_names
        },
    )


def _positions(table: pa.Table) -> ndarray:
    xy = positions(table)
    if not np.isfinite(xy).all():
        raise ValueError("positions that are not numbers")
    return xy
