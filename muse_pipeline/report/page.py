"""The report of a cohort: tables, and ``report.html``, a page that needs neither network nor script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muse_pipeline.core.environment import count_cores
from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.text import area_text, count_text, density_text, time_text
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
from muse_pipeline.report.model_facts import model_facts, pretraining_facts
from muse_pipeline.report.notices import ShownSlide, rank_slides, summarise_failures, summarise_flags
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
    write_html(
        path,
        "report.html",
        outcome=summarise_cohort(slides),
        **_list_notices(entries),
        figures=_figures(ranked),
        finished=finished,
        total=describe_total(ranked),
        class_mix=_class_mix(ranked),
        statistics=read_statistics(statistics) if statistics else None,
        entries=entries,
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
        models=model_facts(slide.provenance for slide in finished),
    )


def _list_notices(entries: Sequence[ShownSlide]) -> dict[str, list[tuple[ShownSlide | None, str]]]:
    """Sentences by level, each with its slide: first slides without numbers or with wrong ones, then those to check."""
    found: dict[str, list[tuple[ShownSlide | None, str]]] = {"red": [], "amber": []}
    for entry in entries:
        for level, _, sentence in entry.notices:
            found[level].append((entry, sentence))
    models = by_model(entry.slide for entry in entries)
    if len(models) > 1:
        named = "; ".join(map(describe_model, models))
        words = f"Slides were made by different models, whose numbers may not compare: {named}"
        found["amber"].append((None, words))
    return found


def _class_mix(slides: Sequence[SlideResult]) -> list[tuple[str, list[dict[str, Any]], float]]:
    """Name, classes and mm2 of tissue of each model, if there are nuclei: classes of different models do not compare.

    The name of a single model is "".
    """
    added = classified(slides)
    models = by_model(added) if any(slide.n_nuclei for slide in added) else []
    return [
        (
            describe_model(group) if len(models) > 1 else "",
            add_up(slide.summary for slide in group),
            sum(slide.tissue_mm2 or 0 for slide in group),
        )
        for group in models
    ]


def _figures(slides: Sequence[SlideResult]) -> dict[str, str]:
    finished, added = [slide for slide in slides if slide.summary], counted(slides)
    tissue_mm2 = sum(slide.tissue_mm2 or 0 for slide in added)
    statuses = Counter(slide.status for slide in slides)
    return {
        "Slides finished": f"{len(finished)} of {len(slides)}" if statuses["failed"] else count_text(len(slides)),
        "Tissue": f"{area_text(tissue_mm2)} mm²",
        **_found(added),
        "Computing time": time_text(sum(slide.seconds for slide in slides)),
    }


def _found(slides: Sequence[SlideResult]) -> dict[str, str]:
    """Nuclei and their density, separately for each model, since models differ in what they find."""
    models = by_model(slides)
    found = {}
    for group in models:
        of_model = f", {describe_model(group)}" if len(models) > 1 else ""
        n_nuclei, tissue_mm2 = (
            sum(getattr(slide, name) or 0 for slide in group) for name in ("n_nuclei", "tissue_mm2")
        )
        found[f"Nuclei{of_model}"] = count_text(n_nuclei)
        if tissue_mm2:
            found[f"Density{of_model}"] = f"{density_text(n_nuclei / tissue_mm2)} /mm²"
    return found or {"Nuclei": count_text(0)}
