"""Read and check sheets of slides (TSV or CSV, one row per slide)."""

from __future__ import annotations

import csv
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from muse_pipeline.cohort.layout import BESIDE_SLIDES
from muse_pipeline.core.content import name_content
from muse_pipeline.core.errors import LeftOutWarning, MppError, SheetError
from muse_pipeline.core.files import read_json
from muse_pipeline.core.specimen import STAINS, describe_organ_fault, name_stain
from muse_pipeline.core.text import (
    decimal_point,
    find_similar,
    most_frequent_separator,
    one_line,
    some_of,
)
from muse_pipeline.slides.mpp import require_mpp
from muse_pipeline.slides.remote import SlideUrl, is_url, url_problem

FILES = ("path", "roi", "regions", "partner", "partner_transform")
# in a row of `sheet.json` only if filled
NEWER = ("regions", "partner", "partner_transform", "organ", "stain")
REQUIRED = ("slide_id", "path")
MISSING = frozenset(
    {"NA", "N/A", "n/a", "#N/A", "#NA", "#NV", "<NA>", "NaN", "nan", "NULL", "null"}
)  # as written by R, pandas and Excel
# compared without regard to case
NO_PATIENT = {"none", "unknown", "missing", *(word.casefold() for word in MISSING)}

# A slide_id is the name of a folder, the value of a Snakemake wildcard and part of shell commands.
ID_MAX_BYTES = 120
ID_FORBIDDEN = frozenset("/\\{}'\"`$&;|<>*?!#%~^:")
MAX_SHARDS = 10_000

_UM = "(um|microns?|micromet(er|re)s?)"
# names of the column mpp
MPP = re.compile(rf"mpp{_UM}?|{_UM}(per)?(px|pixels?)|(px|pixel)(size|width|spacing){_UM}?")


def _column(text: str, kind: str = "string", **limits: Any) -> Any:
    """A column that may be empty, with its part of the sheet's schema."""
    schema = {"type": [kind, "null"], **limits, "description": text}
    return field(default=None, metadata=schema)


def _required(text: str) -> Any:
    return field(metadata={"type": "string", "minLength": 1, "description": text})


@dataclass(frozen=True)
class SheetRow:
    """A slide of the cohort."""

    slide_id: str = _required("name of the slide; no two in a sheet may differ only in case")
    path: str = _required("absolute path of the slide, or its URL")  # a ``SlideUrl``
    mpp: float | None = _column(
        "um per level-0 pixel; null to use the value in the file", "number", exclusiveMinimum=0
    )
    patient: str | None = _column("patient of the slide")
    roi: str | None = _column("absolute path of a GeoJSON that limits the analysis")
    split: str | None = _column("part of the cohort: train, val or any other name")
    shards: int | None = _column(
        "number of jobs into which detection is divided; null to use the number in the config",
        "integer",
        minimum=1,
    )
    regions: str | None = _column("absolute path of a GeoJSON of tissue areas with classes")
    partner: str | None = _column("absolute path of a second picture of the same tissue")
    partner_transform: str | None = _column(
        "absolute path of landmarks, a matrix or a transform.json that registration starts from"
    )
    label: str | None = _column("class of the slide, for training region models")
    organ: str | None = _column("organ, which decides which classes were measured in it")
    stain: str | None = _column(
        "stain; null means unknown: the colours decide", enum=[*STAINS, None]
    )
    # cells of columns that the user has added, keyed by the column's name; an empty cell is None
    own: dict[str, str | None] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary of all columns, the user's own too, but not ``label`` and empty
        ones in ``NEWER``.
        """
        left_out = {"label", *(name for name in NEWER if getattr(self, name) is None)}
        return {name: value for name, value in self.cells().items() if name not in left_out}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> SheetRow:
        """Make a row from a dictionary that ``to_dict`` or ``cells`` returned."""
        columns = {name: value for name, value in row.items() if name in COLUMNS}
        return cls(
            **columns, own={name: value for name, value in row.items() if name not in COLUMNS}
        )

    def complete(self, organ: str | None, stain: str | None) -> SheetRow:
        """The row with an organ and a stain that apply to slides whose row does not state them."""
        return replace(self, organ=self.organ or organ, stain=self.stain or stain)

    def cells(self) -> dict[str, Any]:
        """The values of all columns, including the user's own."""
        values = asdict(self)
        return values | values.pop("own")


