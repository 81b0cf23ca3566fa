"""The training loop, tested with methods that have only a few parameters."""

import dataclasses
import math

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from muse_pipeline.core.errors import CheckpointError, DivergedError
from muse_pipeline.training.loop import MetricsLog, Monitor, train
from muse_pipeline.training.method import Method, Schedule, build_adamw, set_step
from muse_pipeline.training.run import RunFolder

pytestmark = pytest.mark.usefixtures("no_curves")


class Line(Method):
    """Fits a linear function to inputs with dropout; at the step ``diverges_at``, the loss becomes
    NaN.
    """

    def __init__(self, drop=0.0, diverges_at=-1):
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Linear(4, 3), nn.Linear(3, 1)
        self.drop, self.diverges_at = drop, diverges_at
        self.register_buffer("n_steps", torch.tensor(0))

    def losses(self, batch, turn, progress):
        x, y = batch
        hidden = self.backbone(nn.functional.dropout(x, self.drop))
        self.seen_dtype = hidden.dtype
        loss = (self.head(hidden).float() - y).square().mean()
        return {
            "loss": loss * math.nan if self.n_steps == self.diverges_at else loss,
            "other": 2 * loss,
        }

    def after_step(self, progress):
        self.n_steps += 1

    def trained(self):
        return self


def batch_of(number, size=4):
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(size, 4, generator=generator)
    return x, x.sum(1, keepdim=True)


def batch_of_three(number):
    """The contents of batches 3 n, 3 n + 1 and 3 n + 2, for n = ``number``."""
    return tuple(
        torch.cat(parts)
        for parts in zip(*(batch_of(3 * number + i) for i in range(3)), strict=True)
    )


def run(folder, method, batches=batch_of, precision="32-true", steps=12, **settings):
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    fabric.launch()
    folder.mkdir(exist_ok=True)
    schedule = Schedule(steps, **{"save_every": 100, "log_every": 1, **settings})
    train(method, batches, schedule, RunFolder(folder), fabric)
    return MetricsLog(folder / "metrics.jsonl").read()


def test_three_accumulated_batches_are_one_of_three_times_the_size(tmp_path):
    parts, whole = Line(), Line()
    rows = run(tmp_path / "parts", parts, accumulate=3)
    expected = run(tmp_path / "whole", whole, batch_of_three)
    assert [row["loss"] for row in rows] == pytest.approx(
        [row["loss"] for row in expected], rel=1e-5
    )
    for one, other in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert parts.n_steps == 12


@pytest.mark.parametrize("killed_at", [1, 5, 6, 11])
def test_a_run_that_draws_random_numbers_goes_on_exactly(tmp_path, killed_at):
    whole, parts = Line(drop=0.3), Line(drop=0.3)
    run(tmp_path / "whole", whole, save_every=3)

    def stops(number):
        if number == killed_at:
            raise KeyboardInterrupt
        return batch_of(number)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", parts, stops, save_every=3)
    torch.rand(7)  # a new process has a different random state
    again = Line(drop=0.3)
    run(tmp_path / "parts", again, save_every=3)
    assert (tmp_path / "parts/metrics.jsonl").read_bytes() == (
        tmp_path / "whole/metrics.jsonl"
    ).read_bytes()
    assert all(
        torch.equal(value, whole.state_dict()[name]) for name, value in again.state_dict().items()
    )


class Slopes(Method):
    """A method whose gradients are the batches themselves, scaled up with the progress of the
    run.
    """

    def __init__(self):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.tensor([[1.0, -2.0]])),
            nn.Parameter(torch.tensor([0.5])),
        )

    def losses(self, batch, turn, progress):
        return {"loss": (1 + progress) * (batch[:2] @ self.weight[0] + batch[2] * self.bias[0])}

    def after_step(self, progress):
        self.last_progress = progress

    def trained(self):
        return self


def slopes_of(number):
    """The gradient of a batch; its norm is below 1.5 at first, and later above it."""
    return (
        torch.tensor([0.2, -0.1, 0.3]) * (number % 5 + 1)
        + torch.tensor([0.0, 0.05, -0.02]) * number
    )


