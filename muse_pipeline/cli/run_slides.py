"""Run slides one after another into a folder of results, for `muse run`."""

from __future__ import annotations

import csv
import json
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from muse_pipeline import __version__
from muse_pipeline.cohort.changes import describe_changes, read_changes
from muse_pipeline.cohort.layout import OF_COHORT, CohortFiles, SlideFiles, remove_cohort_files
from muse_pipeline.cohort.outcome import describe_nuclei
from muse_pipeline.cohort.plan import Plan
from muse_pipeline.cohort.settings import write_if_changed
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.errors import MuseError, NucleiError, OutputError, SlideError
from muse_pipeline.core.files import read_json, remove, write_json
from muse_pipeline.core.text import count_noun, one_line, time_text
from muse_pipeline.nuclei.parquet import open_nuclei, read_provenance
from muse_pipeline.outputs.base import FinishedSlide, Output, list_outputs
from muse_pipeline.outputs.removal import remove_output, remove_results, remove_unrequested
from muse_pipeline.pipeline import Begin, Models, run_slide, write_outputs
from muse_pipeline.report.cohort import SlideResult, gather_cohort, judge_slide, read_rows
from muse_pipeline.report.costs import cost_lines
from muse_pipeline.report.page import write_report
from muse_pipeline.settings import RunSettings, list_settings
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.slides.remote import SlideUrl
from muse_pipeline.slides.signature import fingerprint_file


@dataclass(frozen=True)
class SlidesPlan:
    """Plan of a run of several slides.

    Attributes:
        output: folder of the results, with the same layout as the workflow's.
        models: networks of the run, each with one session for all slides.
        settings: settings of the run.
        jobs: plan of the equivalent jobs of the workflow, from which the settings are recorded.
    """

    output: Path
    models: Models
    settings: RunSettings
    jobs: Plan

    def slide(self, row: SheetRow) -> FinishedSlide:
        """The finished slide that is passed to outputs."""
        files = SlideFiles(self.output / row.slide_id)
        return FinishedSlide(files, self.settings, row.patient, self.models.embedder, self.settings.threads)

    def shards_of(self, row: SheetRow) -> int:
        """Number of shards into which the slide's detection is divided."""
        return row.shards or self.settings.shards


def plan_run(rows: list[SheetRow], models: Models, settings: RunSettings) -> SlidesPlan:
    """Plan the run of these slides."""
    predictor = models.predictor
    model = {"name": predictor.card.name, "sha256": predictor.sha256, "provider": predictor.provider}
    cells = {row.slide_id: {**row.cells(), "shards": row.shards or settings.shards} for row in rows}
    jobs = Plan(settings, cells, model, settings=list_settings())
    return SlidesPlan(Path(settings.output), models, settings, jobs)


