"""Write a sheet from a folder of slides, or check a sheet.

    muse sheet FOLDER -o slides.tsv        one row per slide under FOLDER
    muse sheet FOLDER -o slides.tsv --add  append new slides, and keep the other rows
    muse sheet FOLDER -o cores.tsv --tma   one row per core of tissue microarrays, with its ROI
    muse sheet --check slides.tsv          list all mistakes with their rows

config/README.md describes the columns.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import warn

from muse_pipeline.core.errors import ConfigError, LeftOutWarning, SheetError, SlideError
from muse_pipeline.core.text import count_noun, some_of
from muse_pipeline.core.types import Written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from muse_pipeline.cohort.sheet import SheetRow
    from muse_pipeline.tissue.tma import Core


def run(
    folder: Path | None = None,
    /,
    output: Path | None = None,
    mpp: float | None = None,
    add: bool = False,
    tma: bool = False,
    core_map: Path | None = None,
    check: Path | None = None,
    resolved: Written | None = None,
) -> None:
    """Write or check a sheet.

    Args:
        folder: a folder of slides
        output: sheet to write (TSV, or CSV if it ends in .csv)
        mpp: um per pixel of every slide, not the files'
        add: append slides that are not in the sheet yet
        tma: find the cores of slides that are tissue microarrays
        core_map: table for --tma with `core` (B-7) and columns such as `patient`
        check: check this sheet instead of writing one
        resolved: file for the rows of --check, with absolute paths (JSON)
    """
    from muse_pipeline.cohort.collect import add_to_sheet, collect_slides, write_sheet
    from muse_pipeline.cohort.sheet import read_sheet
    from muse_pipeline.core.files import write_json

    if check:
        rows = read_sheet(check)
        if resolved:
            write_json(resolved, [row.to_dict() for row in rows])
        print(f"{check}: {count_noun(len(rows), 'slide')}, nothing wrong")
        return
    if core_map and not tma:
        raise ConfigError("--core-map is the map of a tissue microarray; give --tma too")
    if tma and output and (add or output.exists()):
        raise ConfigError(
            f"{output}: --tma always writes a new sheet; choose a file that does not exist,"
            " without --add"
        )
    if not (folder and output):
        raise ConfigError(
            "give a FOLDER and --output to write a sheet, or --check SHEET to check one"
        )
    rows = collect_slides(folder, mpp)
    if tma:
        of_cores = _read_core_map(core_map) if core_map else {}
        rows = [core for row in rows for core in find_core_rows(row, output, of_cores)]
    elif add and output.exists():
        n_new = len(add_to_sheet(output, rows))
        print(
            f"{output}: {count_noun(n_new, 'slide')} added,"
            f" {count_noun(len(rows) - n_new, 'slide')} there already"
        )
        return
    write_sheet(output, rows)
    print(f"{output}: {count_noun(len(rows), 'core' if tma else 'slide')}")


def find_core_rows(
    slide: SheetRow, sheet: Path, core_map: Mapping[str, Mapping[str, str]]
) -> list[SheetRow]:
    """Make a row for every core of a slide, and write the core's region of interest to a folder
    next to ``sheet``.

    The cells of the core map, ``core_map``, are keyed by the core's name and then by column.
    """
    from muse_pipeline.qupath.regions import write_cores
    from muse_pipeline.slides.base import open_slide
    from muse_pipeline.slides.inspect import inspect_slide
    from muse_pipeline.slides.isolation import call_isolated
    from muse_pipeline.tissue.find import find_tissue
    from muse_pipeline.tissue.tma import find_cores

    info = call_isolated(inspect_slide, Path(slide.path), slide.slide_id, slide.mpp, None)
    with open_slide(slide.path, info.reader) as opened:
        tissue = find_tissue(opened, info, None).tissue
    try:
        cores, radius_um = find_cores(tissue.mask, tissue.mask_mpp)
    except SlideError as error:
        raise SlideError(f"{slide.path}: {error}") from error
    present = [core for core in cores if not core.is_missing]
    if core_map:
        _compare_with_map(slide, cores, core_map)
    rows = []
    for core in present:
        name = f"{slide.slide_id}_{core.name}"
        roi = sheet.resolve().with_name(f"{sheet.stem}-cores") / f"{name}.geojson"
        write_cores(roi, [core], radius_um, info)
        own = {"core": core.name, **core_map.get(core.name, {})}
        patient = own.pop("patient", None) or slide.patient
        rows.append(replace(slide, slide_id=name, roi=str(roi), patient=patient, own=own))
    return rows


def _read_core_map(path: Path) -> dict[str, dict[str, str]]:
    from muse_pipeline.cohort.sheet import read_cells

    core_map = read_cells(path, key="core")
    if not core_map:
        raise SheetError(
            f"{path}: has no core in it; add a row per core, with its name in column 'core', such"
            " as B-7"
        )
    if taken := {"slide_id", "path", "roi", "mpp"} & {
        name for row in core_map.values() for name in row
    }:
        raise SheetError(
            f"{path}: the sheet has its own column '{min(taken)}'; rename the column of the map"
        )
    return core_map


def _compare_with_map(
    slide: SheetRow, cores: Sequence[Core], core_map: Mapping[str, object]
) -> None:
    """Warn of cores that only the slide or only the map has; raise an error if the map is not one
    of the slide's grid.

    Empty outer rows and columns are not part of the grid, so names may be shifted if the map has
    more rows or columns.
    """
    names = [core.name for core in cores if not core.is_missing]
    of_map = [f"'{name}'" for name in core_map if name not in names]
    of_slide = [f"'{name}'" for name in names if name not in core_map]
    if len(of_map) == len(core_map):
        raise SheetError(
            f"--core-map: has no core of {slide.path}, only {some_of(of_map)}; the slide has"
            f" {some_of(of_slide)}; correct the map's column 'core'"
        )
    grid = {core.name for core in cores}
    if beyond := [f"'{name}'" for name in core_map if name not in grid]:
        raise SheetError(
            f"--core-map: has {some_of(beyond)}, but the grid of {slide.path} ends at"
            f" {cores[-1].name}, and its names are shifted if the first row or column is empty;"
            " give a map that names the cores as tma.geojson does"
        )
    map_has = f"lacks {len(of_map)} of the {len(core_map)} cores in the map"
    slide_has = f"has {len(of_slide)} of its {len(names)} cores not in the map"
    differences = [
        f"{what}: {some_of(cores)}"
        for what, cores in ((map_has, of_map), (slide_has, of_slide))
        if cores
    ]
    if differences:
        warn(f"{slide.path}: {'; '.join(differences)}", LeftOutWarning, stacklevel=2)
