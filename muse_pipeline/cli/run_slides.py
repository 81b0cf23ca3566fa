"""Slides run one after the other into a folder of results, for `muse run`."""

from __future__ import annotations

import csv
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from muse_pipeline.cohort.changes import RunSettings, describe_changes, find_changes, name_version
from muse_pipeline.cohort.layout import CohortFiles, SlideFiles, withdraw_of_cohort, withdraw_results
from muse_pipeline.cohort.outcome import describe_nuclei
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.errors import MuseError, OutputError, SlideError
from muse_pipeline.core.files import remove, write_json
from muse_pipeline.core.text import count_noun, one_line, time_text
from muse_pipeline.inference.embed import Embedder
from muse_pipeline.inference.predictor import Predictor, RegionPredictor
from muse_pipeline.pipeline import Begin, add_files, run_slide
from muse_pipeline.report.cohort import SlideResult, judge_slide, read_rows
from muse_pipeline.report.costs import cost_lines
from muse_pipeline.report.page import write_report
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.slides.remote import SlideUrl
from muse_pipeline.slides.signature import fingerprint_file
from muse_pipeline.statistics.cohort_file import write_cohort


@dataclass(frozen=True)
class Plan:
    """The settings of a run of slides.

    Attributes:
        output: folder of the results, laid out as the workflow's.
        predictor: the model, one session for all slides.
        region_model: the model of tissue regions, or None.
        features: set of features that are measured of every nucleus.
        quality: the artefacts that totals leave out, as in ``pipeline.run_slide``.
        n_shards: number of shards of a slide's detection, unless its row has a number.
        threads: threads of the steps that use them.
        viewer: True to write the page of every slide for the browser.
        embedder: model that gives every nucleus a vector of features, or None.
        h5ad: True to write nuclei and cohort as AnnData too.
        csv: True to write nuclei as CSV too.
    """

    output: Path
    predictor: Predictor
    region_model: RegionPredictor | None = None
    features: str = "basic"
    quality: tuple[str, ...] | None = None
    n_shards: int = 1
    threads: int = 1
    viewer: bool = True
    embedder: Embedder | None = None
    h5ad: bool = False
    csv: bool = False

    @property
    def settings(self) -> RunSettings:
        """The settings that the results record."""
        model, regions = self.predictor, self.region_model
        named = name_version(regions.card.name, regions.sha256) if regions else "none"
        how = {"features": self.features, "quality": self.quality, "regions": named}
        return RunSettings(model.card.name, model.sha256, model.provider, **how)

    def shards_of(self, row: SheetRow) -> int:
        """Number of shards of the slide's detection."""
        return row.shards or self.n_shards


def run_slides(rows: list[SheetRow], plan: Plan) -> tuple[list[str], list[str], list[SheetRow]]:
    """Run every slide that is not finished with the same settings, and print a line for each; failures do not stop it.

    The report covers every slide that has results in the folder, including those of earlier runs.

    Args:
        rows: the slides.
        plan: settings of the run.

    Returns:
        the ids of the slides that failed, those of slides with nuclei whose region model failed, and the rows of the
        slides that were not skipped.

    Raises:
        OutputError: the output folder cannot be written to, or has another slide's results under the same name.
        SheetError: the records of earlier runs about their slides cannot be read.
    """
    sheet = plan.output / "sheet.json"
    earlier = read_earlier_rows(sheet)
    for row in rows:
        if row.slide_id in earlier and (before := earlier[row.slide_id].get("path")) != row.path:
            _require_no_other_slide(plan.output / row.slide_id, before, row.path)
    if others := earlier.keys() - {row.slide_id for row in rows}:
        print(f"slides of earlier runs that are in the report too: {len(others)}")
    changes = {row.slide_id: find_changes(plan.output / row.slide_id, row, plan.settings) for row in rows}
    for line in describe_changes({name: found for name, found in changes.items() if found}):
        print(line)
    kept = {row.slide_id: result for row in rows if changes[row.slide_id] == [] and (result := _finished(row, plan))}
    runs = {row.slide_id: {**row.cells(), "shards": plan.shards_of(row)} for row in rows}
    for name in kept:  # whose ledgers are of so many
        runs[name]["shards"] = earlier.get(name, {}).get("shards")
    write_json(sheet, list({**earlier, **runs}.values()))
    stopped = _run_each(rows, plan, kept)
    page, table = CohortFiles(plan.output).report, CohortFiles(plan.output).table
    for line in write_report(plan.output, read_rows(sheet), page, table):
        print(line)
    withdraw_of_cohort(plan.output, [row.slide_id for row in rows if row.slide_id not in kept])
    cohort = plan.output / "cohort.h5ad"
    if plan.h5ad and any(row["slide_id"] not in stopped for row in runs.values()):
        print(f"{cohort}: {count_noun(write_cohort(plan.output, read_rows(sheet), cohort), 'slide')}")
    with table.open(encoding="utf-8", newline="") as file:
        ended = {slide["slide_id"]: slide for slide in csv.DictReader(file, dialect="excel-tab")}
    failed = [name for name in runs if name in stopped or ended[name]["status"] == "failed"]
    without_regions = [name for name in runs if name not in failed and ended[name].get("regions") == "failed"]
    return failed, without_regions, [row for row in rows if row.slide_id not in kept]