def run_slides(rows: list[SheetRow], plan: SlidesPlan) -> tuple[list[str], list[str], list[SheetRow]]:
    """Run every slide that is not finished with the same settings, and print a line for each, even if some fail.

    The report covers every slide that has results in the folder, including those of earlier runs.

    Args:
        rows: the slides.
        plan: plan of the run.

    Returns:
        The slide_ids of slides that failed; the slide_ids of slides with nuclei whose regions failed; and
        the rows of the slides that were run in full.

    Raises:
        OutputError: the output folder cannot be written to, or has a different slide's results under the same name.
        SheetError: the sheet.json of earlier runs cannot be read.
    """
    sheet = plan.output / "sheet.json"
    earlier = read_earlier_rows(sheet)
    for row in rows:
        if row.slide_id in earlier and (before := earlier[row.slide_id].get("path")) != row.path:
            _require_no_other_slide(plan.output / row.slide_id, before, row.path)
    if others := earlier.keys() - {row.slide_id for row in rows}:
        print(f"slides of earlier runs that are also in the report: {len(others)}")
    changes = {row.slide_id: find_changes(row, plan) for row in rows}
    kept = {row.slide_id for row in rows if _only_of_outputs(changes[row.slide_id]) and _has_all_steps(row, plan)}
    replaced = {name: found.values() for name, found in changes.items() if found}
    whole = {name: found for name, found in replaced.items() if name not in kept}
    outputs = {name: found for name, found in replaced.items() if name in kept}
    for line in [*describe_changes(whole), *describe_changes(outputs, "outputs, but not the nuclei,")]:
        print(line)
    runs = {row.slide_id: {**row.cells(), "shards": plan.shards_of(row)} for row in rows}
    for name in kept:  # the ledgers of kept slides have the earlier number of shards
        runs[name]["shards"] = earlier.get(name, {}).get("shards")
    sheet_changed = {name: _filled(earlier.get(name, {})) for name in runs} != {
        name: _filled(runs[name]) for name in runs
    }
    write_json(sheet, list({**earlier, **runs}.values()))
    for name in runs:
        remove_unrequested(plan.jobs, name)
    stopped = _run_each(rows, plan, kept)
    page, table = CohortFiles(plan.output).report, CohortFiles(plan.output).table
    slides, threads = gather_cohort(plan.output, read_rows(sheet)), plan.settings.threads
    for line in write_report(slides, plan.output, page, table, threads=threads):
        print(line)
    remove_cohort_files(
        plan.output, [row.slide_id for row in rows if row.slide_id not in kept], OF_COHORT if sheet_changed else ()
    )
    cohort = plan.output / "cohort.h5ad"
    if plan.settings.anndata and any(row["slide_id"] not in stopped for row in runs.values()):
        from muse_pipeline.statistics.cohort import write_cohort  # imports pandas, which takes time

        n_slides = write_cohort(plan.output, read_rows(sheet), cohort, plan.settings.threads)
        print(f"{cohort}: {count_noun(n_slides, 'slide')}")
    with table.open(encoding="utf-8", newline="") as file:
        ended = {slide["slide_id"]: slide for slide in csv.DictReader(file, dialect="excel-tab")}
    failed = [name for name in runs if name in stopped or ended[name]["status"] == "failed"]
    without_regions = [name for name in runs if name not in failed and ended[name].get("regions") == "failed"]
    return failed, without_regions, [row for row in rows if row.slide_id not in kept]


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    """The non-empty cells of a row, except the number of shards, which does not change results."""
    return {name: cell for name, cell in row.items() if cell is not None and name != "shards"}


def find_changes(row: SheetRow, plan: SlidesPlan) -> dict[str, str] | None:
    """A phrase for every changed setting, keyed by name; None if the slide has no readable nuclei from an earlier run.

    Settings that only request outputs are left out, since outputs are added without finding the nuclei again.
    """
    files = SlideFiles(plan.output / row.slide_id)
    if not files.nuclei.is_file():
        return None
    now = {name: value for name, value in plan.jobs.nuclei_settings(row.slide_id).items() if name != "shards"}
    changes = read_changes(files.record("nuclei"), now)
    if changes is None:
        return {"": "settings that are not recorded"}
    try:
        provenance = read_provenance(files.nuclei)
    except NucleiError:
        return None
    before = provenance.versions["muse-pipeline"]
    if changes.keys() == {"slide files"} and _has_content(row, provenance.fingerprint):
        changes = {}  # the file was copied, which changed its date
    if before != __version__:
        changes["muse-pipeline"] = f"muse-pipeline {before} -> {__version__}"
    switches = {output.switch.name for output in list_outputs() if output.switch and not output.by_stitch}
    switches -= _settings_of_table()
    return {name: phrase for name, phrase in changes.items() if name not in switches}


def _settings_of_table() -> set[str]:
    """Names of output settings on which columns of the table of nuclei depend."""
    return {name for output in list_outputs() for name in output.of_table}


