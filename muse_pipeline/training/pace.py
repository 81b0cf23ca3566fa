"""The duration of steps, measured before the trainings of a run, and the threads and the share of
steps that follow.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from muse_pipeline.core.files import write_json
from muse_pipeline.core.text import count_noun
from muse_pipeline.training.devices import open_fabric
from muse_pipeline.training.loop import Turn
from muse_pipeline.training.recipe import PreparedStage, TrainingStage
from muse_pipeline.training.run import Log, Options

PACE = "pace.json"
N_TIMED = 3  # timed steps with each number of threads, after one that is not timed
OVERHEAD = 1.1  # duration of the trainings and their scores, relative to that of their steps


class PaceStage(PreparedStage):
    """Writes ``pace.json``: the fastest number of ``threads``, and the ``share`` of the steps that
    ``minutes`` allow.

    A continued run reads the file and does not measure again. ``steps`` are the steps of each
    training, which take as long as those of ``stage`` on ``data``.
    """

    def __init__(
        self,
        folder: Path,
        stage: TrainingStage,
        data: Any,
        steps: Sequence[int],
        minutes: float,
        options: Options,
    ):
        super().__init__(folder, "pace")
        self._stage, self._data, self._steps, self._minutes, self._options = (
            stage,
            data,
            [*steps],
            minutes,
            options,
        )

    def made_from(self) -> dict[str, Any]:
        """The limit, and the steps of the trainings, which follow from the number of labels."""
        return {"minutes": self._minutes, "steps for the labels": self._steps}

    def write(self, folder: Path, log: Log) -> None:
        """Measure, and print the expected duration."""
        seconds = self.measure()
        threads = min(seconds, key=seconds.__getitem__)
        total = sum(self._steps) * seconds[threads] * OVERHEAD / 60
        share = min(1.0, self._minutes / total)
        trainings, on_threads = (
            count_noun(len(self._steps), "training"),
            count_noun(threads, "thread"),
        )
        log(f"about {max(share * total, 1):.0f} min for {trainings}, with {on_threads}")
        if share < 1:
            log(
                f"{share:.0%} of the steps are taken, in {self._minutes:g} min; --minutes"
                f" {math.ceil(total)} takes all"
            )
        write_json(
            folder / PACE,
            {"threads": threads, "share": share, "seconds_per_step": seconds[threads]},
        )

    def measure(self) -> dict[int, float]:
        """Median duration of a step, in seconds, by number of threads."""
        config, options = self._stage.config, self._options
        fabric = open_fabric(options.accelerator, 1, config.precision)
        compares = options.compares_threads and fabric.device.type == "cpu"
        method = self._stage.build(self._data).to(fabric.device).train()
        batches = self._stage.batches(self._data, fabric.device)
        turn = Turn(method, method.turns[0], config.schedule)
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
