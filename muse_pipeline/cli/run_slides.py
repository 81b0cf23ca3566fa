"""Run slides into a folder of results, for `muse run`: small ones at the same time in several
processes, others one after another with all threads.
"""

import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import Any, TextIO

from tqdm import tqdm

from muse_pipeline.cohort.collect import find_rows
from muse_pipeline.cohort.layout import OF_COHORT, CohortFiles, SlideFiles, remove_cohort_files
from muse_pipeline.cohort.ledgers import describe_nuclei
from muse_pipeline.cohort.lock import lock_results
from muse_pipeline.cohort.records import Records, describe_changes
from muse_pipeline.cohort.settings import require_fitting_model
from muse_pipeline.cohort.sheet import SheetRow, read_resolved
from muse_pipeline.core.environment import count_cores
from muse_pipeline.core.errors import (
    ConfigError,
    GeoJSONError,
    LeftOutWarning,
    MuseError,
    OutputError,
    SlideError,
)
from muse_pipeline.core.files import remove, write_json
from muse_pipeline.core.pool import ProcessPool
from muse_pipeline.core.text import count_noun, one_line, some_of, time_text
from muse_pipeline.core.types import FROM_NUCLEI, MODEL_OF_MODE, SlideInfo
from muse_pipeline.inference.embed import Embedder
from muse_pipeline.inference.model import choose_provider, find_model, find_region_model, name_model
from muse_pipeline.inference.predictor import Predictor, RegionPredictor
from muse_pipeline.nuclei.parquet import open_nuclei
from muse_pipeline.outputs.geojson import require_measurements
from muse_pipeline.pipeline import Begin, Models, plan_slides, run_slide
from muse_pipeline.plan import Plan, find_replaced
from muse_pipeline.qupath.regions import read_areas, read_class_areas, read_roi
from muse_pipeline.report.cohort import SlideResult, gather_cohort, judge_slide
from muse_pipeline.report.page import load_page, write_report
from muse_pipeline.settings import RunSettings, read_run_config, require_available
from muse_pipeline.slides.inspect import inspect_slide, read_info, start_inspector
from muse_pipeline.slides.isolation import call_isolated
from muse_pipeline.slides.mpp import require_mpp
from muse_pipeline.slides.remote import SlideUrl, is_url
from muse_pipeline.slides.signature import fingerprint_file, require_file

OF_WORKFLOW = ("pretrain", "proposals", "extra_mpps")  # settings that only the workflow has
OF_REPORT = ("statistics", "include_doubtful")
LEAST_EACH = 4  # small slides for each process, which takes a second to start
# what a slide needs, imported by each process while this one loads the model
PRELOADED = (
    __name__,
    "muse_pipeline.inference.artefacts",
    "muse_pipeline.inference.stitch",
    "muse_pipeline.features.measure",
    "muse_pipeline.store.write",
    "muse_pipeline.slides.tiffslide",
)


def run_into_folder(
    rows: Sequence[SheetRow], models: Models, settings: RunSettings, no_report: bool
) -> None:
    """Run the unfinished slides, and raise an error that lists failed ones."""
    plan = plan_slides(rows, models, settings)
    output = Path(settings.output)  # in which ~ is expanded
    records = {slide: plan.records(slide) for slide in plan.slides}
    _require_to_last(rows, records.values())
    with nullcontext() if no_report else lock_results(output, "muse run"):
        if not no_report:
            merge_sheet(rows, plan)
            if settings.threads > 1:  # the first steps of a slide use one thread
                Thread(target=load_page, daemon=True).start()
        ran = run_slides(rows, plan, records, models, settings)
        if not no_report:
            write_cohort_files(plan, settings)
    failed = [slide.slide_id for slide in ran if slide.status == "failed"]
    without_regions = [slide.slide_id for slide in ran if "unmapped" in slide.trust.findings]
    for names, what in (
        (failed, "failed"),
        (without_regions, "have no tissue regions, because mapping failed"),
    ):
        if names:
            page = output / ("" if no_report else CohortFiles.report)
            raise SlideError(
                f"{len(names)} of {len(rows)} slides {what} ({some_of(names)}); see {page}"
            )


def choose_rows(
    slides: Sequence[Path | str],
    mpp: float | None,
    roi: Path | None,
    drawn: Path | None,
    specimen: Mapping[str, str | None],
) -> list[SheetRow]:
    """The slides of the run; ``drawn`` is a file of tissue regions, and ``specimen`` has an organ
    and a stain for slides whose row in a sheet does not state them.
    """
    for location in slides:
        if isinstance(location, Path) and not (location.is_file() or location.is_dir()):
            require_file(location)
    found = find_rows(slides, mpp and require_mpp(mpp), roi, drawn)
    rows = [row.complete(**specimen) for row in found]
    for option, areas, read in (("--roi", roi, read_roi), ("--regions", drawn, read_class_areas)):
        if areas is not None:
            _require_areas(option, areas, read, rows)
    return rows


