"""The report of a cohort: the tables ``cohort.tsv`` and ``roi.tsv``, and ``report.html``, which
needs no network.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.cohort.layout import CohortFiles
from muse_pipeline.cohort.ledgers import COST_COLUMNS, STEPS, order_steps, step_costs
from muse_pipeline.cohort.sheet import name_own
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.text import one_line
from muse_pipeline.core.types import ARTEFACTS
from muse_pipeline.inference.card import card_facts
from muse_pipeline.inference.trust import (
    LEAVE_OUT,
    MARK,
    NUCLEI,
    describe_marks,
    describe_slides,
    join_marks,
)
from muse_pipeline.qupath.write import copy_import_script
from muse_pipeline.report import cohort, notices
from muse_pipeline.report.album import EMBEDDED_SLIDES, Album
from muse_pipeline.report.cohort import SlideResult
from muse_pipeline.report.counts import per_mm2, region_values, score_values
from muse_pipeline.report.plots import describe_plots, group_color
from muse_pipeline.report.slide_card import add_up, describe_card

PRETRAINING_FILES = {  # captions of files in the run's folder
    "views.png": "Views in training",
    "curves.png": "Training curves",
    "cohort.yaml": "Settings and slides",
}


def _of(*names: str) -> Callable[[SlideResult], Any]:
    """A column with an attribute, or an attribute of an attribute; empty where one is None."""

    def read(slide: SlideResult) -> Any:
        value: Any = slide
        for name in names:
            if value is None:
                return None
            value = value[name] if isinstance(value, dict) else getattr(value, name)
        return one_line(value) if isinstance(value, str) and name != "path" else value

    return read


# The columns of ``cohort.tsv`` that every cohort has.
COLUMNS: dict[str, Callable[[SlideResult], Any]] = {
    **{name: _of(name) for name in ("slide_id", "status", "step", "reason", "appearance")},
    "warnings": lambda slide: " | ".join(map(one_line, notices.list_warnings(slide))),
    "left_out": lambda slide: one_line(slide.trust.describe(LEAVE_OUT)),
    "marked": lambda slide: one_line(slide.trust.describe(MARK)),
    **{name: _of(name) for name in ("path", "patient", "split", "organ", "stain")},
    "mpp_x": lambda slide: slide.info.mpp[0] if slide.info else None,
    "mpp_y": lambda slide: slide.info.mpp[1] if slide.info else None,
    "model": _of("model", "name"),
    "model_sha256": _of("model", "sha256"),
    "roi": _of("roi", "name"),
    "tissue_mm2": lambda slide: None if slide.tissue_mm2 is None else round(slide.tissue_mm2, 4),
    "nuclei": _of("n_nuclei"),
    "nuclei_per_mm2": lambda slide: per_mm2(slide.n_nuclei, slide.tissue_mm2),
    **{name: _of("positive", name) for name in ("n_positive", "n_negative", "percent_positive")},
    **{
        name: _of("provenance", "nuclear_size", name)
        for name in ("median_area_um2", "mean_class_probability")
    },
}
OF_SLIDE = ("slide_id", "appearance", "left_out", "marked")  # columns that ``roi.tsv`` shares
OF_ANNOTATION = (
    *(*OF_SLIDE, "roi", "class", "area_mm2", "tissue_mm2", "nuclei", "nuclei_per_mm2"),
    *("n_positive", "n_negative", "percent_positive"),
)
COSTS = ("seconds", "processor_seconds", "peak_memory_mib")


def write_table(slides: Sequence[SlideResult], path: Path) -> None:
    """Write ``cohort.tsv``: a row for every slide and core of a microarray, with empty cells for
    missing values.
    """
    columns = dict.fromkeys([*COLUMNS, *_class_columns(slides)])
    for values in (_artefact_values, _ihc_values, _region_values):
        columns |= dict.fromkeys(name for slide in slides for name in values(slide))
    ran = {record.step for slide in slides for record in slide.progress}
    steps = order_steps(ran | {step for step in STEPS if step != "regions"})
    columns |= dict.fromkeys(f"{cost}_{step}" for cost in COSTS for step in steps)
    of_cores = [list(_core_rows(slide)) for slide in slides]
    columns |= {"core": None} if any(of_cores) else {}
    own = name_own((name for slide in slides for name in slide.own), [*columns])
    rows = []
    for slide, cores in zip(slides, of_cores, strict=True):
        cells = {own[name]: one_line(cell or "") for name, cell in slide.own.items()}
        rows += [_row(slide) | cells, *cores]
    _write(path, [*columns, *own.values()], rows)


def _core_rows(slide: SlideResult) -> Iterator[dict[str, Any]]:
    """Yield a row for every core of a tissue microarray, missing cores last."""
    cores = (slide.summary or {}).get("tma")
    if cores is None:
        return
    of_slide = {"status": slide.status, "path": slide.path, "patient": one_line(slide.patient)}
    rows = _annotation_rows(slide)
    # Cores follow the annotations of the region of interest (``slide_summary``).
    for row in rows[len(rows) - cores["n_cores"] :]:
        yield row | of_slide | {"slide_id": f"{slide.slide_id}:{row['roi']}", "core": row["roi"]}
    for name in cores["missing"]:
        yield of_slide | {"slide_id": f"{slide.slide_id}:{name}", "core": name, "status": "missing"}


def write_roi_table(slides: Sequence[SlideResult], path: Path) -> None:
    """Write a row for every annotation and core of the slides; if there are none, remove an older
    table.
    """
    rows = [row for slide in slides if slide.summary for row in _annotation_rows(slide)]
    if rows:
        columns = [*OF_ANNOTATION, *_class_columns(slides)]
        columns += dict.fromkeys(name for row in rows for name in row if name not in columns)
        _write(path, columns, rows)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with (
        complete_file(path) as partial,
        partial.open("w", encoding="utf-8", newline="", errors="replace") as file,
    ):
        writer = csv.DictWriter(
            file, columns, dialect="excel-tab", lineterminator="\n", extrasaction="ignore"
        )
        writer.writeheader()
        writer.writerows(rows)


def _row(slide: SlideResult) -> dict[str, Any]:
    classes = slide.summary["classes"] if slide.summary else ()
    counts = {entry["name"]: entry["n_nuclei"] for entry in classes}
    return {
        **{name: read(slide) for name, read in COLUMNS.items()},
        **_class_values(counts, slide.n_nuclei, slide.tissue_mm2),
        **_artefact_values(slide),
        **_ihc_values(slide),
        **_region_values(slide),
        **{f"{cost}_{one.step}": getattr(one, cost) for cost in COSTS for one in slide.progress},
    }


def _region_values(slide: SlideResult) -> dict[str, Any]:
    return region_values(slide.regions)


def _artefact_values(slide: SlideResult) -> dict[str, float]:
    """Area in mm2 of each kind of artefact, and numbers of nuclei in them and left out; empty
    without a search.
    """
    if slide.artefacts_mm2 is None:
        return {}
    areas = {f"{kind}_mm2": None for kind in ARTEFACTS}
    areas |= {f"{kind}_mm2": round(mm2, 4) for kind, mm2 in slide.artefacts_mm2.items()}
    return {
        **areas,
        "nuclei_in_artefacts": slide.n_in_artefacts,
        "nuclei_left_out": slide.n_left_out,
    }


def _ihc_values(slide: SlideResult) -> dict[str, float | int | None]:
    """Immunohistochemistry scores of the slide and of its tissue regions; empty for other
    stains.
    """
    intensities = slide.intensities or {}
    values = score_values(intensities.get("slide"))
    for region, counts in intensities.get("regions", {}).items():
        values |= score_values(counts, region)
    return values


def _annotation_rows(slide: SlideResult) -> list[dict[str, Any]]:
    """A row of ``roi.tsv`` for every annotation and core of a finished slide."""
    annotations, rows = slide.summary["annotations"], []
    intensities = (
        slide.intensities["annotations"] if slide.intensities else [None] * len(annotations)
    )
    for annotation, counts in zip(annotations, intensities, strict=True):
        n, n_positive, tissue_mm2 = (
            annotation["n_nuclei"],
            annotation.get("n_positive"),
            annotation["tissue_mm2"],
        )
        row = {
            **{name: COLUMNS[name](slide) for name in OF_SLIDE},
            "roi": one_line(annotation["name"]),
            "class": one_line(annotation["class"] or ""),
            "area_mm2": annotation["area_mm2"],
            "tissue_mm2": tissue_mm2,
            "nuclei": n,
            "nuclei_per_mm2": per_mm2(n, tissue_mm2),
            "n_positive": n_positive,
            "n_negative": None if n_positive is None else n - n_positive,
            "percent_positive": _percent(n_positive, n),
            **score_values(counts),
            **_class_values(annotation["n_by_class"], n, tissue_mm2),
        }
        rows.append(row)
    return rows


def _class_columns(slides: Sequence[SlideResult]) -> list[str]:
    """Names of the columns for number, percentage and density of every class."""
    names = list(map(one_line, cohort.class_names(slides)))
    return [
        f"{quantity}_{name}"
        for quantity in ("nuclei", "percent", "nuclei_per_mm2")
        for name in names
    ]


def _class_values(
    counts: dict[str, int], total: int | None, tissue_mm2: float | None
) -> dict[str, float | None]:
    """The cells of ``_class_columns``."""
    cells = {}
    for name, n in counts.items():
        values = {
            "nuclei": n,
            "percent": _percent(n, total),
            "nuclei_per_mm2": per_mm2(n, tissue_mm2),
        }
        cells |= {f"{quantity}_{one_line(name)}": value for quantity, value in values.items()}
    return cells


def _percent(n: int | None, total: int | None) -> float | None:
    return round(100 * n / total, 2) if n is not None and total else None


OPEN_SLIDES = (
    100  # with more slides, the table first shows this many rows, and cards open on demand
)
MOST_LINES = (
    14  # maximum number of lines at the end of a run, without the error that names failed slides
)


def write_report(
    slides: Sequence[SlideResult],
    results: Path,
    page: Path,
    table: Path,
    pretraining: Path | None = None,
    statistics: Path | None = None,
    no_model: str = "",
    threads: int = 1,
) -> list[str]:
    """Write the page, the tables and the import script for QuPath, and return lines that summarise
    the cohort.

    The ``slides`` are from ``gather_cohort``. roi.tsv is written next to ``table``, which is
    cohort.tsv. The page shows a ``pretraining`` run and the table ``statistics`` of ``muse
    statistics`` if there are any. ``no_model`` is the reason why there was no model for detection,
    and pictures of several slides are reduced at the same time by ``threads``.
    """
    write_table(slides, table)
    write_roi_table(slides, table.with_name(CohortFiles.roi))
    write_page(slides, page, pretraining, statistics, threads)
    copy_import_script(results / "qupath")
    failures = [no_model] if no_model else notices.summarise_failures(slides)
    n_finished = sum(bool(slide.summary) for slide in slides)
    total = [cohort.describe_total(slides)] if len(cohort.classified(slides)) < n_finished else []
    lines = [*total, *failures]
    summary = f"{cohort.summarise_cohort(slides)}; see {page}"
    return [*lines, *notices.summarise_flags(slides, MOST_LINES - len(lines) - 1), summary]


def load_page() -> None:
    """Compile the templates of the page, which takes as long as the rest of the page of a single
    slide.
    """
    from muse_pipeline.report.html import load_templates

    load_templates("base.html", "macros.html", "plots.html", "slide_card.html", "report.html")


def write_page(
    slides: Sequence[SlideResult],
    path: Path,
    pretraining: Path | None = None,
    statistics: Path | None = None,
    threads: int = 1,
) -> None:
    """Write the page: what needs attention, the cohort, groups of patients, a table, plots, every
    slide, costs, models.

    Slides are given in the order of the sheet and shown in that of ``notices.rank_slides``, failed
    slides first. For up to ``EMBEDDED_SLIDES`` slides the page contains the pictures; in a larger
    cohort it links to their files.
    """
    from muse_pipeline.report.html import write_html  # loads jinja2

    entries, album = (
        notices.rank_slides(slides),
        Album(path, embedded=len(slides) <= EMBEDDED_SLIDES),
    )
    ranked = [entry.slide for entry in entries]
    finished = [slide for slide in ranked if slide.summary]
    models = cohort.by_model(finished)
    trusts = [slide.trust for slide in finished]
    of_models = "; ".join(map(cohort.describe_model, models)) if len(models) > 1 else ""
    if of_models:
        of_models = (
            "Nuclei were found by different models, whose numbers may not be comparable: "
            + of_models
        )
    write_html(
        path,
        "report.html",
        outcome=cohort.summarise_cohort(slides),
        entries=entries,
        notices=[(entry, notice) for entry in entries for notice in entry.notices],
        of_cohort=[of_models] if of_models else [],
        marks=[describe_slides(trusts, NUCLEI, MARK), *describe_marks(trusts)],
        n_finished=len(finished),
        has_failed=any(slide.status == "failed" for slide in slides),
        counted=_sum_models(cohort.counted(ranked)),
        classified=_sum_models(cohort.classified(ranked)),
        marked=join_marks(slide.trust for slide in cohort.counted(ranked)),
        scored=cohort.score_total(ranked),
        total=cohort.describe_total(ranked),
        seconds=sum(slide.seconds for slide in slides),
        statistics=read_statistics(statistics) if statistics else None,
        album=album,
        open_slides=OPEN_SLIDES,
        has_groups=any(slide.group for slide in slides),
        has_positive=any(slide.positive for slide in slides),
        class_names=cohort.class_names(slide for slide in ranked if slide.positive is None),
        plots=describe_plots(entries),
        cards=map_in_order(lambda entry: describe_card(entry, album), entries, threads),
        cost_columns=COST_COLUMNS,
        costs=[cost.texts for cost in step_costs(slide.steps for slide in ranked)],
        pretraining=pretraining_facts(pretraining, album) if pretraining else None,
        models=[
            (slides[-1].provenance, card_facts(slides[-1].provenance.card)) for slides in models
        ],
    )


def _sum_models(slides: Sequence[SlideResult]) -> list[dict[str, Any]]:
    """Nuclei, area of tissue and classes per model, whose numbers may not be comparable; a single
    model has no name.
    """
    models = cohort.by_model(slides)
    return [
        {
            "name": cohort.describe_model(group) if len(models) > 1 else "",
            "n_nuclei": sum(slide.n_nuclei for slide in group),
            "tissue_mm2": sum(slide.tissue_mm2 or 0 for slide in group),
            "classes": add_up(slide.summary for slide in group),
        }
        for group in models
    ]


SHOWN = 15  # maximum number of measures shown for a pair of groups; the rest are collapsed
MOST_DOTS = (
    100  # maximum number of dots of a group; larger groups are drawn as this many percentiles
)
FOUND = 0.05  # false discovery rate below which groups are said to differ in a measure
MOST_EFFECT = 4  # upper limit of the axis of effects
_UNITS = {"1": "", "1/mm2": "/mm²", "um": "µm", "um2": "µm²", "OD/um": "OD/µm"}


def read_statistics(table: Path) -> dict[str, Any]:
    """The content of ``templates/statistics.html``, from ``statistics.tsv`` and
    ``statistics.patients.tsv``.
    """
    patients = table.with_suffix(f".patients{table.suffix}")
    try:
        of_patient = _read(patients)
        groups = groupby(_read(table), key=lambda row: (row["first"], row["second"]))
        pairs = [
            _pair(names, [_measure(row, names, of_patient) for row in rows])
            for names, rows in groups
        ]
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(
            f"{table}: is not a result of `muse statistics` ({error}); run it again"
        ) from error
    names = sorted({name for pair in pairs for name in pair["names"]})
    colors = {name: group_color(names, name) for name in names}
    return {"pairs": pairs, "colors": colors, "table": table.name, "patients": patients.name}


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, dialect="excel-tab"))


def _measure(
    row: dict[str, str], names: Sequence[str], patients: Sequence[dict[str, str]]
) -> dict[str, Any]:
    """A measure in two groups of patients; missing numbers are None."""
    groups = []
    for name in names:
        values = [
            float(patient[row["measure"]] or "nan")
            for patient in patients
            if patient["group"] == name
        ]
        groups.append(np.array([value for value in values if math.isfinite(value)]))
    percentiles = np.linspace(0, 100, MOST_DOTS)
    together = np.concatenate(groups) if any(map(len, groups)) else np.zeros(1)
    columns = ("mean_first", "mean_second", "effect", "low", "high", "p", "q")
    numbers = {
        name: value if math.isfinite(value := float(row[name] or "nan")) else None
        for name in columns
    }
    return {
        "name": row["measure"],
        "unit": _UNITS.get(row["unit"], row["unit"]),
        "n_patients": list(map(len, groups)),
        "dots": [
            (np.percentile(v, percentiles) if len(v) > MOST_DOTS else v).tolist() for v in groups
        ],
        "least": float(together.min()),
        "extent": float(np.ptp(together)) or 1.0,
        "is_found": numbers["q"] is not None and numbers["q"] < FOUND,
        "means": [numbers["mean_first"], numbers["mean_second"]],
        **numbers,
    }


def _pair(names: tuple[str, str], measures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The comparison of two groups: their measures, sorted by q, then p, and the number that
    differ.
    """
    n_first, n_second = (max(row["n_patients"][side] for row in measures) for side in (0, 1))
    n_tested = sum(row["p"] is not None for row in measures)
    # The lowest possible p of a permutation test; swapping groups of equal size gives the same
    # difference.
    least = (2 if n_first == n_second else 1) / math.comb(n_first + n_second, n_first)
    # Measures that were not tested have no q and no p, and come last.
    ranked = sorted(
        measures, key=lambda m: (m["p"] is None, m["q"] or 0, m["p"] or 0, -abs(m["effect"] or 0))
    )
    ends = [abs(row[name] or 0) for row in measures for name in ("effect", "low", "high")]
    return {
        "names": names,
        "n_patients": [n_first, n_second],
        "n_found": sum(row["is_found"] for row in measures),
        "n_tested": n_tested,
        "least_p": f"{least:.2g}" if n_tested and least > FOUND else "",
        "reach": min(math.ceil(max(1, *ends)), MOST_EFFECT),
        "shown": ranked[:SHOWN],
        "others": ranked[SHOWN:],
    }


def pretraining_facts(folder: Path, album: Album) -> dict[str, Any]:
    """State of the pretraining run in a folder, in the layout of the workflow, and links to its
    files.
    """
    files = [(folder / name, words) for name, words in PRETRAINING_FILES.items()]
    checkpoint, settings, log = (
        folder / "checkpoint.pt",
        folder / "cohort.yaml",
        folder / "logs" / "pretrain.log",
    )
    has_both = checkpoint.is_file() and settings.is_file()
    return {
        "name": folder.name,
        "ended": has_both and checkpoint.stat().st_mtime_ns >= settings.stat().st_mtime_ns,
        "log": album.link(log) if log.is_file() else None,
        "links": [(words, album.link(file)) for file, words in files if file.is_file()],
    }
