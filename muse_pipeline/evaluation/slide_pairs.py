"""The slides to score: results paired with their truth, by name or by a sheet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from muse_pipeline.cohort.layout import CohortFiles
from muse_pipeline.cohort.patients import find_patients
from muse_pipeline.cohort.sheet import read_table
from muse_pipeline.core.errors import LabelError, NucleiError, SheetError
from muse_pipeline.evaluation.truth import SUFFIXES
from muse_pipeline.labels.nuclei_files import MASK_SUFFIXES
from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES

REGION_SUFFIXES = (*GEOJSON_SUFFIXES, *MASK_SUFFIXES)


@dataclass(frozen=True)
class SlidePair:
    """A slide to score.

    Attributes:
        slide_id: id of the slide.
        nuclei: table of the detected nuclei.
        truth: file of the true nuclei.
        region: file of the region where the truth is complete, if separate.
        patient: patient of the slide, the unit of the bootstrap.
    """

    slide_id: str
    nuclei: Path
    truth: Path
    region: Path | None
    patient: str


@dataclass(frozen=True)
class Pairing:
    """All slides to score, and all slides that cannot be scored.

    Attributes:
        pairs: one or more slides to score.
        grouping: description of what counts as a patient.
        without_truth: slides with a result but no truth.
        without_result: slides with a truth but no result.
        beyond_sheet: slides with a result that are not in the sheet.
    """

    pairs: tuple[SlidePair, ...]
    grouping: str
    without_truth: tuple[str, ...] = ()
    without_result: tuple[str, ...] = ()
    beyond_sheet: tuple[str, ...] = ()


def pair_one(nuclei: Path, truth: Path, slide_id: str, region: Path | None = None) -> Pairing:
    """Pair one table with one file of truth."""
    if truth.is_dir():
        raise LabelError(
            f"{truth}: is a folder, while {nuclei} is one table; give that slide's file, or a results folder"
        )
    return Pairing((SlidePair(slide_id, nuclei, truth, region, slide_id),), "the slide itself")


def pair_folder(
    results: Path,
    truth: Path | None = None,
    sheet: Path | None = None,
    region: Path | None = None,
    patient: str | None = None,
) -> Pairing:
    """Pair every slide of a results folder with its truth, by name or by a sheet.

    Args:
        results: folder that contains ``<slide>/nuclei.parquet``.
        truth: folder of ``<slide>.csv``, ``.tsv``, ``.geojson`` ...; not needed if the sheet has a column ``truth``.
        sheet: table with ``slide_id`` and, if known, ``patient``, ``truth`` and ``region``; only its slides are scored.
        region: folder of ``<slide>.geojson`` or ``.png``.
        patient: regular expression searched in a slide's name; the match (its first group, if any) is the patient.
    """
    found = CohortFiles(results).tables()
    if not found:
        raise NucleiError(f"{results}: holds no <slide>/nuclei.parquet; give the output folder of a run, or one table")
    rows = read_evaluation_sheet(sheet) if sheet else {}
    truths = _by_slide(truth, SUFFIXES, "--truth") | _named_files(rows, "truth", sheet)
    regions = _by_slide(region, REGION_SUFFIXES, "--region") | _named_files(rows, "region", sheet)
    wanted = rows or found | truths
    paired = [name for name in sorted(wanted) if name in found and name in truths]
    if not paired:
        raise LabelError(
            f"no slide has both a result and a truth: results of {_some(found)}, truths of {_some(truths)}; name "
            "truths as their slides, as in <slide>.csv, or give a --sheet with the columns slide_id and truth"
        )
    patients, grouping = find_patients(paired, rows, patient)
    return Pairing(
        tuple(SlidePair(name, found[name], truths[name], regions.get(name), patients[name]) for name in paired),
        grouping,
        tuple(name for name in sorted(wanted) if name in found and name not in truths),
        tuple(name for name in sorted(wanted) if name not in found),
        tuple(name for name in sorted(found) if name not in wanted),
    )


def read_evaluation_sheet(path: Path) -> dict[str, dict[str, str]]:
    """Read the rows of a sheet by slide; the workflow's sheet can be used too, since other columns are ignored."""
    header, records = read_table(path)
    if "slide_id" not in header:
        raise SheetError(f"{path}: column 'slide_id' is missing (found {', '.join(header)}); add it")
    rows: dict[str, dict[str, str]] = {}
    for number, cells in records:
        row = dict(zip(header, cells, strict=False))
        if not row.get("slide_id"):
            raise SheetError(f"{path}, row {number}: has no slide_id; fill it in or remove the row")
        if row["slide_id"] in rows:
            raise SheetError(f"{path}, row {number}: slide_id '{row['slide_id']}' occurs twice; remove one")
        rows[row["slide_id"]] = row
    if not rows:
        raise SheetError(f"{path}: no slide in it; add a row per slide")
    return rows


def _by_slide(folder: Path | None, suffixes: tuple[str, ...], option: str) -> dict[str, Path]:
    if folder is None:
        return {}
    if not folder.is_dir():
        raise LabelError(
            f"{folder}: no such folder; to score a results folder, {option} names a folder of files <slide>.<suffix>"
        )
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffix = next((one for one in sorted(suffixes, key=len)[::-1] if path.name.lower().endswith(one)), None)
        if suffix is None or path.name.startswith("."):
            continue
        name = path.name[: -len(suffix)]
        if name in files:
            raise LabelError(f"{folder}: '{files[name].name}' and '{path.name}' are both slide '{name}'; keep one")
        files[name] = path
    return files


def _named_files(rows: dict[str, dict[str, str]], column: str, sheet: Path | None) -> dict[str, Path]:
    files = {name: sheet.parent / row[column] for name, row in rows.items() if row.get(column)}
    for name, path in files.items():
        if not path.is_file():
            raise SheetError(f"{sheet}: {column} of slide '{name}' is not a file ({path}); correct it")
    return files


def _some(names: dict[str, Path]) -> str:
    shown = sorted(names)[:3]
    return f"{', '.join(shown) or 'none'}{' ...' * (len(names) > 3)}"