def _finished(row: SheetRow, plan: Plan) -> SlideResult | None:
    """The result of a slide whose steps have all ended well, whatever its number of shards; else None."""
    result = judge_slide(plan.output, {**row.cells(), "shards": None})
    return None if result.status == "failed" else result


def _run_each(rows: list[SheetRow], plan: Plan, kept: dict[str, SlideResult]) -> set[str]:
    """Run the slides that are not ``kept``, complete the others, print a line for each; returns the ids that failed."""
    from tqdm import tqdm

    stopped: set[str] = set()
    with tqdm(total=len(rows), unit="slide", disable=None) as bar:
        for number, row in enumerate(rows, 1):
            started = time.monotonic()
            is_kept = row.slide_id in kept
            if problem := (add_logged if is_kept else run_logged)(row, plan, bar):
                stopped.add(row.slide_id)
                end = problem
            elif is_kept:
                end = f"{count_noun(kept[row.slide_id].n_nuclei, 'nucleus', 'nuclei')}, unchanged, skipped"
            else:
                end = _describe_end(row, plan, time.monotonic() - started)
            count = f" ({number} of {len(rows)})" if len(rows) > 1 else ""
            bar.write(f"{row.slide_id}: {end}{count}")
            bar.update()
    return stopped


def describe_costs(rows: list[SheetRow], plan: Plan, seconds: float, processor_seconds: float) -> Iterator[str]:
    """The time spent per step of a run of these slides, which took so many seconds in all, as lines."""
    return cost_lines([_judge(row, plan) for row in rows], seconds, processor_seconds)


def _judge(row: SheetRow, plan: Plan) -> SlideResult:
    return judge_slide(plan.output, {**row.cells(), "shards": plan.shards_of(row)})


def _describe_end(row: SheetRow, plan: Plan, seconds: float) -> str:
    """The result of a slide in words: its nuclei and time, or the step that failed and the reason."""
    result = _judge(row, plan)
    if result.status == "failed":
        return f"{result.step}: {result.reason}"
    found = f"{describe_nuclei(result.summary)}, {time_text(seconds)}"
    return "; ".join([found, *filter(None, [result.reason])])


def _require_no_other_slide(folder: Path, before: str, now: str | SlideUrl) -> None:
    """Make sure that results that are to be replaced are of the same slide: many slides have one name."""
    if isinstance(now, SlideUrl) or not SlideFiles(folder).nuclei.is_file():
        return
    try:
        is_other = fingerprint_file(now) != read_info(SlideFiles(folder).info).fingerprint
    except (OSError, SlideError):  # reported when it is run
        return
    if is_other:
        raise OutputError(f"{folder}: holds the results of {before}, another slide of that name; give another --output")


def read_earlier_rows(sheet: Path) -> dict[str, dict[str, Any]]:
    """The rows of slides whose folders are still beside ``sheet``, by slide_id; none if no run has written it.

    Raises:
        SheetError: the file is not a resolved sheet.
    """
    rows = read_rows(sheet) if sheet.exists() else []
    return {row["slide_id"]: row for row in rows if (sheet.parent / row["slide_id"]).is_dir()}


def run_logged(row: SheetRow, plan: Plan, bar) -> str:
    """Run one slide, with the output of its steps in its log; returns the reason of a failure, or ""."""
    files = SlideFiles(plan.output / row.slide_id)
    how = {
        "region_model": plan.region_model,
        "embedder": plan.embedder,
        "features": plan.features,
        "quality": plan.quality,
        "n_shards": plan.shards_of(row),
        "threads": plan.threads,
        "viewer": plan.viewer,
        "h5ad": plan.h5ad,
        "csv": plan.csv,
    }

    def run(begin: Begin) -> None:
        withdraw_results(files.folder)
        run_slide(row, files, plan.predictor, **how, begin=begin)

    try:
        return _log_steps(row, files.log("run"), bar, run)
    finally:
        remove(files.fetched)


def add_logged(row: SheetRow, plan: Plan, bar) -> str:
    """Write the files that a finished slide lacks, with the output in its log; returns why it failed, or ""."""
    files = SlideFiles(plan.output / row.slide_id)
    viewer = plan.viewer and not (files.folder / "viewer").is_dir()
    if not (plan.embedder or plan.h5ad or plan.csv or viewer):
        return ""
    how = {"embedder": plan.embedder, "csv": plan.csv, "h5ad": plan.h5ad, "viewer": viewer, "threads": plan.threads}
    return _log_steps(row, files.log("add"), bar, lambda begin: add_files(row, files, **how, begin=begin))


def _log_steps(row: SheetRow, log_file: Path, bar, run: Callable[[Begin], None]) -> str:
    steps = ["start"]

    def begin(step: str) -> None:
        steps.append(step)
        bar.set_description(f"{row.slide_id}: {step}")

    try:
        with _open_log(log_file) as log, redirect_stdout(log):
            run(begin)
    except MuseError as error:
        return f"{steps[-1]}: {error}"
    except Exception as error:  # a defect of ours
        with log_file.open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        return f"{steps[-1]}: unexpected {type(error).__name__}: {one_line(error)}; see {log_file}"
    return ""


def _open_log(path: Path) -> TextIO:
    """Open the log of a slide.

    Raises:
        OutputError: the log cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); give another --output") from error
