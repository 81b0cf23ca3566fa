"""Collect the slides of a cohort from files, URLs, folders and sheets, and write them to a sheet,
one row per slide.
"""

import csv
import io
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.sheet import (
    ID_FORBIDDEN,
    ID_MAX_BYTES,
    SheetRow,
    absolute_path,
    find_separator,
    folder_key,
    id_problem,
    is_sheet,
    read_sheet,
    read_table,
)
from muse_pipeline.core.errors import ConfigError, LeftOutWarning, SheetError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.text import count_noun, some_of
from muse_pipeline.slides.remote import SlideUrl, is_url, url_problem
from muse_pipeline.slides.signature import (
    PICTURE_SUFFIXES,
    TIFF_SUFFIXES,
    ZARR,
    is_zarr,
    name_problem,
)

SLIDE_SUFFIXES = {
    *TIFF_SUFFIXES,
    *(".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".dcm", ".czi"),
}
# text, tables, results, and files that accompany slides
NOT_SLIDES = {
    *(".txt", ".md", ".csv", ".tsv", ".xlsx", ".json", ".geojson", ".xml", ".html", ".pdf", ".log"),
    *(".yaml", ".yml", ".h5ad", ".parquet", ".opt", ".ini", ".dat"),
}
# DICOM tag (0020,000E), its type and its length
_SERIES_UID = re.compile(rb"\x20\x00\x0e\x00UI(..)", re.DOTALL)
Location = Path | SlideUrl


def find_rows(
    paths: Sequence[Path | str],
    mpp: float | None = None,
    roi: Path | None = None,
    regions: Path | None = None,
) -> list[SheetRow]:
    """Collect the rows of slides, URLs, folders and sheets, in the given order; a slide given twice
    has one row.

    Slides of the same name are named after their folders, too; rows of sheets keep their names.
    ``roi`` and ``regions`` are GeoJSON files for slides that are given directly, and ``mpp`` is
    also for slides in folders.
    """
    given = {"mpp": mpp, "roi": roi, "regions": regions}
    given = {name: value for name, value in given.items() if value is not None}
    kinds = {path: _kind(path) for path in paths}
    named = iter(name_slides([path for path in kinds if kinds[path] == "slide"], mpp, roi, regions))
    rows = []
    of_sheets = set()  # indices of rows that keep their names
    for path, kind in kinds.items():
        for name in given if kind != "slide" else ():
            if kind == "sheet":
                raise ConfigError(
                    f"--{name} is for slides; {path} is a sheet, which has a column for it"
                )
            if name != "mpp":
                raise ConfigError(
                    f"--{name} is for slides, not folders; write a sheet (`muse sheet`) with a"
                    f" column {name}"
                )
        if kind == "slide":
            rows.append(next(named))
        elif kind == "folder":
            rows += collect_slides(path, mpp)
        else:
            own = read_sheet(path)
            of_sheets |= {*range(len(rows), len(rows) + len(own))}
            rows += own
    names = _names_apart([row for i, row in enumerate(rows) if i not in of_sheets])
    return _unique_rows(
        row if i in of_sheets else replace(row, slide_id=names[row.path])
        for i, row in enumerate(rows)
    )


def _kind(path: Path | str) -> str:
    if is_url(str(path)):
        return "slide"
    return "folder" if Path(path).is_dir() else "sheet" if is_sheet(Path(path)) else "slide"


def _names_apart(rows: Sequence[SheetRow]) -> dict[str, str]:
    """Names of slides, keyed by path; a ``slide_id`` that several slides have is extended by their
    folders.
    """
    ids = {row.path: row.slide_id for row in rows}
    locations = list(map(_parse_location, ids))
    slides = [_identity(one) if isinstance(one, Path) else one for one in locations]
    n_of_key = Counter(key for key, _ in {*zip(map(folder_key, ids.values()), slides, strict=True)})
    apart = _unique_names(_paths_within(locations))
    chosen = [
        new if n_of_key[folder_key(own)] > 1 else own
        for own, new in zip(ids.values(), apart, strict=True)
    ]
    return dict(zip(ids, _number(chosen), strict=True))


def _paths_within(locations: Sequence[Location]) -> list[Path]:
    """Paths relative to their common folder, from which unique names are made; for a URL, its host,
    folders and file name.
    """
    folders = [location.parent for location in locations if isinstance(location, Path)]
    home, paths = os.path.commonpath(folders or ["/"]), []
    for location in locations:
        if isinstance(location, Path):
            paths.append(location.relative_to(home))
        else:
            parts = urlsplit(location)
            path = Path(parts.netloc, parts.path.strip("/"))
            paths.append(path.with_name(location.file_name))
    return paths


def _unique_rows(rows: Iterable[SheetRow]) -> list[SheetRow]:
    unique = {}
    for row in rows:
        other = unique.setdefault(folder_key(row.slide_id), row)
        if other.path != row.path:
            raise SheetError(
                f"slide_id '{row.slide_id}' belongs to {other.path} and {row.path}; give each slide"
                " its own in a sheet (`muse sheet` writes a sheet from a folder)"
            )
    return list(unique.values())


def collect_slides(folder: Path | str, mpp: float | None = None) -> list[SheetRow]:
    """Make a row for every slide under ``folder``, sorted by path.

    Hidden files and folders, and result folders (those with a slide.json), are skipped. A DICOM
    series has one row. PNG, JPEG and JPEG 2000 files, which state no mpp, are included only if
    ``mpp`` is given.

    Warns:
        LeftOutWarning: some files have a suffix that is neither that of a slide nor in
            ``NOT_SLIDES``.
    """
    # Links inside it are not resolved: a MIRAX slide needs the folder next to its link.
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise SheetError(
            f"{folder}: is not a folder; give the folder of your slides, not a pattern or a file"
        )
    if is_zarr(folder):
        raise SheetError(f"{folder}: {ZARR}")
    suffixes = SLIDE_SUFFIXES | PICTURE_SUFFIXES if mpp else SLIDE_SUFFIXES
    files = _walk(folder)
    slides = sorted(_one_per_series([path for path in files if path.suffix.lower() in suffixes]))
    others = sorted(path for path in files if path.suffix.lower() not in suffixes | NOT_SLIDES)
    left_out = []
    if others:
        names = [os.fsencode(path.relative_to(folder)).decode(errors="replace") for path in others]
        left_out = [f"{count_noun(len(others), 'file')} left out: {some_of(names)}"]
        if any(path.suffix.lower() in PICTURE_SUFFIXES for path in others):
            left_out.append("pictures are included only with --mpp")
    if not slides:
        formats = f"{' '.join(sorted(SLIDE_SUFFIXES))}; pictures only with --mpp"
        raise SheetError("; ".join([f"{folder}: no slide in it ({formats})", *left_out]))
    _require_unicode(slides)
    if left_out:
        warnings.warn(f"{folder}: {'; '.join(left_out)}", LeftOutWarning, stacklevel=2)
    names = _unique_names([path.relative_to(folder) for path in slides])
    return [SheetRow(name, str(path), mpp) for name, path in zip(names, slides, strict=True)]


def name_slides(
    files: Sequence[Path | str],
    mpp: float | None = None,
    roi: Path | None = None,
    regions: Path | None = None,
) -> list[SheetRow]:
    """Make a row for each path or URL in ``files``, all with the same ``mpp``, ``roi`` and
    ``regions``.
    """
    locations = [_parse_location(file) for file in files]
    _require_unicode(location for location in locations if isinstance(location, Path))
    areas = {"roi": roi and str(roi.absolute()), "regions": regions and str(regions.absolute())}
    names = _unique_names(_paths_within(locations))
    return [
        SheetRow(name, str(one) if isinstance(one, Path) else one, mpp, **areas)
        for name, one in zip(names, locations, strict=True)
    ]


def write_sheet(path: Path | str, rows: Iterable[SheetRow]) -> None:
    """Write a sheet with the columns that the rows use, and those in which a user states what no
    file contains.

    Paths under the sheet's own folder become relative to it.
    """
    path = Path(path)
    rows = list(rows)
    require_new_sheet(path)
    used = [name for name in ("mpp", "patient", "roi") if any(vars(row)[name] for row in rows)]
    # A map of cores has columns of its own, and may also have organ and stain.
    own = [name for row in rows for name in row.own]
    columns = list(dict.fromkeys(["slide_id", "path", *used, "organ", "stain", *own]))
    with complete_file(path) as partial:
        partial.write_bytes(_text_of([columns, *_cells_of(rows, columns, path)], path))


def require_new_sheet(path: Path) -> None:
    """Check that there is no sheet at ``path``."""
    if path.exists():
        raise SheetError(
            f"{path}: exists already; `muse sheet FOLDER --output {path} --add` adds the slides"
            " that it lacks"
        )


def add_to_sheet(path: Path | str, rows: Iterable[SheetRow]) -> list[SheetRow]:
    """Append the rows of slides that are not in the sheet yet, and return them.

    A slide whose name is taken gets a suffix, as in ``name-2``.
    """
    path = Path(path)
    header, records = read_table(path)
    there = [dict(zip(header, cells, strict=False)) for _, cells in records]
    present = {_identity(absolute_path(cells.get("path", ""), path.parent)) for cells in there}
    new = [row for row in rows if _identity(Path(row.path)) not in present]
    for name in ("slide_id", "path", *(["mpp"] if any(row.mpp for row in new) else [])):
        if name not in header:
            raise SheetError(
                f"{path}: has no column '{name}', which the new rows need; add it to the first row"
            )
    ids = [cells["slide_id"] for cells in there]
    names = _number([*ids, *(row.slide_id for row in new)])[len(ids) :]
    new = [replace(row, slide_id=name) for row, name in zip(new, names, strict=True)]
    if new:
        text = path.read_bytes()
        end = "\r\n" if b"\r\n" in text else "\n"
        with complete_file(path.resolve()) as partial:
            text += b"" if text.endswith(b"\n") else end.encode()
            partial.write_bytes(text + _text_of(_cells_of(new, header, path), path, end))
    return new


def _cells_of(rows: Iterable[SheetRow], columns: Sequence[str], path: Path) -> Iterator[list[Any]]:
    home = path.parent.resolve()
    for row in rows:
        cells = row.cells()
        for name in ("path", "roi"):
            if cells[name] and Path(cells[name]).is_relative_to(home):
                cells[name] = Path(cells[name]).relative_to(home)
        yield [cells.get(name) for name in columns]


def _text_of(lines: Iterable[Sequence[Any]], path: Path, end: str = "\n") -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=find_separator(path), lineterminator=end).writerows(lines)
    return text.getvalue().encode()


