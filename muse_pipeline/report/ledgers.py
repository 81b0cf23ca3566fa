"""How far a slide came: its ledger, read back as one record per step of the path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muse_pipeline.core.files import read_json

# No gap where they never ran: not asked for, or the report does their work.
OPTIONAL = ("fetch", "regions", "propose", "overlay")
KILLED = "killed (out of memory or time?); see its log, run again"
STEPS = ("fetch", "inspect", "tissue", "tile", "regions", "propose", "detect", "stitch", "geojson", "overlay")


@dataclass(frozen=True)
class StepRecord:
    """One step of one slide.

    Attributes:
        step: name of the step.
        status: "ok", "failed" or "missing".
        reason: one sentence if it did not end well.
        seconds: time it took, summed over shards; None where nothing was recorded.
        peak_memory_mib: its largest memory, over shards.
        warnings: sentences that it left, each once.
    """

    step: str
    status: str
    reason: str = ""
    seconds: float | None = None
    peak_memory_mib: int | None = None
    warnings: tuple[str, ...] = ()


def read_progress(folder: Path, n_shards: int | None = None, no_model: str = "") -> list[StepRecord]:
    """The records of all ``STEPS`` of the slide whose results lie in ``folder``, in their order.

    A step without a record says why: an earlier one failed, there was ``no_model``, or it was never started or killed
    from outside.
    """
    entries = list(_read_entries(folder / "ledger", n_shards))
    records: list[StepRecord] = []
    for step in STEPS:
        shards = [entry for entry in entries if entry.get("step") == step]
        if step in OPTIONAL and not shards:
            continue
        stopped_at = next((record for record in records if record.status != "ok" and record.step != "regions"), None)
        records.append(_merge_shards(step, shards) if shards else _explain_absence(step, stopped_at, no_model))
    return records


def first_problem(records: Iterable[StepRecord]) -> StepRecord | None:
    """The step that explains why a slide is not finished: a recorded failure before a missing step.

    Never ``overlay``, whose pictures the report draws where they lack, nor ``regions``, without which nuclei do.
    """
    broken = [record for record in records if record.status != "ok" and record.step not in {"overlay", "regions"}]
    return min(broken, key=lambda record: record.status != "failed", default=None)


def _read_entries(ledger: Path, n_shards: int | None) -> Iterable[dict[str, Any]]:
    for path in sorted(ledger.glob("*.json")):
        shard = re.search(r"of-(\d+)\.json$", path.name)
        if shard and n_shards and int(shard[1]) != n_shards:
            continue  # left behind by a run that cut the slide otherwise
        try:
            yield dict(read_json(path))
        except (OSError, ValueError, TypeError):
            yield {
                "step": path.name.split("-")[0].removesuffix(".json"),
                "status": "failed",
                "reason": f"{path} is broken" if _has_content(path) else f"was {KILLED}",
            }


def _has_content(path: Path) -> bool:
    """Whether a step wrote its entry: of one that was killed, Snakemake leaves an empty file."""
    return path.is_file() and path.stat().st_size > 0


def _merge_shards(step: str, entries: list[dict[str, Any]]) -> StepRecord:
    failed = next((entry for entry in entries if entry.get("status") != "ok"), None)
    return StepRecord(
        step=step,
        status="failed" if failed else "ok",
        reason=str(failed.get("reason") or "failed without a reason; see its log") if failed else "",
        seconds=round(sum(entry.get("seconds") or 0 for entry in entries), 3),
        peak_memory_mib=max(entry.get("peak_memory_mib") or 0 for entry in entries),
        warnings=tuple(dict.fromkeys(warning for entry in entries for warning in entry.get("warnings") or ())),
    )


def _explain_absence(step: str, stopped_at: StepRecord | None, no_model: str) -> StepRecord:
    if stopped_at and stopped_at.status == "failed":
        return StepRecord(step, "missing", f"not reached because {stopped_at.step} failed")
    if stopped_at:
        return StepRecord(step, "missing", f"not reached because {stopped_at.step} did not finish")
    if step == "detect" and no_model:
        return StepRecord(step, "missing", no_model)
    if step == "inspect":
        return StepRecord(step, "missing", "not started; run the workflow again")
    return StepRecord(step, "missing", f"never started or was {KILLED}")
