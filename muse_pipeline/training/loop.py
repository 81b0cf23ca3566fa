"""The training loop of every method, and the log of losses and diagnostics."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from muse_pipeline.core.errors import CheckpointError, CollapsedError, DivergedError
from muse_pipeline.core.files import complete_file, write_text
from muse_pipeline.data.augment import seed_of_step
from muse_pipeline.training.checkpoint import (
    Checkpoint,
    load_resume_point,
    save_checkpoint,
    save_resume_point,
)
from muse_pipeline.training.devices import average_gradients, broadcast_buffers
from muse_pipeline.training.method import Losses, Method, Schedule, set_step
from muse_pipeline.training.run import Progress, RunFolder

Row = dict[str, float]


class MetricsLog:
    """Log of metrics; a resumed run first drops the rows that it will write again."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, step: int, values: Row) -> None:
        """Add the row of ``step``."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def read(self) -> list[Row]:
        """Read every complete row; an incomplete last line, left by a kill, is omitted."""
        if not self.path.is_file():
            return []
        rows = []
        for number, line in enumerate(
            self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], 1
        ):
            try:
                row = json.loads(line)
                rows.append({"step": int(row["step"]), **row})
            except (ValueError, TypeError, KeyError) as error:
                raise CheckpointError(
                    f"{self.path}, line {number}: damaged; delete this line, or the run folder to"
                    " train from the start"
                ) from error
        return rows

    def forget_from(self, step: int) -> None:
        """Drop the rows of ``step`` and later."""
        if self.path.is_file():
            kept = [row for row in self.read() if row["step"] < step]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))


def draw_curves(rows: list[Row], output: Path) -> None:
    """Draw every column of ``rows`` over the steps."""
    from matplotlib.figure import Figure  # not pyplot, whose state is global

    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    n_columns = min(len(names), 5)
    n_rows = -(-len(names) // n_columns)
    figure = Figure(figsize=(3 * n_columns, 2.6 * n_rows))
    for index, name in enumerate(names, 1):
        steps, values = zip(*((row["step"], row[name]) for row in rows if name in row), strict=True)
        axis = figure.add_subplot(n_rows, n_columns, index)
        axis.plot(steps, values, linewidth=0.8, marker="." if len(steps) < 20 else None)
        axis.set(title=name.replace("_", " "), xlabel="step", ylim=(0, None))
    figure.subplots_adjust(
        left=0.05, right=0.98, bottom=0.2 / n_rows, top=1 - 0.12 / n_rows, wspace=0.3, hspace=0.6
    )
    with complete_file(output) as partial:
        # matplotlib would otherwise write its version into the file.
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})


class Monitor:
    """Base class of a run's monitors.

    An error in a monitor ends the run, and nothing more is saved.
    """

    def on_log(self, done: int, losses: dict[str, float]) -> None:
        """Called by every process at every logged step, with the steps done and the losses,
        averaged over processes.
        """

    def on_validate(self, done: int, log: MetricsLog) -> bool | None:
        """Called by the first process when validation is due; True ends the run before the end of
        its schedule.
        """

    def on_save(self, done: int) -> None:
        """Called by the first process after a resume point was saved."""


@dataclass(eq=False)
class BestWeights(Monitor):
    """Scores a run at every validation, logs the scores and writes the checkpoint of the best
    weights to ``path``.

    The score ``name`` decides; the higher, the better. With ``keeps_later``, equal scores replace
    earlier ones. ``describe`` makes the checkpoint from the number of steps done and the scores.
    The run ends once the last ``patience`` scores are not above the best one before, or never early
    if it is None.
    """

    name: str
    score: Callable[[], dict[str, float]]
    path: Path
    describe: Callable[[int, dict[str, float]], Checkpoint]
    keeps_later: bool = False
    patience: int | None = None

    def on_validate(self, done: int, log: MetricsLog) -> bool:
        """Score the weights, keep them if they are the best, and log the scores; True if they no
        longer rise.
        """
        # Earlier scores are read from the log, which contains only the steps that a resumed run
        # keeps.
        earlier = [row[self.name] for row in log.read() if self.name in row]
        best, scores = max(earlier, default=-math.inf), self.score()
        if scores[self.name] > best or (self.keeps_later and scores[self.name] == best):
            save_checkpoint(self.path, self.describe(done, scores))
        # Logged for the last completed step, so that ``forget_from`` keeps it if the run is resumed
        # at step ``done``.
        log.append(done - 1, scores)
        is_above = scores[self.name] > best
        return (
            self.patience is not None
            and not is_above
            and len(earlier) - earlier.index(best) >= self.patience
        )


IN_A_ROW = 5  # number of consecutive logged steps outside the limits after which a run ends
# initial share of a run that is not checked, because feature vectors may still be alike
GRACE = 0.1


class Alarm(Monitor):
    """A monitor that ends a run if a value is outside its limits at ``IN_A_ROW`` logged steps in a
    row.

    In the initial share ``grace`` of the run, nothing is checked.
    """

    def __init__(self, schedule: Schedule, folder: Path, grace: float = GRACE):
        self.folder, self._begin = folder, grace * schedule.steps
        self._outside: dict[str, int] = {}

    def on_log(self, done: int, losses: dict[str, float]) -> None:
        """Check the values after the grace period."""
        if done >= self._begin:
            self.check(done, losses)

    def check(self, done: int, losses: dict[str, float]) -> None:
        """Raise ``CollapsedError`` if a value ``persists`` outside its limits (``require``)."""
        raise NotImplementedError

    def require(
        self,
        done: int,
        name: str,
        value: float,
        meaning: str,
        least: float = -math.inf,
        most: float = math.inf,
    ) -> None:
        """Require that the value ``name`` does not persist below ``least`` or above ``most``;
        ``meaning`` ends the message.
        """
        if self.persists(name, not least <= value <= most):
            limit = f"below {least:g}" if value < least else f"above {most:g}"
            raise CollapsedError(
                f"{self.folder}: collapsed by step {done}: {name.replace('_', ' ')} is {value:.3g},"
                f" {limit} at {IN_A_ROW} logged steps in a row: {meaning}"
            )

    def persists(self, name: str, is_outside: bool) -> bool:
        """Count the logged steps in a row at which ``name`` is outside its limits; True if
        ``IN_A_ROW`` or more.
        """
        self._outside[name] = self._outside.get(name, 0) + 1 if is_outside else 0
        return self._outside[name] >= IN_A_ROW


@dataclass(eq=False)
class Turn:
    """A turn of a method: its parameters, optimiser and update."""

    method: Method
    name: str
    schedule: Schedule

    def __post_init__(self) -> None:
        self.parameters = [parameter for _, parameter in self.method.turn_parameters(self.name)]
        self.optimiser = self.method.optimiser(self.name, self.schedule)

    def update(self, step: int, batches: Iterable[Any], fabric: Fabric) -> Losses:
        """Compute and clip the mean gradient over batches and processes; return mean losses and the
        unclipped norm.
        """
        set_step(self.optimiser, self.schedule, step)
        progress, total = step / self.schedule.steps, {}
        for batch in batches:
            with fabric.autocast():
                losses = self.method.losses(batch, self.name, progress)
            (losses["loss"].float() / self.schedule.accumulate).backward()
            for name, value in losses.items():
                total[name] = (
                    total.get(name, 0.0) + value.detach().float() / self.schedule.accumulate
                )
        average_gradients(self.parameters)
        total = fabric.all_reduce(total, reduce_op="mean") if fabric.world_size > 1 else total
        total["gradient"] = nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip)
        return total

    def apply(self, step: int) -> None:
        """Apply the optimiser's step, and clear all gradients, including those of other turns'
        parameters.
        """
        self.method.before_step(self.name, step / self.schedule.steps)
        self.optimiser.step()
        self.method.zero_grad(set_to_none=True)


def train(
    method: Method,
    batches: Callable[[int], Any],
    schedule: Schedule,
    folder: RunFolder,
    fabric: Fabric,
    *,
    seed: int = 0,
    monitors: Sequence[Monitor] = (),
    progress: Progress = lambda done, steps, losses: None,
) -> None:
    """Train ``method`` to the end of ``schedule``, from the last resume point if there is one.

    ``batches`` returns the batch with a given number on the device; a batch depends only on its
    number.
    """
    method.to(fabric.device)
    n_batches = fabric.world_size * schedule.accumulate
    schedule = schedule.for_batches(n_batches)
    turns = [Turn(method, name, schedule) for name in method.turns]
    if len(turns) > 1:
        # All turns of a step use the same batches.
        batches = lru_cache(maxsize=schedule.accumulate)(batches)
    optimisers = {turn.name: turn.optimiser for turn in turns}
    start = load_resume_point(folder.resume, n_batches, method, optimisers)
    log, leads = MetricsLog(folder.metrics), fabric.is_global_zero
    if leads:
        log.forget_from(start)
    method.train()
    for step in range(start, schedule.steps):
        # Random numbers are seeded at every step, so that a resume point need not contain the
        # generator's state.
        torch.manual_seed(seed_of_step(seed, step * fabric.world_size + fabric.global_rank))
        broadcast_buffers(method)
        for module in method.modules():
            if isinstance(module, Method):
                module.gauges = schedule.is_logged(step)
        losses = _take_turns(turns, batches, step, folder, fabric)
        method.after_step(step / schedule.steps)
        if schedule.is_logged(step):
            values = _to_numbers(losses)
            if leads:
                log.append(step, {"learning_rate": schedule.rate(step), **values})
                progress(step + 1, schedule.steps, values)
            for monitor in monitors:
                monitor.on_log(step + 1, values)
        has_ended = schedule.is_due(step + 1, schedule.validate_every) and _validate(
            step + 1, monitors, log, fabric
        )
        if has_ended or schedule.is_due(step + 1, schedule.save_every):
            _require_finite(method.state_dict(), step, folder)
            if leads:
                # A run that has ended is not continued.
                done = schedule.steps if has_ended else step + 1
                save_resume_point(folder.resume, done, n_batches, method, optimisers)
                draw_curves(log.read(), folder.curves)
                for monitor in monitors:
                    monitor.on_save(step + 1)
        if has_ended:
            break


def _take_turns(
    turns: Sequence[Turn],
    batches: Callable[[int], Any],
    step: int,
    folder: RunFolder,
    fabric: Fabric,
) -> Losses:
    """Update the parameters of each turn, and return the losses of all turns."""
    losses, n = {}, turns[0].schedule.accumulate
    for turn in turns:
        numbers = range(step * n, (step + 1) * n)
        own = (batches(number * fabric.world_size + fabric.global_rank) for number in numbers)
        with only_trainable(turn, turns):
            of_turn = turn.update(step, own, fabric)
        _require_finite(of_turn, step, folder)
        turn.apply(step)
        prefix = f"{turn.name} " if len(turns) > 1 else ""
        losses |= {prefix + name: value for name, value in of_turn.items()}
    return losses


def _validate(done: int, monitors: Sequence[Monitor], log: MetricsLog, fabric: Fabric) -> bool:
    """Call the monitors of the first process; True in every process if one of them ends the run."""
    return fabric.broadcast(
        any([monitor.on_validate(done, log) for monitor in monitors if fabric.is_global_zero])
    )


def _to_numbers(losses: Losses) -> Row:
    """The losses as numbers, which are copied from the device at once."""
    # The norm of the gradient is needed only by ``_require_finite``.
    logged = {name: value for name, value in losses.items() if not name.endswith("gradient")}
    return dict(zip(logged, torch.stack([*logged.values()]).tolist(), strict=True))


@contextmanager
def only_trainable(turn: Turn, turns: Sequence[Turn]) -> Iterator[None]:
    """Within the block, parameters of other turns get no gradients, but gradients pass through
    their networks.
    """
    others = [parameter for other in turns if other is not turn for parameter in other.parameters]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def _require_finite(values: dict[str, Tensor], step: int, folder: RunFolder) -> None:
    """Raise ``DivergedError`` unless all values, which are equal in all processes, are finite."""
    numbers = {
        name: value.detach().double().sum()
        for name, value in values.items()
        if value.is_floating_point()
    }
    if torch.stack(list(numbers.values())).sum().isfinite():  # one synchronisation with the device
        return
    broken = next((name for name, value in numbers.items() if not value.isfinite()), "loss")
    raise DivergedError(
        f"{folder.path}: '{broken}' is not finite at step {step}; nothing was saved. Start another"
        " run folder, with a lower `learning_rate`"
    )
