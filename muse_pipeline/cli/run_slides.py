"""Run slides one after another into a folder of results, for `muse run`."""

import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from muse_pipeline.cohort.layout import OF_COHORT, CohortFiles, SlideFiles, remove_cohort_files
from muse_pipeline.cohort.ledgers import describe_nuclei
from muse_pipeline.cohort.records import describe_changes
from muse_pipeline.cohort.sheet import SheetRow, read_resolved
from muse_pipeline.core.errors import MuseError, OutputError, SlideError
from muse_pipeline.core.files import remove, write_json
from muse_pipeline.core.text import count_noun, one_line, time_text
from muse_pipeline.nuclei.parquet import open_nuclei
from muse_pipeline.pipeline import Models, run_slide
from muse_pipeline.plan import Plan
from muse_pipeline.report.cohort import SlideResult, gather_cohort, judge_slide
from muse_pipeline.report.page import write_report
from muse_pipeline.settings import RunSettings
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.slides.remote import SlideUrl
from muse_pipeline.slides.signature import fingerprint_file


def run_slides(rows: Sequence[SheetRow], plan: Plan, models: Models, settings: RunSettings) -> list[SlideResult]:
    """Run the jobs of slides that are not current, and print a line for each slide, even if some fail.

    Returns the outcomes of the slides that were not finished.
    """
    for line in describe_changes({slide: changes for slide in plan.slides if (changes := plan.find_replaced(slide))}):
        print(line)
    ran = []
    with tqdm(total=len(rows), unit="slide", disable=None) as bar:
        for number, row in enumerate(rows, 1):
            records, started = plan.records(row.slide_id), time.monotonic()
            records.remove_unrequested(plan.unrequested_jobs(row.slide_id))
            if records.outdated:
                problem = run_logged(row, plan, models, settings, bar)
                result = judge_slide(Path(settings.output), plan.row(row.slide_id))
                ran.append(replace(result, status="failed") if problem else result)
                end = problem or _describe_end(result, time.monotonic() - started)
            else:
                end = f"{_count_nuclei(records.folder)}, unchanged, skipped"
            count = f" ({number} of {len(rows)})" if len(rows) > 1 else ""
            bar.write(f"{row.slide_id}: {end}{count}")
            bar.update()
    return ran


def merge_sheet(rows: Sequence[SheetRow], plan: Plan) -> None:
    """Add the slides to the resolved sheet of earlier runs, which is written only if it changes."""
    output = Path(plan.config["output"])
    sheet = CohortFiles(output).sheet
    before = {row["slide_id"]: row for row in read_resolved(sheet)} if sheet.exists() else {}
    earlier = {name: row for name, row in before.items() if (output / name).is_dir()}
    for row in rows:
        if row.slide_id in earlier and (path := earlier[row.slide_id].get("path")) != row.path:
            _require_no_other_slide(SlideFiles(output / row.slide_id), path, row.path)
    if others := earlier.keys() - plan.rows.keys():
        print(f"slides of earlier runs that are also in the report: {len(others)}")
    merged = {**earlier, **plan.rows}
    if merged != before:
        write_json(sheet, list(merged.values()))


def write_cohort_files(plan: Plan, settings: RunSettings) -> None:
    """Write the report and the requested files of the cohort, and remove those that are out of date.

    The report covers all slides that have results in the folder, including those of earlier runs.
    """
    files, threads = CohortFiles(Path(settings.output)), settings.threads
    slides = gather_cohort(files.folder, read_resolved(files.sheet))
    for line in write_report(slides, files.folder, files.report, files.table, threads=threads):
        print(line)
    remove_cohort_files(files.folder, plan.slides, OF_COHORT)
    if settings.anndata and any(slide.summary for slide in slides if slide.slide_id in plan.rows):
        from muse_pipeline.statistics.cohort import write_cohort  # imports pandas, which takes time

        n_slides = write_cohort(files.folder, read_resolved(files.sheet), files.anndata, threads)
        print(f"{files.anndata}: {count_noun(n_slides, 'slide')}")


def run_logged(row: SheetRow, plan: Plan, models: Models, settings: RunSettings, bar: tqdm) -> str:
    """Run one slide, write what its steps print to its log, and return the reason if it failed, otherwise ""."""
    files, steps = SlideFiles(Path(plan.folder(row.slide_id))), ["start"]
    log_file = files.log("run")

    def begin(step: str) -> None:
        steps.append(step)
        bar.set_description(f"{row.slide_id}: {step}")

    try:
        with _open_log(log_file) as log, redirect_stdout(log):
            run_slide(row, plan, models, settings, begin)
    except MuseError as error:
        return f"{steps[-1]}: {error}"
    except Exception as error:  # a bug in this package
        with log_file.open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        return f"{steps[-1]}: unexpected {type(error).__name__}: {one_line(error)}; see {log_file}"
    finally:
        remove(files.fetched)
    return ""


def _open_log(path: Path) -> TextIO:
    """Open the log of a slide."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); give another --output") from error


def _count_nuclei(folder: Path) -> str:
    with open_nuclei(SlideFiles(folder).nuclei) as file:
        return count_noun(file.metadata.num_rows, "nucleus", "nuclei")


def _describe_end(slide: SlideResult, seconds: float) -> str:
    """Describe a slide's result: the number of nuclei and the time, or the step that failed and the reason."""
    if slide.status == "failed":
        return f"{slide.step}: {slide.reason}"
    nuclei = f"{describe_nuclei(slide.summary)}, {time_text(seconds)}"
    return f"{nuclei}; {slide.reason}" if slide.reason else nuclei


def _require_no_other_slide(files: SlideFiles, before: str, now: str | SlideUrl) -> None:
    """Check that the results to be replaced belong to the same slide, since several slides may have the same name."""
    if isinstance(now, SlideUrl) or not files.nuclei.is_file():
        return
    try:
        is_other = fingerprint_file(now) != read_info(files.info).fingerprint
    except (OSError, SlideError):  # reported when the slide is run
        return
    if is_other:
        raise OutputError(
            f"{files.folder}: has the results of {before}, another slide of that name; give another --output"
        )
