"""Ledgers: the outcome and the cost of every step of a slide, written by the step and read by the
report.
"""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muse_pipeline.core.environment import (
    all_processor_seconds,
    forget_peak_memory,
    peak_memory_mib,
)
from muse_pipeline.core.errors import MuseError, MuseWarning
from muse_pipeline.core.files import find_json, write_json
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.text import count_noun, memory_text, one_line, time_text

# Steps that are not reported as missing: optional ones, and ``overlay``, whose pictures the report
# can draw.
OPTIONAL = ("fetch", "regions", "propose", "overlay")
KILLED = "killed (out of memory or time?); see its log and run again"
STEPS = (
    "fetch",
    "inspect",
    "tissue",
    "tile",
    "propose",
    "detect",
    "regions",
    "stitch",
    "geojson",
    "overlay",
)


@dataclass(frozen=True)
class StepRecord:
    """One step of one slide."""

    step: str  # name of the step
    status: str  # "ok", "failed" or "missing"
    reason: str = ""  # sentence that explains why the step failed or is missing; "" if it is ok
    # wall-clock time, summed over shards; None if nothing was recorded
    seconds: float | None = None
    # that of all threads, summed over shards; None if nothing was recorded
    processor_seconds: float | None = None
    # largest peak memory of any shard; None if nothing was recorded
    peak_memory_mib: int | None = None
    warnings: tuple[str, ...] = ()  # warnings of the step without duplicates


def read_progress(
    folder: Path, n_shards: int | None = None, no_model: str = ""
) -> list[StepRecord]:
    """Read the records of a slide's steps and outputs, in the order of ``order_steps``.

    A step that has no ledger and is not in ``OPTIONAL`` has the status "missing"; ``no_model`` is
    the reason for this if a run has no model. Ledgers of runs with a different number of shards
    than ``n_shards`` are ignored.
    """
    entries = list(_read_entries(folder / "ledger", n_shards))
    records = []
    for step in order_steps(
        {*STEPS, *(str(entry["step"]) for entry in entries if entry.get("step"))}
    ):
        shards = [entry for entry in entries if entry.get("step") == step]
        if step in OPTIONAL and not shards:
            continue
        stopped_at = next(
            (record for record in records if record.status != "ok" and record.step != "regions"),
            None,
        )
        records.append(
            _merge_shards(step, shards) if shards else _explain_absence(step, stopped_at, no_model)
        )
    return records


def order_steps(steps: Collection[str]) -> list[str]:
    """The steps in the order in which they run: those in ``STEPS``, and then all others sorted by
    name.
    """
    return [*(step for step in STEPS if step in steps), *sorted(set(steps) - set(STEPS))]


def first_problem(records: Iterable[StepRecord]) -> StepRecord | None:
    """The step that explains why a slide is not finished; a recorded failure takes precedence over
    a missing step.

    ``overlay`` never counts, since the report draws missing pictures; nor does ``regions``, which
    nuclei do not need.
    """
    broken = [
        record
        for record in records
        if record.status != "ok" and record.step not in {"overlay", "regions"}
    ]
    return min(broken, key=lambda record: record.status != "failed", default=None)


def describe_nuclei(summary: dict[str, Any]) -> str:
    """Text with the number of nuclei in a slide's summary, the positive share if it is not left
    out, and how many more lie in artefacts.
    """
    n = Provenance.from_dict(summary["provenance"]).n_left_out
    flagged = f", {n:,} more in artefacts" if n else ""
    is_left_out = summary["trust"]["verdicts"].get("positive") == "leave out"
    scored = {} if is_left_out else summary["immunohistochemistry"] or {}
    share = scored.get("percent_positive")
    positive = "" if share is None else f", {share:.1f} % positive"
    return f"{count_noun(summary['n_nuclei'], 'nucleus', 'nuclei')}{positive}{flagged}"


def failed_steps(folder: Path) -> set[str]:
    """Names, without suffix, of those ledgers in a slide's ``folder`` whose steps failed or were
    killed.
    """
    statuses = {
        path.stem: (find_json(path) or {}).get("status") for path in folder.glob("ledger/*.json")
    }
    return {step for step, status in statuses.items() if status not in {"ok", "interrupted"}}


def _read_entries(ledger: Path, n_shards: int | None) -> Iterable[dict[str, Any]]:
    for path in sorted(ledger.glob("*.json")):
        shard = re.search(r"of-(\d+)\.json$", path.name)
        if shard and n_shards and int(shard[1]) != n_shards:
            continue  # left over from a run with a different number of shards
        entry = find_json(path)
        if not isinstance(entry, dict):
            # Snakemake leaves an empty file for a killed step.
            has_content = path.is_file() and path.stat().st_size > 0
            reason = f"{path} is broken" if has_content else f"was {KILLED}"
            entry = {
                "step": path.name.split("-")[0].removesuffix(".json"),
                "status": "failed",
                "reason": reason,
            }
        yield entry


