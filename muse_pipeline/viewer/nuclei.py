"""The nuclei of the viewer: chunks of the slide as script files, and an overview of all of them.

From ``file://``, a browser loads nothing but scripts, so numbers are passed as base64 in a call of
``muse.receive``. Columns follow one another in a chunk; ``page/nuclei.js`` reads them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.core.types import SlideInfo
from muse_pipeline.nuclei import parquet
from muse_pipeline.nuclei.arrow import lists_to_numpy, to_numpy

CHUNK_UM = 1024.0
GRID_UM = 64.0
SCORE_LEVELS = 200  # number of levels of stored scores
SCORE_BINS = 20  # number of bins of the overview and of steps of the slider
NO_CLASS = 255
N_SAMPLE = 60_000  # about this many nuclei are shown as dots in views of the whole slide
N_GALLERY = 12  # number of nuclei of each kind and class
_RAY_UM = 0.01  # step of rays in the temporary files
_KNUTH = np.uint64(2654435761)  # multiplicative hashing: a pseudo-random, fixed order of rows


@dataclass
class Batch:
    """A batch of nuclei from a table."""

    row: np.ndarray  # (n,) index of the row in the table
    xy: np.ndarray  # (n, 2) positions, absolute level-0 px
    label: np.ndarray  # (n,) uint8 label; ``NO_CLASS`` if there is none
    score: np.ndarray  # (n,) float score
    sureness: (
        np.ndarray
    )  # (n,) float probability of the class; the score if there are no probabilities
    rays: np.ndarray  # (n, R) rays, um
    is_counted: np.ndarray  # (n,) bool, True for nuclei in totals

    @property
    def score_level(self) -> np.ndarray:
        """(n,) uint8: the score as one of ``SCORE_LEVELS`` levels."""
        # Rounded to float32, the lowest score of a level may be slightly lower, but must not fall
        # into the level below.
        return (
            (self.score * SCORE_LEVELS + 1e-4)
            .astype(int)
            .clip(0, SCORE_LEVELS - 1)
            .astype(np.uint8)
        )

    @property
    def rank(self) -> np.ndarray:
        """(n,) uint32: a random number that depends only on the row."""
        return ((self.row.astype(np.uint64) * _KNUTH) & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def iterate_batches(path: Path, by_stain: bool) -> Iterator[Batch]:
    """Yield the nuclei of a table in batches; ``by_stain`` labels them negative (0) and positive
    (1).
    """
    column = parquet.POSITIVE if by_stain else "label"
    with parquet.open_nuclei(path) as file:
        names = [name for name in file.schema_arrow.names if name.startswith("prob_")]
    probabilities = names if len(names) > 1 and not by_stain else []
    first, provenance = 0, parquet.read_provenance(path)
    quality = [parquet.QUALITY] if provenance.quality else []
    for table in parquet.iterate_rows(
        path, parquet.ROW_GROUP, ["x", "y", column, "score", *probabilities, "rays", *quality]
    ):
        label, score = to_numpy(table[column]).astype(int), to_numpy(table["score"]).astype(float)
        sureness = score
        if probabilities:
            of_all = np.stack([to_numpy(table[name]) for name in probabilities], 1)
            sureness = np.where(
                label < 0, 0.0, of_all[np.arange(len(label)), label.clip(0)]
            ).astype(float)
        yield Batch(
            row=np.arange(first, first + len(table)),
            xy=np.stack([to_numpy(table["x"]), to_numpy(table["y"])], 1),
            label=np.where(label < 0, NO_CLASS, label).astype(np.uint8),
            score=score,
            sureness=sureness,
            rays=lists_to_numpy(table["rays"]),
            is_counted=~parquet.left_out(table, provenance),
        )
        first += len(table)


class ChunkWriter:
    """Sorts nuclei into squares of ``CHUNK_UM``, the files ``COLUMN_ROW.js``; memory holds one
    batch or square.
    """

    def __init__(self, folder: Path, info: SlideInfo, n_rays: int):
        self.folder, self._side_px = folder, CHUNK_UM / np.asarray(info.mpp)
        shorts = [("x", "<u2"), ("y", "<u2"), ("rays", "<u2", (n_rays,))]
        self._record = np.dtype(
            [("row", "<u4"), *shorts, ("label", "u1"), ("score", "u1"), ("sureness", "u1")]
        )
        self._counts: dict[tuple[int, int], int] = {}
        folder.mkdir(parents=True)

    def add(self, batch: Batch) -> None:
        """Append nuclei to the files of their squares."""
        position = batch.xy / self._side_px
        square = np.floor(position).astype(int)
        records = np.zeros(len(square), self._record)
        within = ((position - square) * 65536).astype(np.uint16)
        records["row"], records["x"], records["y"] = batch.row, within[:, 0], within[:, 1]
        records["rays"] = np.round(batch.rays / _RAY_UM).clip(0, 65535)
        records["label"], records["score"] = batch.label, batch.score_level
        records["sureness"] = np.round(batch.sureness.clip(0, 1) * 255)
        order = np.lexsort(square.T)
        ends = np.flatnonzero((np.diff(square[order], axis=0) != 0).any(1)) + 1
        for members in np.split(order, ends) if len(order) else []:
            column, row = square[members[0]].tolist()
            self._counts[column, row] = self._counts.get((column, row), 0) + len(members)
            with self._waiting(column, row).open("ab") as file:
                file.write(records[members].tobytes())

    def finish(self) -> dict[str, Any]:
        """Turn the files into scripts, and return what the page needs to read them."""
        for column, row in self._counts:
            waiting = self._waiting(column, row)
            scale, content = _columns(np.frombuffer(waiting.read_bytes(), self._record))
            name = f"{self.folder.name}/{column}_{row}"
            text = f'muse.receive("{name}",{scale:.8g},"{base64.b64encode(content).decode()}");\n'
            waiting.with_suffix(".js").write_text(text, encoding="ascii")
            waiting.unlink()
        index = [
            [*square, n]
            for square, n in sorted(self._counts.items(), key=lambda item: item[0][::-1])
        ]
        return {"side_um": CHUNK_UM, "n_rays": self._record["rays"].shape[0], "index": index}

    def _waiting(self, column: int, row: int) -> Path:
        return self.folder / f"{column}_{row}.records"


def _columns(records: np.ndarray) -> tuple[float, bytes]:
    """The um per step of the rays, and all columns; rays take a byte each, relative to the longest
    ray in the chunk.
    """
    longest = max(int(records["rays"].max(initial=0)), 1)
    rays = np.round(records["rays"] * (255 / longest)).astype(np.uint8)
    names = ("row", "x", "y", "label", "score", "sureness")
    return longest * _RAY_UM / 255, b"".join(
        [*(records[name].tobytes() for name in names), rays.tobytes()]
    )


class Overview:
    """An overview of the ``n_nuclei`` nuclei of a table, gathered batch by batch."""

    def __init__(self, info: SlideInfo, n_classes: int, n_nuclei: int):
        self.info, self.n_classes, self.n_nuclei = info, n_classes, n_nuclei
        size_um = np.asarray(info.size_px) * info.mpp
        self._columns, self._rows = np.maximum(np.ceil(size_um / GRID_UM), 1).astype(int)
        # Nuclei in totals by class and score; the last row is for nuclei without a class.
        self.histogram = np.zeros((n_classes + 1, SCORE_BINS), int)
        self._cells: dict[int, np.ndarray] = {}
        self._sample: list[np.ndarray] = []

    def add(self, batch: Batch) -> None:
        """Count nuclei, except those that totals leave out, and add a sample of all nuclei."""
        counted = batch.is_counted
        plane = np.minimum(batch.label[counted], self.n_classes).astype(int)
        score = batch.score_level[counted].astype(int) * SCORE_BINS // SCORE_LEVELS
        kind = plane * SCORE_BINS + score
        self.histogram += np.bincount(kind, minlength=self.histogram.size).reshape(
            self.histogram.shape
        )
        last = self._columns - 1, self._rows - 1
        column, row = (
            np.floor(batch.xy[counted] * self.info.mpp / GRID_UM).astype(int).clip(0, last).T
        )
        cells, inverse = np.unique(row * self._columns + column, return_inverse=True)
        counts = np.bincount(
            inverse * self.histogram.size + kind, minlength=len(cells) * self.histogram.size
        )
        for cell, new in zip(cells.tolist(), counts.reshape(len(cells), -1), strict=True):
            self._cells[cell] = np.minimum(self._cells.get(cell, 0) + new, 255).astype(np.uint8)
        chosen = batch.rank < min(1.0, N_SAMPLE / max(self.n_nuclei, 1)) * 2**32
        dots = np.zeros(
            int(chosen.sum()), [("x", "<u2"), ("y", "<u2"), ("label", "u1"), ("score", "u1")]
        )
        xy = (batch.xy[chosen] / self.info.size_px * 65535).clip(0, 65535).round()
        dots["x"], dots["y"] = xy.T
        dots["label"], dots["score"] = batch.label[chosen], batch.score_level[chosen]
        self._sample.append(dots)

    def write(self, path: Path) -> dict[str, Any]:
        """Write the grid and the sample as a script, and return what the page needs to read
        them.
        """
        cells = np.array(sorted(self._cells), "<u4")
        counts = (
            np.stack([self._cells[cell] for cell in cells.tolist()])
            if len(cells)
            else np.zeros(0, np.uint8)
        )
        dots = np.concatenate(self._sample) if self._sample else np.zeros(0, [("x", "<u2")])
        sample = b"".join(dots[name].tobytes() for name in dots.dtype.names)
        texts = [
            base64.b64encode(part).decode() for part in (cells.tobytes(), counts.tobytes(), sample)
        ]
        path.write_text(
            f'muse.receiveOverview("{texts[0]}","{texts[1]}","{texts[2]}");\n', encoding="ascii"
        )
        return {
            "cell_um": GRID_UM,
            "columns": int(self._columns),
            "rows": int(self._rows),
            "n_cells": len(cells),
            "n_sample": len(dots),
            "histogram": self.histogram.tolist(),
        }


class Gallery:
    """Collects for every class the surest nuclei, the least sure nuclei, and some random nuclei."""

    def __init__(self, n_classes: int):
        self._best: dict[tuple[int, str], np.ndarray] = {}
        self._labels = range(n_classes)

    def add(self, batch: Batch) -> None:
        """Keep those nuclei of the batch that rank among the first ``N_GALLERY`` of their kind so
        far.
        """
        orders = {
            "surest": -batch.sureness,
            "least sure": batch.sureness,
            "random": batch.rank.astype(float),
        }
        for label in self._labels:
            own = np.flatnonzero(batch.label == label)
            for kind, order in orders.items():
                rows = np.column_stack(
                    [order[own], batch.row[own], batch.xy[own], batch.sureness[own]]
                )
                rows = np.concatenate([self._best.get((label, kind), rows[:0]), rows])
                self._best[label, kind] = rows[np.lexsort((rows[:, 1], rows[:, 0]))[:N_GALLERY]]

    def entries(self) -> list[dict[str, Any]]:
        """Class, kind and nuclei of each group: row, position in absolute level-0 px and sureness
        of each nucleus.
        """
        return [
            {
                "label": label,
                "kind": kind,
                "nuclei": [[int(row[1]), *np.round(row[2:], 3).tolist()] for row in rows],
            }
            for (label, kind), rows in self._best.items()
            if len(rows)
        ]