_COLUMNS = tuple(column for column in fields(SheetRow) if column.metadata)
COLUMNS = tuple(column.name for column in _COLUMNS)
OF_EVALUATION = "region"  # a column of the sheets of `muse evaluate`, not a misspelt "regions"
RESERVED = {"_index", "__categories", "."}  # names that AnnData and HDF5 do not allow for columns


def sheet_schema() -> dict[str, Any]:
    """JSON schema of the resolved sheet, whose ``slides`` are its rows."""
    row = {
        "type": "object",
        "required": list(REQUIRED),
        "properties": {column.name: dict(column.metadata) for column in _COLUMNS},
        "additionalProperties": {"type": ["string", "null"]},  # columns of the user
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Slides of a run",
        "type": "object",
        "properties": {"slides": {"type": "array", "items": row}},
    }


def name_own(names: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """Unique names of the user's own columns in tables of results, keyed by their names in the
    sheet.

    "sheet_" is put before a name that is ``taken`` by another column, or reserved.
    """
    used, named = {*taken, *RESERVED}, dict.fromkeys(names, "")
    # a name that is free stays as it is
    for name in sorted(named, key=lambda name: one_line(name) in used):
        new = one_line(name)
        while new in used:
            new = f"sheet_{new}"
        used.add(new)
        named[name] = new
    return named


def is_sheet(path: Path) -> bool:
    """True if a file is a sheet of slides: it ends in .tsv, .csv or .json, or its first line
    contains ``slide_id``.
    """
    if path.suffix.lower() in {".tsv", ".csv", ".json"}:
        return True
    return REQUIRED[0].encode() in _first_line(path)


def read_sheet(path: Path | str) -> list[SheetRow]:
    """Read and check a sheet, or read the resolved sheet of a run (JSON); relative paths are
    relative to its folder.
    """
    path = Path(path)
    if path.suffix == ".json":
        return [SheetRow.from_dict(row) for row in read_resolved(path)]
    header, records = read_table(path)
    problems = list(_header_problems(header))
    if problems:
        raise _sheet_error(path, problems)
    rows = []
    for number, values, doubled in _values_by_row(header, records):
        row_problems = [*_row_problems(values, path.parent), *doubled]
        problems += [f"row {number}: {problem}" for problem in row_problems]
        if not row_problems:
            rows.append(_parse_row(values, path.parent))
    if not records:
        problems.append(
            "no slide in it; add a row per slide, or write one with `muse sheet FOLDER`"
        )
    if problems:
        raise _sheet_error(path, problems)
    return rows


def read_resolved(path: Path) -> list[dict[str, Any]]:
    """The rows of a resolved sheet."""
    try:
        rows = read_json(path)
    except (OSError, ValueError) as error:
        raise SheetError(
            f"{path}: not readable as JSON ({error}); write it with `muse sheet --check`"
        ) from error
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and _is_row(row) for row in rows
    ):
        raise SheetError(
            f"{path}: expected a list of rows, each with a slide_id; write it with `muse sheet"
            " --check`"
        )
    return rows


def _is_row(row: dict[str, Any]) -> bool:
    """True if ``slide_id`` can name a folder within the results and ``shards`` is an integer or
    missing.
    """
    name, n_shards = row.get("slide_id"), row.get("shards")
    is_folder = (
        isinstance(name, str) and name not in {"", ".", ".."} and not set("/\\\0") & set(name)
    )
    return (
        is_folder
        and len(name.encode(errors="replace")) < 256
        and (n_shards is None or type(n_shards) is int)
    )


def read_row(path: Path | str, slide_id: str) -> SheetRow:
    """Read and check the row of one slide; the other rows of the sheet are not checked."""
    path = Path(path)
    header, records = read_table(path)
    for number, cells in records:
        values = dict(zip(header, cells, strict=False))
        if values.get("slide_id") == slide_id:
            if problems := [
                f"row {number}: {problem}" for problem in _row_problems(values, path.parent)
            ]:
                raise _sheet_error(path, problems)
            return _parse_row(values, path.parent)
    raise SheetError(f"{path}: has no slide '{slide_id}'; check its column slide_id")


