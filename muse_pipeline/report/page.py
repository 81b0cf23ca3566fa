"""The report of a cohort: tables, and ``report.html``, a page that needs neither network nor script."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from muse_pipeline.core.environment import count_cores
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.text import area_text, count_text, density_text, time_text
from muse_pipeline.qupath.write import copy_import_script
from muse_pipeline.report.cohort import (
    SlideResult,
    by_model,
    classified,
    counted,
    describe_model,
    describe_total,
    summarise_cohort,
)
from muse_pipeline.report.costs import cost_table
from muse_pipeline.report.html import EMBEDDED_SLIDES, Album, Markup, element, frame_document
from muse_pipeline.report.model_facts import model_facts, pretraining_facts
from muse_pipeline.report.notices import AMBER, RED, find_notices, rank, summarise_failures, summarise_flags
from muse_pipeline.report.plots import cohort_plots
from muse_pipeline.report.slide_card import add_up, class_bar, definitions, slide_card
from muse_pipeline.report.statistics import statistics_section
from muse_pipeline.report.tables import OPEN_SLIDES, slide_table, write_roi_table, write_table


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

    Slides are given in the order of the sheet and shown by ``notices.rank``, the failed ones first. The pictures of up
    to ``EMBEDDED_SLIDES`` slides are embedded in the page; the page of a larger cohort links to the files beside it.
    """
    ranked = sorted(slides, key=rank)
    anchored = [(f"slide-{i}", slide) for i, slide in enumerate(ranked, 1)]
    album = Album(path, embedded=len(slides) <= EMBEDDED_SLIDES)
    with complete_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        before, after = frame_document(f"Nuclei report – {summarise_cohort(slides)}", script="page.js")
        file.write(before)
        file.writelines(_sections(anchored, album, pretraining, statistics))
        file.write(after)


def _sections(
    anchored: Sequence[tuple[str, SlideResult]], album: Album, pretraining: Path | None, statistics: Path | None
) -> Iterator[Markup]:
    slides = [slide for _, slide in anchored]
    finished = [slide for slide in slides if slide.summary]
    yield element("h1", "Nuclei report")
    yield element("p", summarise_cohort(slides), class_="lead")
    yield from _attention(anchored)
    yield _figures(slides)
    if finished:
        yield element("p", f"In these totals: {describe_total(slides)}.", class_="note")
    if any(slide.n_nuclei for slide in classified(slides)):
        yield from _class_bars(by_model(classified(slides)))
        words = "What the classes mean, and on which tissue the model was trained"
        yield element("p", element("a", words, href="#model"), class_="note")
    if statistics:
        yield from statistics_section(statistics)
    yield element("h2", "All slides")
    yield slide_table(anchored, album)
    yield from cohort_plots(anchored)
    yield from _cards(anchored, album)
    if costs := cost_table(slides):
        yield element("h2", "Where the time went")
        yield costs
    if pretraining:
        yield element("h2", "Pretraining")
        yield pretraining_facts(pretraining, album)
    if finished:
        yield element("h2", "Model", id="model")
        yield model_facts(slide.provenance for slide in finished)


def _cards(anchored: Sequence[tuple[str, SlideResult]], album: Album) -> Iterator[Markup]:
    """A card for every slide; in a large cohort as text that the script of the page turns into a card on opening."""
    cards = map_in_order(lambda each: slide_card(each[1], each[0], album), anchored, count_cores())
    if len(anchored) <= OPEN_SLIDES:
        yield element("h2", "Slide by slide")
        yield from cards
        return
    yield element("h2", "Opened slides")
    yield element("p", "A slide is shown here when its name is pressed.", class_="note", id="opened")
    yield Markup('<script type="text/html" id="cards">')
    yield from cards
    yield Markup("</script>")


def _attention(anchored: Sequence[tuple[str, SlideResult]]) -> Iterator[Markup]:
    """Slides without numbers or with wrong ones, then those to check, each with the reason."""
    entries: dict[str, list[Markup]] = {RED: [], AMBER: []}
    for anchor, slide in anchored:
        for level, _, sentence in find_notices(slide):
            link = element("a", element("bdi", slide.slide_id), href=f"#{anchor}")
            entries[level].append(element("li", link, f" {sentence}"))
    models = by_model(slide for _, slide in anchored)
    if len(models) > 1:
        named = "; ".join(map(describe_model, models))
        words = f"Slides were made by different models, whose numbers may not compare: {named}"
        entries[AMBER].append(element("li", words))
    for level, title in ((RED, "Needs attention"), (AMBER, "Check before use")):
        if entries[level]:
            yield element("section", element("h2", title), element("ul", *entries[level]), class_=f"attention {level}")


def _class_bars(models: Sequence[Sequence[SlideResult]]) -> Iterator[Markup]:
    """A bar per model, with its name if there are several: classes of different models are not comparable."""
    for slides in models:
        if len(models) > 1:
            yield element("p", element("bdi", describe_model(slides)), class_="note")
        yield class_bar(add_up(slide.summary for slide in slides), sum(slide.tissue_mm2 or 0 for slide in slides))


def _figures(slides: Sequence[SlideResult]) -> Markup:
    finished, added = [slide for slide in slides if slide.summary], counted(slides)
    tissue_mm2 = sum(slide.tissue_mm2 or 0 for slide in added)
    statuses = Counter(slide.status for slide in slides)
    pairs = {
        "Slides finished": f"{len(finished)} of {len(slides)}" if statuses["failed"] else count_text(len(slides)),
        "Tissue": f"{area_text(tissue_mm2)} mm²",
        **_found(added),
        "Computing time": time_text(sum(slide.seconds for slide in slides)),
    }
    return definitions(pairs, "figures")


def _found(slides: Sequence[SlideResult]) -> dict[str, str | None]:
    """Nuclei and their density, separately for each model, since models differ in what they find."""
    models = by_model(slides)
    found = {}
    for group in models:
        of_model = f", {describe_model(group)}" if len(models) > 1 else ""
        n_nuclei, tissue_mm2 = (
            sum(getattr(slide, name) or 0 for slide in group) for name in ("n_nuclei", "tissue_mm2")
        )
        found[f"Nuclei{of_model}"] = count_text(n_nuclei)
        found[f"Density{of_model}"] = f"{density_text(n_nuclei / tissue_mm2)} /mm²" if tissue_mm2 else None
    return found or {"Nuclei": count_text(0)}
