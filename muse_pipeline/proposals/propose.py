"""Proposals for one shard of one slide: the proposer is fitted to the slide, then called on its windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference.detect import Detector, Guard, WindowChoice, detect_shard
from muse_pipeline.proposals import PROPOSERS
from muse_pipeline.proposals.base import judge_slide, judge_window, name_guarded, sample_slide
from muse_pipeline.store.grid import Shard
from muse_pipeline.store.store import Store
from muse_pipeline.tissue.colour import SlideColour


@dataclass(frozen=True)
class FittedProposer:
    """A proposer that is fitted to a slide; ``guard`` excludes windows from it, if it has one."""

    finder: Detector
    guard: Guard | None


def fit_proposer(
    store: Store, method: str, settings: dict[str, Any], colour: SlideColour, info: SlideInfo | None = None
) -> FittedProposer:
    """Fit a proposer to a slide.

    Args:
        store: the slide's image.
        method: name of a proposer.
        settings: settings of the proposer, default where missing.
        colour: colour statistics of the slide.
        info: the slide, for proposers that read other files about it.

    Raises:
        ConfigError: the method or a setting is unknown or unusable.
    """
    proposer = PROPOSERS[method]
    sample = sample_slide(store, colour, info)
    is_guarded = getattr(proposer, "GUARDED", True)  # not imported detections
    guard = Guard(partial(judge_window, mpp=store.mpp), tuple(judge_slide(sample))) if is_guarded else None
    return FittedProposer(proposer.fit(sample, read_settings(method, settings)), guard)


def propose_shard(
    store: Store,
    proposer: FittedProposer,
    shard: Shard,
    output: Path,
    *,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Find nuclei without labels in one shard and write them to ``output``.

    Args:
        store: the slide's image.
        proposer: proposer of the nuclei.
        shard: run of windows to search.
        output: the shard's file, for ``muse stitch``.
        threads: number of windows searched at the same time; the result does not depend on it.
        progress: function called with (windows done, windows in all).

    Returns:
        Warnings for the ledger: those of the guard, and one if there are no nuclei.
    """
    guard, choice = proposer.guard, WindowChoice(guard=proposer.guard)
    facts = detect_shard(store, proposer.finder, shard, output, threads=threads, progress=progress, choice=choice)
    warnings = list(guard.remarks) if guard else []
    warnings += name_guarded(facts.get("guarded_windows", {}), facts["n_windows"])
    if facts["n_windows"] and not pq.read_metadata(output).num_rows:
        warnings.append(f"no nuclei were proposed in shard {shard}")
    return warnings


def read_settings(method: str, settings: dict[str, Any]) -> Any:
    """The proposer's own settings, with defaults for missing ones.

    Raises:
        ConfigError: the method or a setting is unknown or unusable.
    """
    return parse_config(settings, PROPOSERS[method].Settings, f"proposals: {method}")