def test_steps_are_those_of_adamw_written_out(tmp_path):
    """Warm-up, cosine, decay of matrices only, accumulation and clipping, computed one number at a
    time.
    """
    rates = [0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.07525, 0.02575]  # warm-up, then down to a hundredth
    values, decays = [1.0, -2.0, 0.5], [True, True, False]
    first, second, n_clipped = [0.0] * 3, [0.0] * 3, 0
    for step, rate in enumerate(rates):
        parts = [slopes_of(2 * step).tolist(), slopes_of(2 * step + 1).tolist()]
        gradient = [(1 + step / 6) * (one + other) / 2 for one, other in zip(*parts, strict=True)]
        norm = math.sqrt(sum(one**2 for one in gradient))
        n_clipped += norm > 1.5
        gradient = [one * min(1, 1.5 / norm) for one in gradient]
        decay = 0.2 + 0.2 * (1 - math.cos(math.pi * step / 6)) / 2
        for i in range(3):
            values[i] *= 1 - rate * decay * decays[i]
            first[i] = 0.9 * first[i] + 0.1 * gradient[i]
            second[i] = 0.999 * second[i] + 0.001 * gradient[i] ** 2
            mean, square = first[i] / (1 - 0.9 ** (step + 1)), second[i] / (1 - 0.999 ** (step + 1))
            values[i] -= rate * mean / (math.sqrt(square) + 1e-8)
    method, settings = (
        Slopes(),
        {"learning_rate": 0.1, "warmup": 0.5, "weight_decay": 0.2, "last_weight_decay": 0.4},
    )
    rows = run(tmp_path, method, slopes_of, steps=6, clip=1.5, accumulate=2, **settings)
    assert 0 < n_clipped < 6
    assert [*method.weight[0].tolist(), *method.bias.tolist()] == pytest.approx(values, rel=1e-5)
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates)
    assert method.last_progress == 5 / 6


CHANGES = {  # setting of a schedule -> a value other than that in ``run_changed``
    "steps": 8,
    "learning_rate": 0.2,
    "warmup": 0.9,
    "weight_decay": 0.4,
    "last_weight_decay": 0.5,
    "clip": 0.5,
    "accumulate": 2,
    "reference_batches": 4,
    "save_every": 3,
    "log_every": 2,
    "validate_every": 2,
    "curve": 8,
}


class Records(Monitor):
    """Records when it is called."""

    def __init__(self):
        self.calls = []

    def on_validate(self, done, log):
        self.calls.append(("validate", done))

    def on_save(self, done):
        self.calls.append(("save", done))


def run_changed(folder, **changes):
    """Weights, logged rows and calls of monitors in a run with changed settings."""
    folder.mkdir()
    method, records, fabric = Slopes(), Records(), Fabric(accelerator="cpu", devices=1)
    schedule = Schedule(
        **{"steps": 6, "learning_rate": 0.1, "warmup": 0.5, "clip": 1.5, "log_every": 1, **changes}
    )
    train(method, slopes_of, schedule, RunFolder(folder), fabric, monitors=[records])
    return method.weight.tolist(), MetricsLog(folder / "metrics.jsonl").read(), records.calls


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Schedule)])
def test_every_setting_of_a_schedule_changes_a_run(tmp_path, name):
    """Each setting changes the final weights, or what is logged, validated or saved."""
    acts_on = {"log_every": 1, "save_every": 2, "validate_every": 2}.get(name, 0)
    plain, changed = (
        run_changed(tmp_path / "plain"),
        run_changed(tmp_path / "changed", **{name: CHANGES[name]}),
    )
    assert plain[acts_on] != changed[acts_on]


class EndsAt(Monitor):
    """Ends a run at its second validation."""

    def on_validate(self, done, log):
        return done == 4


