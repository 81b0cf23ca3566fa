"""From glass to GeoJSON as command lines: what the rules of the workflow run, one slide after the other."""

from __future__ import annotations

import csv
import time
import traceback
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from muse_pipeline.cli.main import run_verb
from muse_pipeline.cohort.changes import RunSettings, describe_changes, find_changes
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.errors import MuseError, OutputError, SlideError
from muse_pipeline.core.files import remove, write_json
from muse_pipeline.core.text import one_line, time_text
from muse_pipeline.report.cohort import SlideResult, judge_slide, read_rows
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.slides.remote import SlideUrl
from muse_pipeline.slides.signature import fingerprint_file
from muse_pipeline.store.store import store_name

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
LOG = Path("logs/run.log")
FETCHED = "fetched"  # among a slide's results, while they are made: the copy of a slide that lies elsewhere


@dataclass(frozen=True)
class Plan:
    """How slides are run.

    Attributes:
        output: folder of the results, laid out as the workflow's.
        model: a built-in model's name or an ONNX file.
        mpp: um per pixel that the model reads.
        n_shards: pieces that detection of a slide is cut into, unless its row has a number.
        threads: threads of the steps that use them.
        provider: what runs the model.
    """

    output: Path
    model: str
    mpp: float
    n_shards: int = 1
    threads: int = 1
    provider: str = "cpu"

    def shards_of(self, row: SheetRow) -> int:
        """Pieces that detection of the slide is cut into."""
        return row.shards or self.n_shards


def run_slides(rows: list[SheetRow], plan: Plan, settings: RunSettings) -> list[str]:
    """Run every slide that is not finished with the same settings, and print a line for each; a failure stops no other.

    The report covers every slide that has results in the folder, those of earlier runs too.

    Args:
        rows: the slides.
        plan: how they are run.
        settings: what the results record of the plan.

    Returns:
        the ids of the slides that failed.

    Raises:
        OutputError: the output folder cannot be written to, or has another slide's results under one's name.
        SheetError: what earlier runs wrote there about their slides cannot be read.
    """
    sheet = plan.output / "sheet.json"
    earlier = read_earlier_rows(sheet)
    for row in rows:
        if row.slide_id in earlier and (before := earlier[row.slide_id].get("path")) != row.path:
            _require_no_other_slide(plan.output / row.slide_id, before, row.path)
    if others := earlier.keys() - {row.slide_id for row in rows}:
        print(f"slides of earlier runs that are in the report too: {len(others)}")
    changes = {row.slide_id: find_changes(plan.output / row.slide_id, row, settings) for row in rows}
    for line in describe_changes({name: found for name, found in changes.items() if found}):
        print(line)
    kept = {row.slide_id: result for row in rows if changes[row.slide_id] == [] and (result := _finished(row, plan))}
    runs = {row.slide_id: {**row.to_dict(), "shards": plan.shards_of(row)} for row in rows}
    for name in kept:  # whose ledgers are of so many
        runs[name]["shards"] = earlier.get(name, {}).get("shards")
    write_json(sheet, list({**earlier, **runs}.values()))
    stopped = _run_each(rows, plan, kept)
    write_json(sheet, list({**read_earlier_rows(sheet), **runs}.values()))  # another run may have begun meanwhile
    page, table = plan.output / "report.html", plan.output / "cohort.tsv"
    run_verb(["report", str(plan.output), "--slides", str(sheet), "--output", str(page), "--table", str(table)])
    with table.open(encoding="utf-8", newline="") as file:
        ended = {slide["slide_id"]: slide["status"] for slide in csv.DictReader(file, dialect="excel-tab")}
    return [name for name in runs if name in stopped or ended[name] == "failed"]


def _finished(row: SheetRow, plan: Plan) -> SlideResult | None:
    """The result of a slide whose steps have all ended well, in however many shards; else None."""
    result = judge_slide(plan.output, {**row.to_dict(), "shards": None})
    return None if result.status == "failed" else result


def _run_each(rows: list[SheetRow], plan: Plan, kept: dict[str, SlideResult]) -> set[str]:
    """Run the slides that are not ``kept``, print a line for each, and give the ids of those that stopped."""
    from tqdm import tqdm

    n_steps = [0 if row.slide_id in kept else len(list(slide_steps(row, plan))) for row in rows]
    stopped: set[str] = set()
    with tqdm(total=sum(n_steps), unit="step", disable=None) as bar:
        for number, row in enumerate(rows, 1):
            if row.slide_id in kept:
                bar.write(f"{row.slide_id}: {kept[row.slide_id].n_nuclei:,} nuclei, unchanged, skipped")
                continue
            started = time.monotonic()
            if problem := run_slide(row, plan, bar):
                stopped.add(row.slide_id)
            bar.write(f"{row.slide_id}: {problem or _describe_end(row, plan, time.monotonic() - started)}")
            bar.update(sum(n_steps[:number]) - bar.n)
    return stopped


def _describe_end(row: SheetRow, plan: Plan, seconds: float) -> str:
    """What was found in a slide whose steps have ended well."""
    result = judge_slide(plan.output, {**row.to_dict(), "shards": plan.shards_of(row)})
    if result.status == "failed":
        return f"{result.step}: {result.reason}"
    return "; ".join([f"{result.n_nuclei:,} nuclei, {time_text(seconds)}", *filter(None, [result.reason])])


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
    rows = read_rows(sheet) if sheet.exists() else []
    return {row["slide_id"]: row for row in rows if (sheet.parent / row["slide_id"]).is_dir()}


def run_slide(row: SheetRow, plan: Plan, bar) -> str:
    """Run the steps of one slide, which print into its log; returns why it failed, or "" if it did not."""
    folder, step = plan.output / row.slide_id, ["start"]
    try:
        withdraw_results(folder)
        with _open_log(folder / LOG) as log, redirect_stdout(log):
            for step in slide_steps(row, plan):
                bar.set_description(f"{row.slide_id}: {step[0]}")
                run_verb(step)
                bar.update()
    except MuseError as error:
        return f"{step[0]}: {error}"
    except Exception as error:  # a defect of ours
        with (folder / LOG).open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        return f"{step[0]}: unexpected {type(error).__name__}: {one_line(error)}; see {folder / LOG}"
    finally:
        remove(folder / FETCHED)
    return ""


def _open_log(path: Path) -> TextIO:
    """Open the log of a slide.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); give another --output") from error


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
    n_shards = plan.shards_of(row)
    shards = [f"{number}-of-{n_shards}" for number in range(1, n_shards + 1)]
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
        *_option("--regions", row.regions),
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