def _has_content(row: SheetRow, fingerprint: str) -> bool:
    """True if a slide's file still has the content from which the results were made."""
    try:
        return fingerprint_file(row.path) == fingerprint
    except (OSError, SlideError):  # reported when the slide is run
        return False


def _only_of_outputs(changes: dict[str, str] | None) -> bool:
    """True if the changes do not affect nuclei, so that only outputs need to be written again."""
    of_outputs = {each.name for output in list_outputs() for each in output.settings} - _settings_of_table()
    return changes is not None and changes.keys() <= of_outputs


def _outdated_outputs(row: SheetRow, plan: SlidesPlan) -> list[Output]:
    """The requested outputs of a finished slide that are missing or were written with different settings."""
    slide = plan.slide(row)
    records = plan.jobs.job_settings(row.slide_id)
    changed = {job: read_changes(slide.files.record(job), now) for job, now in records.items()}
    return [
        output
        for output in list_outputs(plan.settings)
        if not output.by_stitch
        and (
            not output.is_written(slide)
            or (output.job != "nuclei" and changed[output.job] != {})
            or not changed["nuclei"].keys().isdisjoint([*(each.name for each in output.settings), *output.also_reads])
        )
    ]


def _has_all_steps(row: SheetRow, plan: SlidesPlan) -> bool:
    """True if all steps up to a slide's nuclei succeeded, with any number of shards; outputs may have failed."""
    result = judge_slide(plan.output, {**row.cells(), "shards": None})
    of_outputs = {output.step for output in list_outputs() if not output.by_stitch}
    return result.status != "failed" or result.step in of_outputs


def _run_each(rows: list[SheetRow], plan: SlidesPlan, kept: set[str]) -> set[str]:
    """Run slides not in ``kept``, update outputs of the others, and print a line for each; return failed slide_ids."""
    from tqdm import tqdm

    stopped: set[str] = set()
    with tqdm(total=len(rows), unit="slide", disable=None) as bar:
        for number, row in enumerate(rows, 1):
            started = time.monotonic()
            outdated = _outdated_outputs(row, plan) if row.slide_id in kept else None
            if problem := run_logged(row, plan, bar) if outdated is None else add_logged(row, plan, bar, outdated):
                stopped.add(row.slide_id)
                end = problem
            elif outdated is not None:
                added = f"wrote {', '.join(output.name for output in outdated)}" if outdated else "skipped"
                end = f"{_count_nuclei(row, plan)}, unchanged, {added}"
            else:
                end = _describe_end(row, plan, time.monotonic() - started)
            count = f" ({number} of {len(rows)})" if len(rows) > 1 else ""
            bar.write(f"{row.slide_id}: {end}{count}")
            bar.update()
    return stopped


def describe_costs(rows: list[SheetRow], plan: SlidesPlan, seconds: float, processor_seconds: float) -> Iterator[str]:
    """Yield lines about the time of each step in a run of these slides that took ``seconds`` in total."""
    return cost_lines([_judge(row, plan) for row in rows], seconds, processor_seconds)


def _judge(row: SheetRow, plan: SlidesPlan) -> SlideResult:
    return judge_slide(plan.output, {**row.cells(), "shards": plan.shards_of(row)})


def _count_nuclei(row: SheetRow, plan: SlidesPlan) -> str:
    with open_nuclei(plan.slide(row).files.nuclei) as file:
        return count_noun(file.metadata.num_rows, "nucleus", "nuclei")


def _describe_end(row: SheetRow, plan: SlidesPlan, seconds: float) -> str:
    """Describe a slide's result: the number of nuclei and the time, or the step that failed and the reason."""
    result = _judge(row, plan)
    if result.status == "failed":
        return f"{result.step}: {result.reason}"
    found = f"{describe_nuclei(result.summary)}, {time_text(seconds)}"
    return "; ".join([found, *filter(None, [result.reason])])


