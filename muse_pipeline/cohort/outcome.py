"""Read the outcomes of the workflow's jobs from the ledgers, and remove results of failed slides."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from muse_pipeline.cohort.layout import TABLE_FILES
from muse_pipeline.core.files import find_json, remove
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.text import count_noun

NO_REASON = "was killed or could not write (out of memory, time or disk space?)"


def describe_nuclei(summary: dict[str, Any]) -> str:
    """Text with the number of nuclei in a slide's summary, the positive share, and how many more lie in artefacts."""
    n = Provenance.from_dict(summary["provenance"]).n_left_out
    flagged = f", {n:,} more in artefacts" if n else ""
    scored = summary.get("immunohistochemistry") or {}
    positive = f", {share:.1f} % positive" if (share := scored.get("percent_positive")) is not None else ""
    return f"{count_noun(summary['n_nuclei'], 'nucleus', 'nuclei')}{positive}{flagged}"


def read_entry(ledger: Path) -> dict[str, Any]:
    """The entry of a step; {} if the step has not started, is running or was killed."""
    return find_json(ledger) or {}


def read_entries(ledgers: Iterable[Path]) -> list[dict[str, Any]]:
    """The entries of the steps that have ended."""
    return [entry for ledger in ledgers if (entry := read_entry(ledger))]


def find_failure(entries: Iterable[dict[str, Any]]) -> tuple[str, str] | None:
    """The step and the reason of the first entry that is not ok; None if there is none."""
    return next(((entry["step"], entry["reason"]) for entry in entries if entry["status"] != "ok"), None)


def failed_steps(folder: Path) -> set[str]:
    """Names, without suffix, of those ledgers in a slide's ``folder`` whose steps failed or were killed."""
    return {path.stem for path in folder.glob("ledger/*.json") if _status(path) not in {"ok", "interrupted"}}


def remove_failed(folder: Path, store: str, outputs: Iterable[str]) -> None:
    """Remove the old nuclei or proposals that the failed steps of a slide should have replaced.

    Otherwise they could be mistaken for new results, and Snakemake would consider the slide finished. The downloaded
    copy of a slide is removed too, so that the next run fetches a corrected original.

    Args:
        folder: folder of the slide.
        store: name of the store in which nuclei are found.
        outputs: glob patterns of the files that are made from nuclei.
    """
    shutil.rmtree(folder / "fetched", ignore_errors=True)
    steps = failed_steps(folder)
    for_others = {step for step in steps if step.startswith("tile-") and step != f"tile-{store}"}
    proposing = {step for step in steps if "propos" in step}
    nuclei, proposals = ([f"{table}.{kind}" for kind in TABLE_FILES] for table in ("nuclei", "proposals"))
    patterns = [*nuclei, *outputs] if steps - for_others - proposing else []
    patterns += proposals if steps - for_others else []
    for outdated in [path for pattern in patterns for path in folder.glob(pattern)]:
        remove(outdated)


def remove_unrequested_steps(
    folder: Path, stores: Collection[Path], steps: Iterable[str] = (), has_proposals: bool = False
) -> None:
    """Remove the ledgers of steps that are no longer requested, since the report would show their failures.

    Ledgers of proposals are kept if the steps succeeded.

    Args:
        folder: folder of the slide.
        stores: paths of the requested stores.
        steps: steps that are not requested.
        has_proposals: True if proposals are requested.
    """
    for step in steps:
        (folder / f"ledger/{step}.json").unlink(missing_ok=True)
    for ledger in folder.glob("ledger/tile-*.json"):
        if folder / ledger.stem.removeprefix("tile-") not in stores:
            ledger.unlink(missing_ok=True)
    for ledger in [] if has_proposals else folder.glob("ledger/*propos*.json"):
        if _status(ledger) != "ok":
            ledger.unlink(missing_ok=True)


def _status(ledger: Path) -> str:
    """Status of a step; "killed" if its entry is empty or missing."""
    return read_entry(ledger).get("status", "killed")
