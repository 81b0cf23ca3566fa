"""From glass to GeoJSON as command lines: what the rules of the workflow run, one slide after the other."""

from __future__ import annotations

import csv
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from muse_pipeline.cli.main import run_verb
from muse_pipeline.errors import MuseError, OutputError, SlideError
from muse_pipeline.files import remove, write_json
from muse_pipeline.slides.fingerprint import fingerprint_file
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.slides.sheet import SheetRow
from muse_pipeline.slides.url import SlideUrl
from muse_pipeline.tiles.store import store_name

NUCLEI = "nuclei.parquet"
# What a run leaves of a slide, but for images and shards, which say whose they are. By name: a user's own files stay.
RESULTS = (
    *("slide.json", "tissue.npz", "tissue.png", "tissue.geojson", "colour.json"),
    *(NUCLEI, "nuclei.csv.gz", "nuclei.geojson.gz", "nuclei.provenance.json"),
    *("nuclei.part-[0-9][0-9][0-9].geojson.gz", "proposals.part-[0-9][0-9][0-9].geojson.gz"),
    *("proposals.parquet", "proposals.csv.gz", "proposals.geojson.gz", "proposals.provenance.json"),
    *("summary.json", "density.png", "overlays/[0-9].png", "overlays/proposals.png"),
    *(f"ledger/{step}.json" for step in ("fetch", "inspect", "tissue", "tile-*", "propose-*", "detect-*")),
    *(f"ledger/{step}.json" for step in ("stitch", "stitch-*", "geojson", "geojson-*", "overlay")),
)
FETCHED = "fetched"  # among a slide's results, while they are made: the copy of a slide that lies elsewhere


@dataclass(frozen=True)
class Plan:
    """How slides are run.

    Attributes:
        output: folder of the results, laid out as the workflow's.
        model: a built-in model's name or an ONNX file.
        mpp: um per pixel that the model reads.
        n_shards: pieces that detection of a slide is cut into.
        threads: threads of the steps that use them.
        provider: what runs the model.
    """

    output: Path
    model: str
    mpp: float
    n_shards: int = 1
    threads: int = 1
    provider: str = "cpu"