def _require_no_other_slide(folder: Path, before: str, now: str | SlideUrl) -> None:
    """Check that the results to be replaced belong to the same slide, since several slides may have the same name."""
    if isinstance(now, SlideUrl) or not SlideFiles(folder).nuclei.is_file():
        return
    try:
        is_other = fingerprint_file(now) != read_info(SlideFiles(folder).info).fingerprint
    except (OSError, SlideError):  # reported when the slide is run
        return
    if is_other:
        raise OutputError(f"{folder}: has the results of {before}, another slide of that name; give another --output")


def read_earlier_rows(sheet: Path) -> dict[str, dict[str, Any]]:
    """Rows of the resolved ``sheet`` whose folders still exist, keyed by slide_id; empty if there is no ``sheet``.

    Raises:
        SheetError: ``sheet`` is not a resolved sheet.
    """
    rows = read_rows(sheet) if sheet.exists() else []
    return {row["slide_id"]: row for row in rows if (sheet.parent / row["slide_id"]).is_dir()}


def run_logged(row: SheetRow, plan: SlidesPlan, bar) -> str:
    """Run one slide, write what its steps print to its log, and return the reason if it failed, otherwise ""."""
    files = plan.slide(row).files

    def run(begin: Begin) -> None:
        remove_results(files.folder)
        try:
            run_slide(row, files, plan.models, plan.settings, begin)
        finally:
            if files.nuclei.exists():  # so that the next run keeps the nuclei even if an output failed
                _record_settings(files, _settings_of_run(row, plan))

    try:
        return _log_steps(row, files.log("run"), bar, run)
    finally:
        remove(files.fetched)


def add_logged(row: SheetRow, plan: SlidesPlan, bar, outdated: list[Output]) -> str:
    """Write the ``outdated`` outputs of a finished slide, and a log; return the reason if that failed, otherwise ""."""
    slide, settings = plan.slide(row), plan.jobs.job_settings(row.slide_id)
    settings["nuclei"]["shards"] = read_json(slide.files.record("nuclei"))["shards"]
    requested = {"stitch", *(output.step for output in list_outputs(plan.settings))}
    for step in {output.step for output in list_outputs()} - requested:
        remove(slide.files.ledger(step))  # otherwise the report would still show their failures
    if not outdated:
        return ""

    def run(begin: Begin) -> None:
        for output in outdated:  # so that even if the run stops, every result has the recorded settings or is missing
            if output.is_written(slide):
                remove_output(slide.files, output, plan.jobs.model["name"])
            if output.job != "nuclei":
                remove(slide.files.record(output.job))
        _record_settings(slide.files, {"nuclei": settings["nuclei"]})
        write_outputs(slide, outdated, begin)
        _record_settings(
            slide.files, {output.job: settings[output.job] for output in outdated if output.job in settings}
        )

    return _log_steps(row, slide.files.log("add"), bar, run)


def _settings_of_run(row: SheetRow, plan: SlidesPlan) -> dict[str, dict[str, Any]]:
    """Settings to record for a slide, keyed by the equivalent job of the workflow; only jobs that wrote results."""
    settings = plan.jobs.job_settings(row.slide_id)
    slide = plan.slide(row)
    files, written = slide.files, [output for output in list_outputs(plan.settings) if output.is_written(slide)]
    unwritten = {output.job for output in list_outputs()} - {"nuclei", *(output.job for output in written)}
    if plan.settings.regions and not row.regions and read_json(files.regions)["status"] != "ok":
        settings["nuclei"]["regions"] = "failed"
        unwritten.add("regions")
    return {job: values for job, values in settings.items() if job not in unwritten}


def _record_settings(files: SlideFiles, settings: dict[str, dict[str, Any]]) -> None:
    """Record the settings of each job; later runs, including the workflow's, compare their settings with these."""
    for job, values in settings.items():
        write_if_changed(files.record(job), json.dumps(values, sort_keys=True, ensure_ascii=False))


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
    except Exception as error:  # a bug in this package
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