def _identity(path: Path) -> Path | tuple[Path, bytes | Path]:
    """A key that is equal for all paths of a slide, such as a link and its target or the files of a
    DICOM series.
    """
    if path.suffix.lower() == ".dcm" and path.is_file():
        return path.parent.resolve(), _series_uid(path)
    return path.resolve()


def _require_unicode(paths: Iterable[Path]) -> None:
    for path in paths:
        if problem := name_problem(path):
            raise SheetError(problem)


def _parse_location(file: Path | str) -> Location:
    if not is_url(str(file)):
        return Path(file).absolute()
    url = file if isinstance(file, SlideUrl) else SlideUrl(str(file))
    if problem := url_problem(url.in_full):
        raise SheetError(f"{url}: {problem}")
    return url


def _walk(folder: Path) -> list[Path]:
    """List the files under ``folder``, following links, and Zarr folders as one file; skip hidden
    files, results, and folders listed already.
    """
    paths = []
    entered = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        is_known = os.path.realpath(parent) in entered
        entered.add(os.path.realpath(parent))
        if is_known or SlideFiles(Path(parent)).info.name in files:
            folders.clear()
        elif is_zarr(Path(parent)):
            folders.clear()
            paths.append(Path(parent))
        else:
            folders[:] = [name for name in folders if not name.startswith(".")]
            paths += [Path(parent, name) for name in files if not name.startswith(".")]
    return paths