def run_slides(rows: list[SheetRow], plan: Plan) -> list[str]:
    """Take every slide along its path; a slide that fails is reported and the others go on.

    The report covers every slide that has results in the folder, those of earlier runs too.

    Returns:
        the ids of the slides that failed.

    Raises:
        OutputError: the output folder cannot be written to, or has another slide's results under one's name.
        SheetError: what earlier runs wrote there about their slides cannot be read.
    """
    from tqdm import tqdm

    sheet = plan.output / "sheet.json"
    runs = {row.slide_id: {**asdict(row), "shards": plan.n_shards} for row in rows}
    earlier = read_earlier_rows(sheet)
    for name in runs.keys() & earlier.keys():
        if (before := earlier[name].get("path")) != runs[name]["path"]:
            _require_no_other_slide(plan.output / name, before, runs[name]["path"])
            print(f"{name}: replaces the results of {before}")
    if others := earlier.keys() - runs.keys():
        print(f"slides of earlier runs that are in the report too: {len(others)}")
    write_json(sheet, list({**earlier, **runs}.values()))
    stopped: set[str] = set()
    with tqdm(total=len(rows) * len(list(slide_steps(rows[0], plan))), unit="step", disable=None) as bar:
        for number, row in enumerate(rows, 1):
            if problem := run_slide(row, plan, bar):
                stopped.add(row.slide_id)
                bar.write(f"{row.slide_id}: {problem}")
            bar.update(number * bar.total // len(rows) - bar.n)
    write_json(sheet, list({**read_earlier_rows(sheet), **runs}.values()))  # another run may have begun meanwhile
    page, table = plan.output / "report.html", plan.output / "cohort.tsv"
    run_verb(["report", str(plan.output), "--slides", str(sheet), "--output", str(page), "--table", str(table)])
    with table.open(encoding="utf-8", newline="") as file:
        ended = {slide["slide_id"]: slide["status"] for slide in csv.DictReader(file, dialect="excel-tab")}
    return [name for name in runs if name in stopped or ended[name] == "failed"]


def _require_no_other_slide(folder: Path, before: str, now: str | SlideUrl) -> None:
    """Make sure that results that are to be replaced are of the same pixels, if moved: many slides have one name."""
    if isinstance(now, SlideUrl) or not (folder / NUCLEI).is_file():
        return
    try:
        is_other = fingerprint_file(now) != read_info(folder / "slide.json").fingerprint
    except (OSError, SlideError):  # said of it when its turn comes
        return
    if is_other:
        raise OutputError(f"{folder}: holds the results of {before}, another slide of that name; give another --output")


def read_earlier_rows(sheet: Path) -> dict[str, dict[str, Any]]:
    """The rows of slides whose folders still lie beside ``sheet``, by slide_id; none where no run has written it.

    Raises:
        SheetError: it is no resolved sheet.
    """
    from muse_pipeline.report.cohort import read_rows

    rows = read_rows(sheet) if sheet.exists() else []
    return {row["slide_id"]: row for row in rows if (sheet.parent / row["slide_id"]).is_dir()}


def run_slide(row: SheetRow, plan: Plan, bar) -> str:
    """Take one slide along its path; returns why it failed, or "" if it did not."""
    step = ["start"]
    try:
        withdraw_results(plan.output / row.slide_id)
        for step in slide_steps(row, plan):
            bar.set_description(f"{row.slide_id}: {step[0]}")
            run_verb(step)
            bar.update()
    except MuseError as error:
        return f"{step[0]}: {error}"
    except Exception:  # a defect of ours: show it whole, and spare the other slides
        return f"{step[0]}:\n{traceback.format_exc()}"
    finally:
        remove(plan.output / row.slide_id / FETCHED)
    return ""


def withdraw_results(folder: Path) -> None:
    """Remove what an earlier run found, drew and noted: nothing of it may pass for this run's.

    Raises:
        OutputError: it is somebody else's.
    """
    for outdated in list(replaced_results(folder)):
        try:
            remove(outdated)
        except OSError as error:
            raise OutputError(f"{outdated}: cannot be removed ({error.strerror}); give another --output") from error


def replaced_results(folder: Path) -> Iterator[Path]:
    """What of an earlier run lies in a slide's folder and will be withdrawn."""
    return (path for pattern in RESULTS for path in folder.glob(pattern))


def slide_steps(row: SheetRow, plan: Plan) -> Iterator[list[str]]:
    """The arguments of ``muse`` for every step of a slide, in order; the same as in the rules of ``workflow/``."""
    folder = plan.output / row.slide_id
    store = folder / store_name(plan.mpp)
    shards = [f"{number}-of-{plan.n_shards}" for number in range(1, plan.n_shards + 1)]
    slide = row.path

    if isinstance(row.path, SlideUrl):
        slide = folder / FETCHED
        yield _step(
            *["fetch", row.path.in_full, "--threads", plan.threads, "--output", slide],
            *["--ledger", folder / "ledger/fetch.json"],
        )
    yield _step(
        *["inspect", slide, "--slide-id", row.slide_id, *_option("--mpp", row.mpp)],
        *["--output", folder / "slide.json"],
        *["--ledger", folder / "ledger/inspect.json"],
    )
    yield _step(
        *["tissue", slide, "--info", folder / "slide.json", *_option("--roi", row.roi)],
        *["--mask", folder / "tissue.npz", "--picture", folder / "tissue.png"],
        *["--outline", folder / "tissue.geojson", "--colour", folder / "colour.json"],
        *["--ledger", folder / "ledger/tissue.json"],
    )
    yield _step(
        *["tile", slide, "--info", folder / "slide.json", "--tissue", folder / "tissue.npz"],
        *["--mpp", plan.mpp, "--threads", plan.threads, "--output", store],
        *["--ledger", folder / f"ledger/tile-{store.name}.json"],
    )
    for shard in shards:
        yield _step(
            *["detect", store, "--model", plan.model, "--colour", folder / "colour.json"],
            *["--shard", shard, "--threads", plan.threads, "--provider", plan.provider],
            *["--output", folder / f"shards/{shard}.parquet"],
            *["--ledger", folder / f"ledger/detect-{shard}.json"],
        )
    yield _step(
        *["stitch", *[folder / f"shards/{shard}.parquet" for shard in shards]],
        *["--info", folder / "slide.json", "--tissue", folder / "tissue.npz"],
        *["--threads", plan.threads, "--output", folder / "nuclei.parquet"],
        *["--ledger", folder / "ledger/stitch.json"],
    )
    yield _step(
        *["geojson", folder / "nuclei.parquet", "--info", folder / "slide.json"],
        *["--threads", plan.threads, "--output", folder / "nuclei.geojson.gz"],
        *["--ledger", folder / "ledger/geojson.json"],
    )


def _step(*arguments: object) -> list[str]:
    return [str(argument) for argument in arguments]


def _option(flag: str, value: object) -> list[object]:
    return [] if value is None else [flag, value]
