"""Number types of arguments, checked before any work begins, and arguments that several verbs share."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from shutil import get_terminal_size

from muse_pipeline.core.environment import count_cores
from muse_pipeline.core.types import ACCELERATORS, DOUBTS, FEATURE_SETS, GEOJSON_FRAMES, SUBTRACTED

LEAST_COLUMNS = 60  # narrower than that, text is a heap of letters


def text_columns() -> int:
    """Width of printed text: that of the terminal, or 100 without a terminal."""
    return max(get_terminal_size((100, 24)).columns, LEAST_COLUMNS)


def at_least_one(text: str) -> int:
    """An integer of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return int(text)


def zero_or_more(text: str) -> int:
    """An integer of at least 0."""
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 0 or more")
    return int(text)


def positive(text: str) -> float:
    """A finite number above 0."""
    if not 0 < (number := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number above 0")
    return number


def not_negative(text: str) -> float:
    """A finite number of at least 0."""
    if not 0 <= (number := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of 0 or more")
    return number


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    if not 0 <= (number := _number(text)) <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to 1")
    return number


def path_or_url(text: str) -> Path | str:
    """A path on this machine, or the URL of a slide."""
    from muse_pipeline.slides.remote import SlideUrl, is_url

    return SlideUrl(text) if is_url(text) else Path(text)


def add_output_argument(
    parser: argparse.ArgumentParser, metavar: str, what: str | None = None, required: bool = True
) -> None:
    """Add ``--output`` to a verb with one main output."""
    parser.add_argument("-o", "--output", type=Path, required=required, metavar=metavar, help=what)


def add_threads_argument(parser: argparse.ArgumentParser, what: str = "processor threads") -> None:
    """Add ``--threads``."""
    parser.add_argument("--threads", type=at_least_one, default=1, metavar="N", help=f"{what} (default: %(default)s)")


def add_features_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--features``, the set of features to measure, and ``--store``, the image that they are measured in."""
    parser.add_argument(
        "--features",
        choices=FEATURE_SETS,
        default="none",
        help="numbers of every nucleus: shape and stains, or texture and neighbours too (default: %(default)s)",
    )
    parser.add_argument("--store", type=Path, metavar="STORE", help="image of the nuclei; needed by --features")


def add_doubts_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--include-doubtful``, the kinds of doubtful numbers that totals and statistics keep."""
    parser.add_argument(
        "--include-doubtful",
        choices=DOUBTS,
        action="append",
        default=[],
        help="keep numbers with this kind of doubt in totals and statistics; may be given several times",
    )


def add_quality_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--quality`` and ``--subtract``, the artefacts that totals leave out, for ``read_quality``."""
    parser.add_argument(
        "--quality",
        action="store_true",
        help="find areas out of focus, folds, air bubbles and ink, and leave nuclei out of focus out of the totals",
    )
    parser.add_argument(
        "--subtract",
        nargs="*",
        metavar="KIND",
        help=f"--quality with the artefacts that totals leave out, or none (default: {' '.join(SUBTRACTED)})",
    )


def read_quality(args: argparse.Namespace) -> tuple[str, ...] | None:
    """The artefacts that totals leave out; None if no artefacts are searched for.

    Raises:
        ConfigError: one of them cannot be left out.
    """
    from muse_pipeline.cohort.settings import choose_subtracted

    if args.subtract is None:
        return SUBTRACTED if args.quality else None
    return choose_subtracted(args.subtract)


def add_shard_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--shard`` to a verb whose shards `muse stitch` joins."""
    parser.add_argument(
        "--shard", default="1-of-1", metavar="I-OF-N", help="which part of the slide (default: %(default)s)"
    )


def add_frame_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--frame``, the origin of positions in GeoJSON."""
    parser.add_argument(
        "--frame",
        choices=GEOJSON_FRAMES,
        default=GEOJSON_FRAMES[0],
        help="GeoJSON counts from the corner of the scanner's bounds, as QuPath does, or of level 0 "
        "(default: %(default)s)",
    )


def add_compute_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``, for ``share_of_cores``, and ``--accelerator`` to a verb that runs a network in torch."""
    parser.add_argument(
        "--threads",
        type=at_least_one,
        metavar="N",
        help="processor threads of each process (default: OMP_NUM_THREADS, else all cores that this process may use)",
    )
    parser.add_argument(
        "--accelerator",
        choices=ACCELERATORS,
        default=ACCELERATORS[0],
        help="what computes (default: %(default)s)",
    )


def share_of_cores(threads: int | None, processes: int = 1) -> int:
    """Number of threads of each process: as set by --threads or OpenMP, else an equal share of the cores."""
    of_openmp = os.environ.get("OMP_NUM_THREADS", "")
    return threads or (int(of_openmp) if of_openmp.isdecimal() else 0) or max(1, count_cores() // processes)


def add_provider_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--provider`` to a verb that runs a model."""
    parser.add_argument(
        "--provider",
        default="cpu",
        help="cpu, cuda, tensorrt, openvino, torch (the accelerator that PyTorch finds), torch-cpu, "
        'or "auto": cuda if it starts here, else cpu (default: %(default)s)',
    )


def add_config_arguments(parser: argparse.ArgumentParser, example: str) -> None:
    """Add ``--data``, the folder of the config's paths, and ``--set``, changes of the config as in ``example``."""
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="what the config's paths are relative to")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help=f"change settings of the config, as in {example}",
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
