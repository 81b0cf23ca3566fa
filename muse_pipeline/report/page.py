"""``report.html``, the page of a cohort, which needs no network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.cohort.layout import CohortFiles
from muse_pipeline.cohort.ledgers import COST_COLUMNS, SlideSteps, step_costs
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import read_tsv
from muse_pipeline.core.process import map_in_order
from muse_pipeline.inference.card import card_facts
from muse_pipeline.inference.trust import MARK, NUCLEI, describe_marks, describe_slides, join_marks
from muse_pipeline.qupath.write import copy_import_script
from muse_pipeline.report import cohort, notices
from muse_pipeline.report.album import EMBEDDED_SLIDES, Album
from muse_pipeline.report.cohort import SlideResult
from muse_pipeline.report.plots import describe_plots, group_color, unit_text
from muse_pipeline.report.slide_card import add_up, describe_card
from muse_pipeline.report.tables import write_roi_table, write_table

PRETRAINING_FILES = {  # captions of files in the run's folder
    "views.png": "Views in training",
    "curves.png": "Training curves",
    "cohort.yaml": "Settings and slides",
}


OPEN_SLIDES = 100  # of more slides, the table first shows this many rows; cards open on demand
MOST_LINES = 14  # maximum number of lines at the end of a run, without the error of failed slides


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
    n_finished = sum(bool(slide.summary) for slide in slides)
    is_partial = len(cohort.classified(slides)) < n_finished
    lines = [cohort.describe_total(slides)] if is_partial else []
    lines += [no_model] if no_model else notices.summarise_failures(slides)
    lines += notices.summarise_flags(slides, MOST_LINES - len(lines) - 1)
    return [*lines, f"{cohort.summarise_cohort(slides)}; see {page}"]


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

    entries = notices.rank_slides(slides)
    album = Album(path, embedded=len(slides) <= EMBEDDED_SLIDES)
    ranked = [entry.slide for entry in entries]
    finished = [slide for slide in ranked if slide.summary]
    counted, models = cohort.counted(ranked), cohort.by_model(finished)
    trusts = [slide.trust for slide in finished]
    several = "; ".join(map(cohort.describe_model, models)) if len(models) > 1 else ""
    write_html(
        path,
        outcome=cohort.summarise_cohort(slides),
        entries=entries,
        notices=[(entry, notice) for entry in entries for notice in entry.notices],
        several_models=several,
        marks=[describe_slides(trusts, NUCLEI, MARK), *describe_marks(trusts)],
        n_finished=len(finished),
        counted=_sum_models(counted),
        classified=_sum_models(cohort.classified(ranked)),
        marked=join_marks(slide.trust for slide in counted),
        scored=cohort.score_total(ranked),
        total=cohort.describe_total(ranked),
        seconds=sum(slide.seconds for slide in slides),
        statistics=read_statistics(statistics) if statistics else None,
        album=album,
        open_slides=OPEN_SLIDES,
        class_names=cohort.class_names(slide for slide in ranked if not slide.positive),
        plots=describe_plots(entries),
        cards=map_in_order(lambda entry: describe_card(entry, album), entries, threads),
        cost_columns=COST_COLUMNS,
        costs=[cost.texts for cost in step_costs(map(steps_of, ranked))],
        pretraining=pretraining_facts(pretraining, album) if pretraining else None,
        models=[(own[-1].provenance, card_facts(own[-1].provenance.card)) for own in models],
    )


def steps_of(slide: SlideResult) -> SlideSteps:
    """The steps of a slide and the area of its tissue, including what totals leave out."""
    left_out_mm2 = slide.provenance.left_out_mm2 if slide.summary else 0.0
    return slide.progress, (slide.tissue_mm2 or 0.0) + left_out_mm2


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
MOST_DOTS = 100  # dots of a group; larger groups are drawn as this many percentiles
FOUND = 0.05  # false discovery rate below which groups are said to differ in a measure
MOST_EFFECT = 4  # upper limit of the axis of effects
_NUMBERS = ("mean_first", "mean_second", "effect", "low", "high", "p", "q")


def read_statistics(table: Path) -> dict[str, Any]:
    """The content of ``templates/statistics.html``, from ``statistics.tsv`` and
    ``statistics.patients.tsv``.
    """
    patients = table.with_suffix(f".patients{table.suffix}")
    try:
        of_patient = read_tsv(patients)
        groups = groupby(read_tsv(table), key=lambda row: (row["first"], row["second"]))
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


def _measure(
    row: dict[str, str], names: Sequence[str], patients: Sequence[dict[str, str]]
) -> dict[str, Any]:
    """A measure in two groups of patients; missing numbers are None."""
    groups = []
    for name in names:
        cells = (patient[row["measure"]] for patient in patients if patient["group"] == name)
        values = sorted(float(cell) for cell in cells if cell)
        percentiles = np.linspace(0, 100, MOST_DOTS)
        many = len(values) > MOST_DOTS
        groups.append(np.percentile(values, percentiles).tolist() if many else values)
    together = [value for values in groups for value in values] or [0.0]
    numbers = {name: float(row[name]) if row[name] else None for name in _NUMBERS}
    return {
        "name": row["measure"],
        "unit": unit_text(row["unit"]),
        "n_patients": [int(row["n_first"]), int(row["n_second"])],
        "dots": groups,
        "least": min(together),
        "extent": max(together) - min(together) or 1.0,
        "is_found": numbers["q"] is not None and numbers["q"] < FOUND,
        "means": [numbers["mean_first"], numbers["mean_second"]],
        **numbers,
    }


def _pair(names: tuple[str, str], measures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The comparison of two groups: their measures, sorted by q, then p, and the number that
    differ.
    """
    n_patients = [max(row["n_patients"][side] for row in measures) for side in (0, 1)]
    tested = [row for row in measures if row["p"] is not None]
    # The lowest possible p of a permutation test; swapping groups of equal size gives the same
    # difference.
    least = (2 if len(set(n_patients)) == 1 else 1) / math.comb(sum(n_patients), n_patients[0])
    tested.sort(key=lambda row: (row["q"], row["p"], -abs(row["effect"] or 0)))
    ranked = [*tested, *(row for row in measures if row["p"] is None)]
    ends = [abs(row[name] or 0) for row in tested for name in ("effect", "low", "high")]
    return {
        "names": names,
        "n_patients": n_patients,
        "n_found": sum(row["is_found"] for row in tested),
        "n_tested": len(tested),
        "least_p": f"{least:.2g}" if tested and least > FOUND else "",
        "reach": min(math.ceil(max([1, *ends])), MOST_EFFECT),
        "shown": ranked[:SHOWN],
        "others": ranked[SHOWN:],
    }


def pretraining_facts(folder: Path, album: Album) -> dict[str, Any]:
    """State of the pretraining run in a folder, in the layout of the workflow, and links to its
    files.
    """
    files = [(folder / name, words) for name, words in PRETRAINING_FILES.items()]
    checkpoint = folder / "checkpoint.pt"
    settings = folder / "cohort.yaml"
    log = folder / "logs" / "pretrain.log"
    has_both = checkpoint.is_file() and settings.is_file()
    return {
        "name": folder.name,
        "ended": has_both and checkpoint.stat().st_mtime_ns >= settings.stat().st_mtime_ns,
        "log": album.link(log) if log.is_file() else None,
        "links": [(words, album.link(file)) for file, words in files if file.is_file()],
    }