def test_a_run_that_a_monitor_ends_is_not_continued(tmp_path):
    """It takes the beginning of its schedule, as a run with as many steps of the same curve
    does.
    """
    ended, short, fabric = Line(), Line(), Fabric(accelerator="cpu", devices=1)
    schedule = Schedule(steps=10, validate_every=2, log_every=1, learning_rate=0.1)
    for method in (ended, Line()):
        train(method, batch_of, schedule, RunFolder(tmp_path), fabric, monitors=[EndsAt()])
        assert len(MetricsLog(tmp_path / "metrics.jsonl").read()) == 4
    run(tmp_path / "short", short, steps=4, curve=10, learning_rate=0.1)
    assert ended.n_steps == 4 and all(map(torch.equal, ended.parameters(), short.parameters()))
    assert all(map(torch.equal, ended.parameters(), method.parameters()))


def test_it_stops_at_the_very_step_that_diverges_and_saves_nothing_there(tmp_path):
    """Step 7 is not logged, but would be saved."""
    with pytest.raises(DivergedError, match="`learning_rate`"):
        run(tmp_path / "r", Line(diverges_at=7), save_every=4, log_every=5)
    state = torch.load(tmp_path / "r/resume.pt", weights_only=True)
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["method"].values())
    assert [row["step"] for row in MetricsLog(tmp_path / "r/metrics.jsonl").read()] == [0, 5]


def test_weights_that_the_last_step_broke_are_not_saved(tmp_path):
    class Breaks(Line):
        def after_step(self, progress):
            self.n_steps += 1
            if self.n_steps == 4:
                self.head.bias.data.fill_(math.inf)

    with pytest.raises(DivergedError, match="step 3"):
        run(tmp_path / "r", Breaks(), save_every=4)
    assert not (tmp_path / "r/resume.pt").exists()


def test_half_precision_reaches_the_method(tmp_path):
    """By default, Fabric sets the precision only in ``forward``."""
    method = Line()
    run(tmp_path / "r", method, precision="bf16-mixed")
    assert method.seen_dtype == torch.bfloat16
    assert method.backbone.weight.dtype == torch.float32


def test_the_backbone_has_a_rate_of_its_own_and_biases_do_not_decay():
    method = Line()
    optimiser = build_adamw(
        method.named_parameters(), Schedule(10, weight_decay=0.1), backbone_rate=0.25
    )
    set_step(optimiser, Schedule(10, learning_rate=0.4, warmup=0, weight_decay=0.1), 0)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimiser.param_groups
        for parameter in group["params"]
    }
    assert found[id(method.backbone.weight)] == (0.1, 0.1)
    assert found[id(method.backbone.bias)] == (0.1, 0.0)
    assert found[id(method.head.weight)] == (0.4, 0.1)
    assert found[id(method.head.bias)] == (0.4, 0.0)


@pytest.mark.parametrize(
    "content", [b"", b"nothing", "list", "foreign", "other devices", "other network"]
)
def test_a_resume_point_that_is_none_is_one_sentence(tmp_path, content):
    run(tmp_path, Line(), steps=2)
    path = tmp_path / "resume.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        state = torch.load(path, weights_only=True)
        changed = {
            "list": [1],
            "foreign": {"step": 1},
            "other devices": {**state, "batches": 2},
            "other network": {**state, "method": {}},
        }
        torch.save(changed[content], path)
    with pytest.raises(CheckpointError, match=r"resume\.pt: ") as caught:
        run(tmp_path, Line(), steps=4)
    assert "\n" not in str(caught.value)


def test_a_cut_off_last_line_is_forgotten(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl")
    for step in range(4):
        log.append(step, {"loss": 1.0})
    with log.path.open("a") as file:
        file.write('{"step": 4, "lo')
    log.forget_from(3)
    assert [row["step"] for row in log.read()] == [0, 1, 2]
    assert log.path.read_text().endswith("\n")


def test_a_run_of_more_batches_per_step_learns_at_the_scaled_rate(tmp_path):
    rows = run(tmp_path, Line(), accumulate=4, reference_batches=1)
    assert rows[-1]["learning_rate"] == pytest.approx(
        2 * run(tmp_path / "one", Line())[-1]["learning_rate"]
    )


@pytest.mark.parametrize("line", ["{", "[1]", "{}", "\0\0"])
def test_a_damaged_line_of_the_metrics_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 1.0}\n' + line + "\n")
    with pytest.raises(CheckpointError, match="damaged"):
        MetricsLog(path).forget_from(0)