def id_problem(slide_id: str) -> str | None:
    """The reason why a name cannot be a slide_id; None if it can."""
    forbidden = sorted(ID_FORBIDDEN.intersection(slide_id))
    checks = (
        (not slide_id, "is empty"),
        (not slide_id.isprintable(), "has characters that cannot be printed"),
        (forbidden, f"contains {' '.join(forbidden)}, which is not allowed in folders and shells"),
        (slide_id.startswith(("-", ".", " ")), "begins with a dash, a dot or a space"),
        (slide_id.endswith((".", " ")), "ends with a dot or a space"),
        (
            len(slide_id.encode(errors="replace")) > ID_MAX_BYTES,
            f"is longer than {ID_MAX_BYTES} bytes",
        ),
        (slide_id.casefold() in BESIDE_SLIDES, "is the name of a file among the results"),
    )
    shown = repr(_show(slide_id))
    return next((f"slide_id {shown} {problem}" for wrong, problem in checks if wrong), None)


def read_table(
    path: Path, kept: Collection[str] = ()
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Read the header, and the row numbers and stripped cells of all rows that are not blank.

    The header has the names in ``COLUMNS`` for columns that have such a name in another spelling
    (``find_column``), unless their name in the file is in ``kept``. A word for a missing value
    (``is_missing``) becomes an empty cell, with a warning. A warning also names patients that
    differ only in case. In tables with semicolons, ``mpp`` may have a decimal comma.
    """
    if what := name_content(path):
        raise SheetError(f"{path}: {what}")
    separator = find_separator(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [
                [cell.strip() for cell in row]
                for row in csv.reader(file, delimiter=separator, strict=True)
            ]
    except OSError as error:
        raise SheetError(
            f"{path}: cannot be read ({error.strerror}); `muse sheet FOLDER --output {path}`"
            " writes one"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SheetError(
            f"{path}: is not a TSV or CSV table in UTF-8 ({error}); save it as one"
        ) from error
    filled = [(number, row) for number, row in enumerate(rows, 1) if any(row)]
    if not filled:
        raise SheetError(
            f"{path}: is empty; write a sheet with `muse sheet FOLDER --output {path.name}`"
        )
    header = [name if name in kept else find_column(name) for name in filled[0][1]]
    for column in {*header} & {*COLUMNS}:
        names = {
            name: None
            for name, heading in zip(filled[0][1], header, strict=True)
            if heading == column
        }
        if len(names) > 1:
            raise SheetError(
                f"{path}: row 1: the columns {' and '.join(names)} mean '{column}'; keep one of"
                " them"
            )
    records = _empty_missing(path, header, filled[1:])
    for _, cells in records:
        for index in (index for index, name in enumerate(header[: len(cells)]) if name == "mpp"):
            cells[index] = decimal_point(cells[index], separator)
    _warn_of_patients(path, header, records)
    return header, records


def find_separator(path: Path) -> str:
    """The separator of a sheet's columns: the most frequent of tab, comma and semicolon in its
    first line.
    """
    line = _first_line(path).decode(errors="replace")
    usual = "," if path.suffix.lower() == ".csv" else "\t"
    return most_frequent_separator(line, usual)


def is_missing(column: str, cell: str) -> bool:
    """True for words that R, pandas and Excel write for a missing value, and for a few more in two
    columns.

    A dash or a question mark is a missing patient, label, organ or stain. "None", "unknown" and
    "missing", in upper or lower case, are missing patients, but valid labels.
    """
    if cell in {"-", "?"}:
        return column in {"patient", "label", "organ", "stain"}
    return cell in MISSING or (column == "patient" and cell.casefold() in NO_PATIENT)


def _empty_missing(
    path: Path, header: list[str], records: list[tuple[int, list[str]]]
) -> list[tuple[int, list[str]]]:
    emptied = Counter()
    for _, cells in records:
        for index, (name, cell) in enumerate(zip(header, cells, strict=False)):
            if name not in REQUIRED and is_missing(name, cell):
                emptied[name, cell] += 1
                cells[index] = ""
    if emptied:
        words = some_of(
            [f"'{cell}' in column '{name}' (rows: {n})" for (name, cell), n in emptied.items()]
        )
        warnings.warn(f"{path}: read as a missing value: {words}", LeftOutWarning, stacklevel=3)
    return records


def _warn_of_patients(path: Path, header: list[str], records: list[tuple[int, list[str]]]) -> None:
    """Warn of patients whose names differ only in case."""
    spellings = {}
    for _, cells in records:
        patient = dict(zip(header, cells, strict=False)).get("patient", "")
        spellings.setdefault(patient.casefold(), {})[patient] = None
    if alike := [
        " and ".join(f"'{_show(name)}'" for name in names)
        for names in spellings.values()
        if len(names) > 1
    ]:
        message = (
            f"{path}: patients whose names differ only in case count as different patients:"
            f" {some_of(alike)}"
        )
        warnings.warn(message, LeftOutWarning, stacklevel=3)


def read_cells(path: Path, *columns: str, key: str = "slide_id") -> dict[str, dict[str, str]]:
    """Read the cells of all rows, keyed by the row's cell in the column ``key`` and then by
    column.
    """
    header, records = read_table(path, (key, *columns))
    for name in (key, *columns):
        if name not in header:
            raise SheetError(f"{path}: has no column '{name}'; its columns are {', '.join(header)}")
    rows = list(_values_by_row(header, records, key))
    problems = [f"row {number}: {problem}" for number, _, doubled in rows for problem in doubled]
    if problems := [*_doubled_columns(header), *problems]:
        raise _sheet_error(path, problems)
    for name in header:
        if near := _near_column(name, header):
            message = (
                f"{path}: column '{_show(name)}' is kept as one of your own; did you mean '{near}'?"
            )
            warnings.warn(message, LeftOutWarning, stacklevel=2)
    return {values.get(key, ""): values for _, values, _ in rows}


def _values_by_row(
    header: list[str], records: list[tuple[int, list[str]]], column: str = "slide_id"
) -> Iterator[tuple[int, dict[str, str], list[str]]]:
    """Yield each row's number, its cells keyed by column, and its problems: too many cells, or a
    repeated key.
    """
    seen = {}
    for number, cells in records:
        values = dict(zip(header, cells, strict=False))
        row_problems = (
            [f"{len(cells)} cells where the header has {len(header)}"]
            if len(cells) > len(header)
            else []
        )
        key = folder_key(values.get(column, ""))
        if key and seen.setdefault(key, number) != number:
            same = "folder" if column == "slide_id" else column
            row_problems.append(
                f"{column} '{_show(values[column])}' names the same {same} as that of row"
                f" {seen[key]}"
            )
        yield number, values, row_problems


def _header_problems(header: list[str]) -> Iterator[str]:
    yield from _doubled_columns(header)
    for name in REQUIRED:
        if name not in header:
            meant = [other for other in header if _near_column(other, header) == name]
            yield f"row 1: column '{name}' is missing" + "".join(
                f"; is it '{_show(column)}'?" for column in meant[:1]
            )
    for name in header:
        if (near := _near_column(name, header)) and near not in REQUIRED:
            yield (
                f"row 1: column '{_show(name)}': did you mean '{near}'? A column of your own needs"
                " another name"
            )


def _doubled_columns(header: list[str]) -> Iterator[str]:
    for name in dict.fromkeys(filter(None, header)):
        if header.count(name) > 1:
            yield f"row 1: column '{_show(name)}' occurs {header.count(name)} times"


def find_column(name: str) -> str:
    """The name in ``COLUMNS`` that ``name`` is in another case, with other separators, or as a
    synonym; else itself.
    """
    plain = _letters(name)
    if MPP.fullmatch(plain):
        return "mpp"
    return next((column for column in COLUMNS if _letters(column) == plain), name)


def _letters(name: str) -> str:
    """Letters and digits of a name in lower case, with u for micro."""
    return re.sub(r"[\W_]", "", name.casefold().replace("\N{GREEK SMALL LETTER MU}", "u"))


def _near_column(name: str, header: list[str]) -> str | None:
    """The column that the unknown ``name`` may misspell; None if no column is similar, or the
    header contains it.
    """
    if find_column(name) in (*COLUMNS, OF_EVALUATION):
        return None
    word = _letters(name)
    of_column = {_letters(column): column for column in COLUMNS} | dict.fromkeys(
        ("umperpx", "umperpixel", "pixelsize"), "mpp"
    )
    # a different letter of five, or a missing one of four
    similar = find_similar(word, of_column, cutoff=0.8)
    # Words of three letters have too many similar ones, so all letters must be the same.
    short = [
        column
        for column in of_column
        if len(column) == 3 and len(word) <= 4 and {*word} == {*column}
    ]
    columns = [of_column[name] for name in (similar, *short) if name]
    return next((column for column in columns if column not in header), None)


def _first_line(path: Path) -> bytes:
    """The first line, at most 1,000 bytes; empty if the file cannot be read, which is reported by
    later readers.
    """
    with suppress(OSError), path.open("rb") as file:
        return file.readline(1000)
    return b""


def _row_problems(values: dict[str, str], folder: Path) -> Iterator[str]:
    if problem := id_problem(values.get("slide_id", "")):
        yield problem
    if not values.get("path"):
        yield "path is empty"
    for column in FILES:
        if (cell := values.get(column)) and (problem := _location_problem(cell, column, folder)):
            yield f"{column} '{_show(cell)}': {problem}"
    if values.get("partner_transform") and not values.get("partner"):
        yield "partner_transform is given without a partner"
    if values.get("partner") and values["partner"] == values.get("path"):
        yield "partner is the slide itself; give a different picture of the same tissue"
    if cell := values.get("mpp"):
        if mpp := _parse_mpp(cell):
            try:
                require_mpp(mpp)
            except MppError as error:
                yield str(error)
        else:
            yield f"mpp '{_show(cell)}' is not a positive number of um per pixel, such as 0.25"
    if (cell := values.get("stain")) and not name_stain(cell):
        yield (
            f"stain '{_show(cell)}' is none of {', '.join(STAINS)}; write unknown to let the"
            " colours decide"
        )
    yield from filter(None, [describe_organ_fault(values.get("organ") or "")])
    if (cell := values.get("shards")) and not _parse_shards(cell):
        yield f"shards '{_show(cell)}' is not a whole number from 1 to {MAX_SHARDS:,}"


def _parse_row(values: dict[str, str], folder: Path) -> SheetRow:
    def locate(cell: str) -> str:
        return SlideUrl(cell) if is_url(cell) else str(absolute_path(cell, folder))

    parsers = {"mpp": _parse_mpp, "shards": _parse_shards, "stain": name_stain}
    parsers |= dict.fromkeys(FILES, locate)
    filled = {name: cell for name, cell in values.items() if cell and name in COLUMNS}
    row = {name: parsers.get(name, str)(cell) for name, cell in filled.items()}
    own = {name: cell or None for name, cell in values.items() if name and name not in COLUMNS}
    return SheetRow(**row, own=own)


def absolute_path(cell: str, folder: Path) -> Path:
    """Return the absolute path for a cell of a sheet in ``folder``; the cell may be a Windows path.

    Links are not resolved, since a MIRAX slide needs the folder next to its link.
    """
    if "\\" in cell and not (folder / cell).exists():
        cell = cell.replace("\\", "/")
    with suppress(RuntimeError):  # ~ with an unknown user
        return (folder / Path(cell).expanduser()).absolute()
    return (folder / cell).absolute()


def _location_problem(cell: str, column: str, folder: Path) -> str | None:
    """The reason why the file or URL in ``cell`` is unusable; None if it is usable or only a server
    can tell.
    """
    if is_url(cell):
        if column == "path":
            return url_problem(cell)
        return "is a URL, but only slides are fetched; copy the file here"
    path = absolute_path(cell, folder)
    try:
        if path.is_file():
            return None
        return f"is a folder, not a file ({path})" if path.is_dir() else f"no such file ({path})"
    except OSError as error:  # a name that the file system rejects
        return f"no such file ({error.strerror})"


def _show(cell: str) -> str:
    """A cell as it is shown in messages: shortened, and without the credentials of a URL."""
    text = SlideUrl(cell) if is_url(cell) else cell
    return text if len(text) <= 60 else f"{text[:60]}..."


def _parse_mpp(cell: str) -> float | None:
    positive = re.fullmatch(r"\d*\.?\d+(e-?\d+)?", cell, re.ASCII | re.IGNORECASE)
    return (float(cell) or None) if positive and float(cell) < float("inf") else None


def _parse_shards(cell: str) -> int | None:
    if re.fullmatch(r"[1-9]\d{0,4}", cell, re.ASCII) and int(cell) <= MAX_SHARDS:
        return int(cell)
    return None


def folder_key(slide_id: str) -> str:
    """A key that is equal for names that some file systems consider to be the same folder."""
    return unicodedata.normalize("NFC", slide_id).casefold()


def _sheet_error(path: Path, problems: list[str]) -> SheetError:
    if len(problems) == 1:
        return SheetError(f"{path}: {problems[0]}")
    return SheetError("\n  ".join([f"{path}: {len(problems)} problems:", *problems]))