def load_run(
    options: Mapping[str, Any], config: Path | None, threads: int | None, no_report: bool
) -> tuple[Models, RunSettings]:
    """Load the networks of the run, print the name of the model, and complete the settings."""
    only_workflow = OF_WORKFLOW if no_report else (*OF_WORKFLOW, *OF_REPORT)
    given = {**read_run_config(config, only_workflow), **options}
    provider = choose_provider(given.get("provider", "cpu"))
    path = find_model(given.get("model") or MODEL_OF_MODE[given.get("mode")], provider)
    predictor = Predictor(path, provider)
    card = predictor.card
    classes = [kind.name for kind in card.classes]
    settings = RunSettings({**given, "mpp": card.mpp}, threads or count_cores())
    require_available(settings)
    require_fitting_model(settings, {"name": card.name, "mpp": card.mpp, "classes": classes})
    require_measurements(settings.measurements, settings.features, classes, settings.cells)
    print(f"model: {name_model(path)} ({card.precision}), provider {provider}")
    mapper = None
    if settings.regions not in (None, FROM_NUCLEI):
        mapper = RegionPredictor(find_region_model(settings.regions, provider), provider)
    embedder = Embedder(path, provider) if settings.embedding else None
    return Models(predictor, mapper, embedder), settings


def _require_areas(
    option: str, path: Path, read: Callable[[Path, SlideInfo], Any], rows: list[SheetRow]
) -> None:
    """Check that a file has areas on at least one of the slides, before results of an earlier run
    are removed.
    """
    # `muse step tissue` warns for each slide
    with warnings.catch_warnings(action="ignore", category=LeftOutWarning):
        try:
            read_areas(path)
        except GeoJSONError as error:
            raise GeoJSONError(f"{option} {error}") from error
        for row in rows:
            try:
                if not is_url(row.path):
                    read(path, call_isolated(inspect_slide, Path(row.path), row.slide_id, row.mpp))
                return
            except GeoJSONError as error:
                beside = error
            except MuseError:  # reported when the slide is run
                return
    raise GeoJSONError(f"{option} {beside}")


def _require_to_last(rows: list[SheetRow], records: Collection[Records]) -> None:
    """Check that no input is a file that this run removes first, such as an earlier run's outline
    given as --roi.
    """
    homes = {of_slide.folder.resolve() for of_slide in records}
    read = sorted(
        {
            location
            for row in rows
            for location in (row.path, row.roi, row.regions)
            if location and not is_url(location)
        }
    )
    for path in map(Path, read):
        if path.suffix.lower() == ".mrxs" and path.with_suffix("").resolve() in homes:
            raise ConfigError(
                f"{path}: its folder of pixels is also the folder of its results; give another"
                " --output"
            )
        if homes & set(path.resolve().parents):
            results = (of_slide.find_results(job) for of_slide in records for job in of_slide.jobs)
            if path.resolve() in map(Path.resolve, chain.from_iterable(results)):
                raise ConfigError(
                    f"{path}: is a result of an earlier run that this run replaces; give a copy of"
                    " the file"
                )


def run_slides(
    rows: Sequence[SheetRow],
    plan: Plan,
    records: Mapping[str, Records],
    models: Models,
    settings: RunSettings,
) -> list[SlideResult]:
    """Run the jobs of slides that are not current, and print a line for each slide when it ends,
    even if some fail.

    Small slides are run at the same time.

    Returns the outcomes of the slides that were not finished.
    """
    replaced = {slide: find_replaced(of_slide) for slide, of_slide in records.items()}
    for line in describe_changes(
        {slide: changes for slide, changes in replaced.items() if changes}
    ):
        print(line)
    ran = []
    outdated = []
    ended = []
    with tqdm(total=len(rows), unit="slide", disable=None) as bar:

        def print_end(row: SheetRow, end: str) -> None:
            bar.update()
            ended.append(row)
            count = f" ({len(ended)} of {len(rows)})" if len(rows) > 1 else ""
            bar.write(f"{row.slide_id}: {end}{count}")

        for row in rows:
            of_slide = records[row.slide_id]
            of_slide.remove_unrequested(plan.unrequested_jobs(row.slide_id))
            if of_slide.outdated:
                outdated.append(row)
                continue
            with open_nuclei(SlideFiles(of_slide.folder).nuclei) as file:
                n_nuclei = count_noun(file.metadata.num_rows, "nucleus", "nuclei")
            print_end(row, f"{n_nuclei}, unchanged, skipped")
        ends = _run_outdated(outdated, plan, records, models, settings, bar)
        for row, (problem, seconds) in ends:
            result = judge_slide(Path(settings.output), plan.row(row.slide_id))
            ran.append(replace(result, status="failed") if problem else result)
            print_end(row, problem or _describe_end(result, seconds))
    return ran


