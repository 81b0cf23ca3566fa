"""The report of a cohort: tables, and ``report.html``, a page that needs neither network nor script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muse_pipeline.core.environment import count_cores
from muse_pipeline.core.process import map_in_order
from muse_pipeline.qupath.write import copy_import_script
from muse_pipeline.report.album import EMBEDDED_SLIDES, Album
from muse_pipeline.report.cohort import (
    SlideResult,
    by_model,
    class_names,
    classified,
    counted,
    describe_model,
    describe_total,
    summarise_cohort,
)
from muse_pipeline.report.costs import COLUMNS, step_costs
from muse_pipeline.report.model_facts import card_facts, pretraining_facts
from muse_pipeline.report.notices import rank_slides, summarise_failures, summarise_flags
from muse_pipeline.report.plots import describe_plots
from muse_pipeline.report.slide_card import add_up, describe_card
from muse_pipeline.report.statistics import read_statistics
from muse_pipeline.report.tables import write_roi_table, write_table

OPEN_SLIDES = 100  # of a larger cohort the table shows so many rows at once, and a card is shown when it is opened


def write_report(
    slides: Sequence[SlideResult],
    results: Path,
    page: Path,
    table: Path,
    pretraining: Path | None = None,
    statistics: Path | None = None,
    no_model: str = "",
) -> list[str]:
    """Write page, tables and the import script for QuPath; returns lines that summarise the cohort.

    Args:
        slides: outcomes of all slides, from ``gather_cohort``.
        results: folder with a folder per slide.
        page: path of report.html.
        table: path of cohort.tsv; roi.tsv is written beside it.
        pretraining: folder of a pretraining run that belongs to the cohort.
        statistics: path of statistics.tsv of ``muse statistics``.
        no_model: reason why slides were not detected, if there was no model.
    """
    write_table(slides, table)
    write_roi_table(slides, table.with_name("roi.tsv"))
    write_page(slides, page, pretraining, statistics)
    copy_import_script(results / "qupath")
    failures = [] if no_model else summarise_failures(slides)  # the same reason for all
    total = [describe_total(slides)] if len(classified(slides)) < sum(bool(slide.summary) for slide in slides) else []
    return [f"{summarise_cohort(slides)}; see {page}", *total, *failures, *summarise_flags(slides)]


def write_page(
    slides: Sequence[SlideResult], path: Path, pretraining: Path | None = None, statistics: Path | None = None
) -> None:
    """Write the page: what needs attention, the cohort, groups of patients, a table, plots, every slide, costs, models.

    Slides are given in the order of the sheet and shown by ``notices.rank_slides``, the failed ones first. The pictures
    of up to ``EMBEDDED_SLIDES`` slides are embedded in the page; the page of a larger cohort links to the files beside
    it.
    """
    from muse_pipeline.report.html import write_html  # not before the page is written: it loads jinja2

    entries, album = rank_slides(slides), Album(path, embedded=len(slides) <= EMBEDDED_SLIDES)
    ranked = [entry.slide for entry in entries]
    finished = [slide for slide in ranked if slide.summary]
    models = by_model(finished)
    write_html(
        path,
        "report.html",
        outcome=summarise_cohort(slides),
        entries=entries,
        notices=[(entry, notice) for entry in entries for notice in entry.notices],
        different_models="; ".join(map(describe_model, models)) if len(models) > 1 else "",
        n_finished=len(finished),
        has_failed=any(slide.status == "failed" for slide in slides),
        counted=_sum_models(counted(ranked)),
        classified=_sum_models(classified(ranked)),
        total=describe_total(ranked),
        seconds=sum(slide.seconds for slide in slides),
        statistics=read_statistics(statistics) if statistics else None,
        album=album,
        open_slides=OPEN_SLIDES,
        has_groups=any(slide.group for slide in slides),
        has_positive=any(slide.positive for slide in slides),
        class_names=class_names(slide for slide in ranked if slide.positive is None),
        plots=describe_plots(entries),
        cards=map_in_order(lambda entry: describe_card(entry, album), entries, count_cores()),
        cost_columns=COLUMNS,
        costs=[cost.texts for cost in step_costs(ranked)],
        pretraining=pretraining_facts(pretraining, album) if pretraining else None,
        models=[(slides[-1].provenance, card_facts(slides[-1].provenance.card)) for slides in models],
    )


def _sum_models(slides: Sequence[SlideResult]) -> list[dict[str, Any]]:
    """Nuclei, mm2 of tissue and classes of each model's slides: numbers of different models may not compare.

    The name of a single model is "".
    """
    models = by_model(slides)
    return [
        {
            "name": describe_model(group) if len(models) > 1 else "",
            "n_nuclei": sum(slide.n_nuclei for slide in group),
            "tissue_mm2": sum(slide.tissue_mm2 or 0 for slide in group),
            "classes": add_up(slide.summary for slide in group),
        }
        for group in models
    ]
