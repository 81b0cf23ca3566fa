"""Find the nuclei of slides or images, all steps at once, without Snakemake.

Writes the same files with the same bytes as the workflow, a folder per slide. A slide that fails is reported and the
others go on; the exit status is then 2. Slides that were run into the same folder before stay in its report. For many
slides, or to resume where a run stopped, use the workflow.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from muse_pipeline.cli.arguments import add_output_argument, add_provider_argument, at_least_one, path_or_url, positive

if TYPE_CHECKING:
    from muse_pipeline.slides.url import SlideUrl


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("slides", type=path_or_url, nargs="+", metavar="SLIDE", help="slides or plain images, or URLs")
    add_output_argument(parser, "OUT", "folder of the results")
    parser.add_argument("--mpp", type=positive, metavar="UM", help="um per level-0 pixel; overrides what the files say")
    parser.add_argument("--roi", type=Path, metavar="GEOJSON", help="keep to these areas, drawn in QuPath")
    parser.add_argument(
        "--mode",
        choices=("supervised", "label-free"),
        default="supervised",
        help='label-free: by a model that has seen no label, all of one class "Nucleus" (default: %(default)s)',
    )
    parser.add_argument("--model", help="a built-in model or an .onnx file (default: the mode's: compact, label_free)")
    add_provider_argument(parser)
    parser.add_argument("--shards", type=at_least_one, default=1, metavar="N", help="pieces that detection is cut into")
    parser.add_argument(
        "--threads",
        type=at_least_one,
        metavar="N",
        help="cores to use, which change no result (default: all that this process may use)",
    )


def run(args: argparse.Namespace) -> None:
    """Name the slides, run them, say where the results are."""
    from muse_pipeline.cli.steps import Plan, run_slides
    from muse_pipeline.errors import ConfigError, SlideError
    from muse_pipeline.inference.model_file import BUILT_IN_OF_MODE, find_model, name_model
    from muse_pipeline.inference.predictor import Predictor
    from muse_pipeline.inference.providers import choose_provider
    from muse_pipeline.slides.collect import name_slides
    from muse_pipeline.surroundings import count_cores

    for slide in args.slides:
        if isinstance(slide, Path):
            _require_slide_file(slide)
    if args.roi is not None:
        _require_areas(args.roi, args.slides, args.mpp)
    provider = choose_provider(args.provider)
    path = find_model(args.model or BUILT_IN_OF_MODE[args.mode], provider)
    model, card = name_model(path), Predictor(path, provider).card
    if args.mode == "label-free" and len(card.classes) > 1:
        names = ", ".join(one.name for one in card.classes)
        raise ConfigError(
            f"--mode label-free has nuclei of one class, and --model {args.model} has {names}; give one of the two"
        )
    print(f"model: {model} ({card.precision}), provider {provider}")
    rows = name_slides(args.slides, args.mpp, args.roi)
    _require_to_last([*args.slides, args.roi], [args.output / row.slide_id for row in rows])
    plan = Plan(args.output, model, card.mpp, args.shards, args.threads or count_cores(), provider)
    failed = run_slides(rows, plan)
    if failed:
        names = ", ".join(failed)
        raise SlideError(f"{len(failed)} of {len(rows)} slides failed ({names}); see {args.output / 'report.html'}")


def _require_areas(path: Path, slides: list[Path | SlideUrl], mpp: float | None) -> None:
    """Refuse what is no region of interest of any slide before results of an earlier run are withdrawn."""
    import warnings

    from muse_pipeline.errors import GeoJSONError, LeftOutWarning, MuseError
    from muse_pipeline.slides.guard import call_guarded
    from muse_pipeline.slides.inspect import inspect_slide
    from muse_pipeline.tissue.roi import read_areas, read_roi

    with warnings.catch_warnings(action="ignore", category=LeftOutWarning):  # `muse tissue` warns, slide by slide
        try:
            read_areas(path)
        except GeoJSONError as error:
            raise GeoJSONError(f"--roi {error}") from error
        for slide in slides:
            try:
                if isinstance(slide, Path):
                    read_roi(path, call_guarded(inspect_slide, slide, slide.stem, mpp))
                return
            except GeoJSONError as error:
                beside = error
            except MuseError:  # said of that slide when its turn comes
                return
    raise GeoJSONError(f"--roi {beside}")


def _require_to_last(inputs: list[Path | SlideUrl | None], folders: list[Path]) -> None:
    """Refuse to read what is withdrawn before it is read, as an earlier run's outline that is now given as --roi."""
    from muse_pipeline.cli.steps import replaced_results
    from muse_pipeline.errors import ConfigError

    homes = {folder.resolve() for folder in folders}
    for slide in inputs:
        if isinstance(slide, Path) and slide.suffix.lower() == ".mrxs" and slide.with_suffix("").resolve() in homes:
            raise ConfigError(f"{slide}: its own pixels lie where its results would; give another --output")
    replaced = {path.resolve() for folder in folders for path in replaced_results(folder)}
    for path in inputs:
        if isinstance(path, Path) and path.resolve() in replaced:
            raise ConfigError(f"{path}: is a result of an earlier run, which this one replaces; give a copy of it")


def _require_slide_file(path: Path) -> None:
    """Refuse what cannot be a slide before it becomes one of the results."""
    from muse_pipeline.errors import SlideError
    from muse_pipeline.slides.sheet import is_sheet, require_utf8
    from muse_pipeline.slides.signature import require_file

    if not path.is_file():
        require_file(path)
    if is_sheet(path):
        require_utf8(path)
        raise SlideError(f"{path}: is a sheet of slides; run it with `snakemake --cores N --config slides={path}`")
