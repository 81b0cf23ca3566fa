"""Points from text: one nucleus a line, two pixel indices and a class."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from muse_pipeline.coords import row_column_index_to_xy, xy_index_to_xy
from muse_pipeline.data.annotations import Annotations, class_index
from muse_pipeline.data.label_files import read_lines
from muse_pipeline.data.label_source import LabelSource
from muse_pipeline.errors import LabelError
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.types import Frame

TO_XY = {"row column class": row_column_index_to_xy, "x y class": xy_index_to_xy}


def read_text(
    path: Path, source: LabelSource, classes: tuple[str, ...], frame: Frame, n_rays: int, order: str | None = None
) -> Annotations:
    """Read a text file whose lines are separated by tabs, commas or blanks, as the first line is.

    Args:
        path: the file.
        source: gives the format and the class map.
        classes: of the model.
        frame: whose pixels the file counts, from 0.
        n_rays: rays per nucleus, all unknown.
        order: in place of the source's format.

    Raises:
        LabelError: a line is not two numbers and a class, or a header does not name the format's columns.
    """
    order = order or source.format
    lines = [(number, line) for number, line in enumerate(read_lines(path), 1) if line.strip()]
    separator = next((mark for mark in "\t," if lines and mark in lines[0][1]), None)
    columns, n_columns = (0, 1, 2), 3
    indices, labels, places = [], [], []
    for number, line in lines:
        cells, where = [cell.strip() for cell in line.split(separator)], f"{path}, line {number}"
        if (number, line) == lines[0] and not _is_number(cells[0]):
            columns, n_columns = _header_columns(cells, order, where), len(cells)
            continue
        if len(cells) != n_columns:
            raise LabelError(f"{where}: expected {_expected(order, n_columns)}, found '{line[:80]}'; correct it")
        first, second, word = (cells[column] for column in columns)
        if not (_is_number(first) and _is_number(second)):
            raise LabelError(f"{where}: expected {order}, found '{line[:80]}'; the first two must be numbers")
        indices.append((float(first), float(second)))
        labels.append(class_index(word, source, classes, where))
        places.append(number)
    nuclei = Nuclei(
        TO_XY[order](np.array(indices, float).reshape(-1, 2)),
        frame,
        rays=np.full((len(labels), n_rays), np.nan, np.float32),
        label=np.array(labels, np.int32),
    )
    return Annotations(path, nuclei, np.array(places, int), "line", np.zeros(0, object))


def _header_columns(cells: list[str], order: str, where: str) -> tuple[int, ...]:
    """Where the columns of ``order`` are; a first line with other words in it is no header that could be guessed."""
    names, needed = [cell.lower() for cell in cells], order.split()
    if any(names.count(name) != 1 for name in needed):
        raise LabelError(
            f"{where}: found '{' '.join(cells)[:80]}' where {order} is expected; name these columns in a header, once "
            "each, or begin with the first nucleus"
        )
    return tuple(names.index(name) for name in needed)


def _expected(order: str, n_columns: int) -> str:
    return order if n_columns == 3 else f"{n_columns} values, as in the header"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