def _merge_shards(step: str, entries: list[dict[str, Any]]) -> StepRecord:
    failed = next((entry for entry in entries if entry.get("status") != "ok"), None)
    return StepRecord(
        step=step,
        status="failed" if failed else "ok",
        reason=str(failed.get("reason") or "failed without a reason; see its log")
        if failed
        else "",
        seconds=_total(entries, "seconds"),
        processor_seconds=_total(entries, "processor_seconds"),
        peak_memory_mib=max(entry.get("peak_memory_mib") or 0 for entry in entries),
        warnings=tuple(
            dict.fromkeys(warning for entry in entries for warning in entry.get("warnings") or ())
        ),
    )


def _total(entries: list[dict[str, Any]], quantity: str) -> float:
    return round(sum(entry.get(quantity) or 0 for entry in entries), 3)


def _explain_absence(step: str, stopped_at: StepRecord | None, no_model: str) -> StepRecord:
    if stopped_at:
        end = "failed" if stopped_at.status == "failed" else "did not finish"
        return StepRecord(step, "missing", f"not reached because {stopped_at.step} {end}")
    if step == "detect" and no_model:
        return StepRecord(step, "missing", no_model)
    if step == "inspect":
        return StepRecord(step, "missing", "not started; run the workflow again")
    return StepRecord(step, "missing", f"never started or was {KILLED}")


@contextmanager
def record_step(path: Path | None, step: str) -> Iterator[list[str]]:
    """Write the outcome of a step, its time and its peak memory to ``path``, if given, when the
    block ends or fails.

    The block receives a list; texts appended to it are written as ``warnings``, and so is every
    ``MuseWarning``, which is also printed. The file is empty while the block runs, and stays empty
    if the process is killed.
    """
    if path is not None:
        with suppress(OSError):  # a disk that is full or read-only is reported by the step itself
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.touch()
    forget_peak_memory()
    started, used = time.monotonic(), all_processor_seconds()
    status, reason = "ok", ""
    noted = []
    try:
        with show_warnings(step, noted):
            yield noted
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            status = "interrupted"
            reason = "was interrupted; run it again"
        else:
            status = "failed"
            reason = (
                str(error)
                if isinstance(error, MuseError)
                else f"unexpected {type(error).__name__}: {error}"
            )
        raise
    finally:
        if path is not None:
            entry = {
                "step": step,
                "status": status,
                "reason": one_line(reason),
                "seconds": round(time.monotonic() - started, 3),
                "processor_seconds": round(all_processor_seconds() - used, 3),
                "peak_memory_mib": peak_memory_mib(),
                **({"warnings": noted} if noted else {}),
            }
            try:
                write_json(path, entry)
            except OSError:
                if status == "ok":  # otherwise the error of the step itself is reported
                    raise


@contextmanager
def show_warnings(step: str, noted: list[str]) -> Iterator[None]:
    """Print each ``MuseWarning`` once, as one line, and append it to ``noted``."""

    def show(message: Warning | str, category: type[Warning], *location: object) -> None:
        if not issubclass(category, MuseWarning):
            show_others(message, category, *location)
        elif (text := str(message)) not in noted:
            noted.append(text)
            print(f"muse {step}: {text}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", MuseWarning)
        show_others, warnings.showwarning = warnings.showwarning, show
        yield


COST_COLUMNS = ("Step", "Time", "Processor", "Busy cores", "Processor s/mm²", "Peak memory")
WHOLE = "all"  # row besides the steps: the sum of all of them
# the records of a slide, and the area of tissue processed, in mm2
SlideSteps = tuple[Sequence[StepRecord], float]


@dataclass(frozen=True)
class Cost:
    """The cost of a step."""

    step: str  # name of the step, or ``WHOLE``
    seconds: float  # wall-clock time, added up over shards even if they ran at the same time
    processor_seconds: float  # processor time of all threads
    tissue_mm2: float  # area of tissue of the slides on which the step ran
    peak_memory_mib: int  # highest peak memory on any slide

    @property
    def texts(self) -> tuple[str, ...]:
        """The cells of ``COST_COLUMNS``; a dash for a missing value."""
        cores = f"{self.processor_seconds / self.seconds:.2f}" if self.seconds else "–"
        per_mm2 = f"{self.processor_seconds / self.tissue_mm2:.3f}" if self.tissue_mm2 else "–"
        times = time_text(self.seconds), time_text(self.processor_seconds)
        return self.step, *times, cores, per_mm2, memory_text(self.peak_memory_mib)


def step_costs(slides: Iterable[SlideSteps]) -> list[Cost]:
    """The costs of the steps that ran, summed over their slides, and their total ``WHOLE``; empty
    if none ran.
    """
    ran = [
        (mm2, [record for record in records if record.seconds is not None])
        for records, mm2 in slides
    ]
    steps = order_steps({record.step for _, records in ran for record in records})
    costs = [
        _add_up(
            step,
            [(mm2, [record for record in records if record.step == step]) for mm2, records in ran],
        )
        for step in steps
    ]
    return [*costs, _add_up(WHOLE, ran)] if costs else []


def _add_up(name: str, ran: Sequence[tuple[float, list[StepRecord]]]) -> Cost:
    ends = [record for _, records in ran for record in records]
    seconds, used = (
        sum(getattr(end, what) or 0 for end in ends) for what in ("seconds", "processor_seconds")
    )
    tissue_mm2 = sum(mm2 for mm2, records in ran if records)
    return Cost(name, seconds, used, tissue_mm2, max(end.peak_memory_mib or 0 for end in ends))
