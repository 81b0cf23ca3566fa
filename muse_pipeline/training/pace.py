"""The time limit of a run of several trainings: threads, and the share of the steps that fit.

Before each training, the duration of steps and of scores is measured again, because other
programs may use the processor by then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.core.text import count_noun
from muse_pipeline.training.devices import open_fabric
from muse_pipeline.training.loop import Turn
from muse_pipeline.training.recipe import PreparedStage, TrainingStage, stage_folder
from muse_pipeline.training.run import Log, Options

PACE = "pace.json"
N_TIMED = 3  # timed steps with each number of threads, after one that is not timed
OVERHEAD = 1.1  # duration of the trainings, relative to that of their steps and scores
LEAST_SHARE = 0.1  # of the steps; fewer are not worth their scores


@dataclass
class TimeLimit:
    """Fits the trainings of a run into ``minutes``.

    Each decision is kept in a folder, which a continued run reads instead of measuring again.
    ``stage`` trains on ``data``, ``pictures`` are numbers of pictures that are searched for the
    scores of each training, and ``search`` searches a typical one. ``since`` is the monotonic time
    at which the run began.
    """

    stage: TrainingStage
    data: Any
    minutes: float
    pictures: Sequence[int]
    search: Callable[[], object]
    since: float

    def __post_init__(self) -> None:
        self.left = self.minutes

    def begin(self, number: int, steps: Sequence[int], options: Options) -> dict[str, Any]:
        """The "threads" of training ``number``, counted from 1, and the "share" of its steps.

        ``steps`` are those of all trainings if they are not shortened.
        """
        folder = stage_folder(self.stage.folder, number - 1, "pace")
        pace = read_json(PaceStage(folder, self, number, steps, options).run(options) / PACE)
        self.left, self.since = pace["minutes_left"], time.monotonic()
        return pace


@dataclass
class PaceStage(PreparedStage):
    """Measures, and writes ``pace.json``, before training ``number``."""

    folder: Path
    limit: TimeLimit
    number: int
    steps: Sequence[int]
    options: Options
    name: str = "pace"

    def made_from(self) -> dict[str, Any]:
        """The limit, and the steps of the trainings, which follow from the number of labels."""
        return {"minutes": self.limit.minutes, "steps for the labels": [*self.steps]}

    def write(self, folder: Path, log: Log) -> None:
        """Measure, print the expected duration, and reject a limit that is much too short."""
        limit, begun = self.limit, self.number - 1
        seconds = self.measure()
        threads = min(seconds, key=seconds.__getitem__)
        torch.set_num_threads(threads)
        begin = time.monotonic()
        limit.search()
        now = time.monotonic()
        of_picture = now - begin
        left = limit.left - (now - limit.since) / 60
        of_steps = OVERHEAD * seconds[threads] * sum(self.steps[begun:]) / 60
        of_scores = OVERHEAD * of_picture * sum(limit.pictures[begun:]) / 60
        share = min(1.0, (left - of_scores) / of_steps)
        fixed = limit.minutes - left + of_scores
        least, enough = (math.ceil(fixed + part * of_steps) for part in (LEAST_SHARE, 1))
        if share < LEAST_SHARE:
            fewer = f", or {least} for a tenth of the steps" if least < enough else ""
            raise ConfigError(
                f"--minutes {limit.minutes:g}: too short for the labels on this machine; give"
                f" --minutes {enough}{fewer}{', and --start-over' if begun else ''}"
            )
        trainings = count_noun(len(self.steps) - begun, "training")
        log(
            f"about {max(share * of_steps + of_scores, 1):.0f} min for {trainings}, with"
            f" {count_noun(threads, 'thread')}"
        )
        if share < 1:
            log(
                f"{share:.0%} of the steps are taken, in {limit.minutes:g} min; --minutes"
                f" {enough} takes all"
            )
        pace = {"threads": threads, "share": share, "seconds_per_step": seconds[threads]}
        pace |= {"seconds_per_picture": of_picture, "minutes_left": left}
        write_json(folder / PACE, pace)

    def measure(self) -> dict[int, float]:
        """Median duration of a step, in seconds, by number of threads."""
        stage = self.limit.stage
        options = self.options
        data = self.limit.data
        fabric = open_fabric(options.accelerator, 1, stage.config.precision)
        compares = options.compares_threads and fabric.device.type == "cpu"
        method = stage.build(data).to(fabric.device).train()
        batches = stage.batches(data, fabric.device)
        turn = Turn(method, method.turns[0], stage.config.schedule)
        seconds: dict[int, list[float]] = {
            n: [] for n in ({1, options.threads} if compares else {options.threads})
        }
        for step in range(1 + N_TIMED):
            for threads, durations in seconds.items():
                torch.set_num_threads(threads)
                begin = time.monotonic()
                turn.update(step, [batches(step)], fabric)["loss"].item()  # waits for the device
                turn.apply(step)
                durations.append(time.monotonic() - begin)
        return {threads: median(durations[1:]) for threads, durations in seconds.items()}