def _run_outdated(
    rows: Sequence[SheetRow],
    plan: Plan,
    records: Mapping[str, Records],
    models: Models,
    settings: RunSettings,
    bar: tqdm,
) -> Iterator[tuple[SheetRow, tuple[str, float]]]:
    """Run small slides in several processes, then the others one after another with all threads;
    yield each slide with its problem and seconds when it ends.
    """
    small = [row for row in rows if plan.is_small(row.slide_id)]
    n = min(settings.threads, len(small) // LEAST_EACH)
    if n < 2 or models.predictor.provider != "cpu":
        small = []
    else:
        mapper = models.regions and models.regions.path
        names = models.predictor.path, "cpu", mapper, models.embedder is not None
        alone = RunSettings(dict(settings))
        parts = [(row, records[row.slide_id]) for row in small]
        start = partial(start_inspector, [row.path for row in small])
        with ProcessPool(n - 1, start, PRELOADED) as pool:
            ends = pool.map(
                partial(_run_small, names, alone),
                parts,
                lambda part: run_logged(*part, models, alone),
            )
            yield from ((row, end) for (row, _), end in ends)
    done = {row.slide_id for row in small}
    for row in rows:
        if row.slide_id not in done:

            def begin(step: str, slide: str = row.slide_id) -> None:
                bar.set_description(f"{slide}: {step}")

            yield row, run_logged(row, records[row.slide_id], models, settings, begin)


def _run_small(
    names: tuple[Path, str, Path | None, bool],
    settings: RunSettings,
    part: tuple[SheetRow, Records],
) -> tuple[str, float]:
    return run_logged(*part, load_models(*names), settings)


@lru_cache(1)
def load_models(path: Path, provider: str, regions: Path | None, embeds: bool) -> Models:
    """Load the networks of a run."""
    return Models(
        Predictor(path, provider),
        regions and RegionPredictor(regions, provider),
        Embedder(path, provider) if embeds else None,
    )


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
    """Write the report and the requested files of the cohort, and remove those that are out of
    date.

    The report covers all slides that have results in the folder, including those of earlier runs.
    """
    files = CohortFiles(Path(settings.output))
    threads = settings.threads
    slides = gather_cohort(files.folder, read_resolved(files.sheet))
    for line in write_report(slides, files.folder, files.report, files.table, threads=threads):
        print(line)
    remove_cohort_files(files.folder, plan.slides, OF_COHORT)
    if settings.anndata and any(slide.summary for slide in slides if slide.slide_id in plan.rows):
        from muse_pipeline.statistics.cohort import write_cohort  # imports pandas, which takes time

        n_slides = write_cohort(files.folder, read_resolved(files.sheet), files.anndata, threads)
        print(f"{files.anndata}: {count_noun(n_slides, 'slide')}")


def run_logged(
    row: SheetRow, records: Records, models: Models, settings: RunSettings, begin: Begin = str
) -> tuple[str, float]:
    """Run one slide, and write what its steps print to its log.

    Returns the reason if it failed, otherwise "", and the seconds that it took.
    """
    started, steps = time.monotonic(), ["start"]
    files = SlideFiles(records.folder)
    log_file, reason = files.log("run"), ""

    def begin_step(step: str) -> None:
        steps.append(step)
        begin(step)

    try:
        with _open_log(log_file) as log, redirect_stdout(log):
            run_slide(row, records, models, settings, begin_step)
    except MuseError as error:
        reason = str(error)
    except Exception as error:  # a bug in this package
        with log_file.open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        reason = f"unexpected {type(error).__name__}: {one_line(error)}; see {log_file}"
    finally:
        remove(files.fetched)
    return reason and f"{steps[-1]}: {reason}", time.monotonic() - started


def _open_log(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror}); give another --output"
        ) from error


def _describe_end(slide: SlideResult, seconds: float) -> str:
    """Describe a slide's result: the number of nuclei and the time, or the step that failed and the
    reason.
    """
    if slide.status == "failed":
        return f"{slide.step}: {slide.reason}"
    nuclei = f"{describe_nuclei(slide.summary)}, {time_text(seconds)}"
    return f"{nuclei}; {slide.reason}" if slide.reason else nuclei


def _require_no_other_slide(files: SlideFiles, before: str, now: str | SlideUrl) -> None:
    """Check that the results to be replaced belong to the same slide, since several slides may have
    the same name.
    """
    if isinstance(now, SlideUrl) or not files.nuclei.is_file():
        return
    try:
        is_other = fingerprint_file(now) != read_info(files.info).fingerprint
    except (OSError, SlideError):  # reported when the slide is run
        return
    if is_other:
        raise OutputError(
            f"{files.folder}: has the results of {before}, another slide of that name; give another"
            " --output"
        )