def _one_per_series(files: Sequence[Path]) -> list[Path]:
    """Leave out all files of a DICOM series except the largest, which contains level 0.

    OpenSlide opens a series from any of its files. A link without a target is kept; the check of
    the sheet reports it.
    """
    series = {}
    for path in sorted(files):
        is_dicom = path.suffix.lower() == ".dcm" and path.is_file()
        key = (path.parent, _series_uid(path)) if is_dicom else path
        series.setdefault(key, []).append(path)
    return [
        max(own, key=lambda path: path.stat().st_size) if len(own) > 1 else own[0]
        for own in series.values()
    ]


def _series_uid(path: Path) -> bytes | Path:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    match = _SERIES_UID.search(head)
    return head[match.end() : match.end() + int.from_bytes(match[1], "little")] if match else path


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """Make unique slide_ids from the names of files; where names are equal, add folders, suffixes
    or numbers.
    """
    names = [_safe_name(_stem(path)) for path in paths]
    for way in (
        lambda path: "_".join([*path.parts[:-1], _stem(path)]),
        lambda path: "_".join(path.parts),
    ):
        taken = Counter(map(str.casefold, names))
        names = [
            _safe_name(way(path)) if taken[name.casefold()] > 1 else name
            for name, path in zip(names, paths, strict=True)
        ]
    return _number(names)


def _stem(path: Path) -> str:
    return re.sub(r"\.ome$", "", path.stem, flags=re.IGNORECASE)


def _safe_name(text: str) -> str:
    """Make a valid slide_id from ``text``: forbidden characters become underscores."""
    text = unicodedata.normalize("NFC", text)
    text = "".join("_" if char in ID_FORBIDDEN or not char.isprintable() else char for char in text)
    while len(text.encode()) > ID_MAX_BYTES - 5:  # leaves room for a number
        text = text[:-1]
    text = re.sub(r"^[-. ]+|[. ]+$", "", text)
    return text if id_problem(text) is None else f"slide_{text}"


def _number(names: Sequence[str]) -> list[str]:
    """The names, with a number where one is taken already."""
    taken = {}
    for name in names:
        candidates = chain([name], (f"{name}-{n}" for n in count(2)))
        free = next(one for one in candidates if one.casefold() not in taken)
        taken[free.casefold()] = free
    return list(taken.values())
