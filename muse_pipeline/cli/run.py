"""Find the nuclei of slides or images: all steps in one command, without Snakemake.

    muse run slide.svs -o results          also several slides, folders of slides, and sheets (TSV, CSV)

Writes one folder per slide, with the same files and bytes as the workflow. Prints a line per slide; the output of the
steps is in OUT/<slide>/logs. Slides that are finished with the same settings are skipped. If a slide fails, the others
are still run, and the exit status is 2. Slides of earlier runs into the same folder stay in its report.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muse_pipeline.cli.arguments import (
    add_output_argument,
    add_setting_arguments,
    add_specimen_arguments,
    at_least_one,
    path_or_url,
    positive,
    read_settings,
)
from muse_pipeline.core.text import some_of
from muse_pipeline.settings import list_run_settings

if TYPE_CHECKING:
    from muse_pipeline.cohort.sheet import SheetRow
    from muse_pipeline.core.types import SlideInfo
    from muse_pipeline.pipeline import Models
    from muse_pipeline.plan import Plan
    from muse_pipeline.settings import RunSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "slides", type=path_or_url, nargs="+", metavar="SLIDES", help="slides, images, URLs, folders or sheets"
    )
    add_output_argument(parser, "OUT", "folder of the results")
    parser.add_argument("--mpp", type=positive, metavar="UM", help="um per level-0 pixel, instead of the files'")
    add_specimen_arguments(parser)
    parser.add_argument("--roi", type=Path, metavar="GEOJSON", help="analyse only these areas, drawn in QuPath")
    parser.add_argument(
        "--regions",
        metavar="nuclei|MODEL|GEOJSON",
        help="add the tissue region of every nucleus, from the classes of the nuclei (`nuclei`), from a region model "
        "or from areas drawn in QuPath",
    )
    add_setting_arguments(parser, list_run_settings())
    parser.add_argument(
        "--threads",
        type=at_least_one,
        metavar="N",
        help="number of cores, which does not change results (default: all that this process may use)",
    )
    parser.add_argument(
        "--no-report", action="store_true", help="only run the slides, beside other runs into the same folder"
    )
    parser.add_argument("--profile", action="store_true", help="also print the time of every step")


def run(args: argparse.Namespace) -> None:
    """Find the slides and the model, run the unfinished slides, and raise an error that lists failed ones."""
    # The time of a run includes these imports.
    started = time.monotonic()
    from muse_pipeline.slides.inspect import start_inspector

    start_inspector()  # before the imports, because pyarrow starts a thread
    from muse_pipeline.cli.run_slides import merge_sheet, run_slides, write_cohort_files
    from muse_pipeline.cohort.lock import lock_results
    from muse_pipeline.core.environment import all_processor_seconds
    from muse_pipeline.core.errors import SlideError
    from muse_pipeline.pipeline import plan_slides
    from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES
    from muse_pipeline.report.costs import cost_lines

    drawn = Path(args.regions) if args.regions and args.regions.lower().endswith(GEOJSON_SUFFIXES) else None
    rows = _find_rows(args, drawn)
    models, settings = _load_models(args, None if drawn else args.regions)
    plan, output = plan_slides(rows, models, settings), Path(settings.output)  # in which ~ is expanded
    _require_to_last(rows, plan)
    with nullcontext() if args.no_report else lock_results(output, "muse run"):
        if not args.no_report:
            merge_sheet(rows, plan)
        ran = run_slides(rows, plan, models, settings)
        if not args.no_report:
            write_cohort_files(plan, settings)
    if args.profile:
        print(*cost_lines(ran, time.monotonic() - started, all_processor_seconds()), sep="\n")
    failed = [slide.slide_id for slide in ran if slide.status == "failed"]
    without_regions = [slide.slide_id for slide in ran if slide.lacks_regions]
    for names, what in ((failed, "failed"), (without_regions, "have no tissue regions, because mapping failed")):
        if names:
            page = output / ("" if args.no_report else "report.html")
            raise SlideError(f"{len(names)} of {len(rows)} slides {what} ({some_of(names)}); see {page}")


def _find_rows(args: argparse.Namespace, drawn: Path | None) -> list[SheetRow]:
    """The slides of the run; ``drawn`` is a file of tissue regions."""
    from muse_pipeline.cohort.collect import find_rows
    from muse_pipeline.qupath.regions import read_class_areas, read_roi
    from muse_pipeline.slides.mpp import require_mpp
    from muse_pipeline.slides.signature import require_file

    for location in args.slides:
        if isinstance(location, Path) and not (location.is_file() or location.is_dir()):
            require_file(location)
    mpp = args.mpp and require_mpp(args.mpp)
    rows = [row.complete(args.organ, args.stain) for row in find_rows(args.slides, mpp, args.roi, drawn)]
    for option, areas, read in (("--roi", args.roi, read_roi), ("--regions", drawn, read_class_areas)):
        if areas is not None:
            _require_areas(option, areas, read, rows)
    return rows


def _load_models(args: argparse.Namespace, regions: str | None) -> tuple[Models, RunSettings]:
    """Load the networks of the run, print the name of the model, and complete the settings."""
    from muse_pipeline.cohort.settings import require_fitting_model
    from muse_pipeline.core.environment import count_cores
    from muse_pipeline.core.types import FROM_NUCLEI, MODEL_OF_MODE
    from muse_pipeline.inference.embed import Embedder
    from muse_pipeline.inference.model import choose_provider, find_model, find_region_model, name_model
    from muse_pipeline.inference.predictor import Predictor, RegionPredictor
    from muse_pipeline.outputs.geojson import require_measurements
    from muse_pipeline.pipeline import Models
    from muse_pipeline.settings import RunSettings, require_available

    provider = choose_provider(args.provider)
    path = find_model(args.model or MODEL_OF_MODE[args.mode], provider)
    predictor = Predictor(path, provider)
    card = predictor.card
    classes = [kind.name for kind in card.classes]
    of_run = {"output": str(args.output), "mpp": card.mpp, "regions": regions}
    settings = RunSettings(read_settings(args, list_run_settings()) | of_run, args.threads or count_cores())
    require_available(settings)
    require_fitting_model(settings, {"name": card.name, "mpp": card.mpp, "classes": classes})
    require_measurements(settings.measurements, settings.features, classes, settings.cells)
    print(f"model: {name_model(path)} ({card.precision}), provider {provider}")
    mapper = None
    if settings.regions not in (None, FROM_NUCLEI):
        mapper = RegionPredictor(find_region_model(settings.regions, provider), provider)
    return Models(predictor, mapper, Embedder(path, provider) if settings.embedding else None), settings


def _require_areas(option: str, path: Path, read: Callable[[Path, SlideInfo], Any], rows: list[SheetRow]) -> None:
    """Check that a file has areas on at least one of the slides, before results of an earlier run are removed."""
    import warnings

    from muse_pipeline.core.errors import GeoJSONError, LeftOutWarning, MuseError
    from muse_pipeline.qupath.regions import read_areas
    from muse_pipeline.slides.inspect import inspect_slide
    from muse_pipeline.slides.isolation import call_isolated
    from muse_pipeline.slides.remote import is_url

    with warnings.catch_warnings(action="ignore", category=LeftOutWarning):  # `muse tissue` warns for each slide
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


def _require_to_last(rows: list[SheetRow], plan: Plan) -> None:
    """Check that no input is a file that this run removes first, such as an earlier run's outline given as --roi."""
    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.slides.remote import is_url

    records = [plan.records(row.slide_id) for row in rows]
    homes = {of_slide.folder.resolve() for of_slide in records}
    read = sorted(
        {location for row in rows for location in (row.path, row.roi, row.regions) if location and not is_url(location)}
    )
    for path in map(Path, read):
        if path.suffix.lower() == ".mrxs" and path.with_suffix("").resolve() in homes:
            raise ConfigError(f"{path}: its folder of pixels is also the folder of its results; give another --output")
        if homes & set(path.resolve().parents):
            results = (of_slide.find_results(job) for of_slide in records for job in of_slide.jobs)
            if path.resolve() in map(Path.resolve, chain.from_iterable(results)):
                raise ConfigError(
                    f"{path}: is a result of an earlier run that this run replaces; give a copy of the file"
                )
