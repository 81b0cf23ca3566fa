"""Check that every numeric setting of a method changes the data read, the networks, a batch, a loss
or an update.

A case changes one setting and compares the parts of one step early in a run, in the order in which
they are computed. Settings that have no effect there are listed with the reason.
"""

from __future__ import annotations

import dataclasses

import torch
import yaml

from muse_pipeline.core.config import parse_config
from muse_pipeline.training.checkpoint import save_checkpoint
from muse_pipeline.training.devices import open_fabric
from muse_pipeline.training.loop import Turn
from muse_pipeline.training.recipe import RECIPES, load_run

STEP = 10  # the step that is compared
SCHEDULE = {
    "steps": 100,
    "warmup": 0.2,
    "last_weight_decay": 0.4,
    "reference_batches": 2,
    "clip": 0.1,
    "log_every": 7,
}
# by setting, for ``other_value``
MANY = {"steps": 150, "clip": 1e-3, "accumulate": 2, "warmup": 0.5}
REPORTS = {
    "schedule.save_every": "files alone: tests/training/test_resume.py",
    "schedule.log_every": "files alone: tests/training/test_loop.py",
    "schedule.validate_every": "scores alone: tests/training/test_loop.py",
}
CARD = {"classes": "colours in the viewer", "export": "how the model is run: tests/export"}
NAMES = {"patient": "what a name means: tests/labels/test_pictures.py"}


def with_setting(config, name, value):
    """The config with a different value for the setting ``name``, such as ``schedule.clip``."""
    first, _, rest = name.partition(".")
    earlier = config[int(first)] if isinstance(config, tuple) else getattr(config, first)
    changed = with_setting(earlier, rest, value) if rest else value
    if isinstance(config, tuple):
        return (*config[: int(first)], changed, *config[int(first) + 1 :])
    return dataclasses.replace(config, **{first: changed})


def numbers_in(value, name="", kind=""):
    """Yield (dotted name, value) of every numeric setting, including items of tuples and numbers
    that are None.
    """
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            dotted = f"{name}.{field.name}".strip(".")
            yield from numbers_in(getattr(value, field.name), dotted, str(field.type))
    elif isinstance(value, tuple):
        for index, one in enumerate(value):
            yield from numbers_in(one, f"{name}.{index}")
    elif (isinstance(value, int | float) and not isinstance(value, bool)) or (
        value is None and ("int" in kind or "float" in kind)
    ):
        yield name, value


def other_value(name, value):
    """The value in ``MANY`` if there is one; otherwise an integer plus 1, or half of a float."""
    if (last := name.rpartition(".")[2]) in MANY:
        return MANY[last]
    return value + 1 if isinstance(value, int) else value / 2 or 0.5


def tensors_in(value, name=""):
    """Yield (name, tensor) of every number and tensor in nested values."""
    if isinstance(value, torch.Tensor | int | float):
        yield name, torch.as_tensor(value).detach().clone()
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from tensors_in(one, f"{name} {key}")
    elif isinstance(value, tuple | list):
        for index, one in enumerate(value):
            yield from tensors_in(one, f"{name} {index}")


def parts_of_step(stage, read):
    """Yield (name, tensor) of everything that step ``STEP`` of a stage computes: batches, weights,
    losses and state.

    Args:
        stage: the stage of a run.
        read: stage name -> the data that the stage has read; added here if missing.
    """
    schedule, fabric = stage.config.schedule, open_fabric("cpu", 1, "32-true")
    data = read[stage.name] = read.get(stage.name) or stage.read(lambda line: None)
    batches = stage.batches(data, torch.device("cpu"))
    first = STEP * schedule.accumulate
    numbers = range(first, first + schedule.accumulate)
    drawn = [stage.finish_batch(batches(number)) for number in numbers]
    yield from tensors_in(drawn, "batch")
    torch.manual_seed(stage.config.seed)
    method = stage.build(data).train()
    yield from tensors_in(method.state_dict(), "weights")
    torch.manual_seed(stage.config.seed)
    turns = [Turn(method, name, schedule.for_batches(schedule.accumulate)) for name in method.turns]
    for turn in turns:
        yield from tensors_in(turn.update(STEP, drawn, fabric), turn.name)
        turn.apply(STEP)
        yield from tensors_in(turn.optimiser.state_dict()["state"], f"{turn.name} optimiser")
    method.after_step(STEP / schedule.steps)
    yield from tensors_in(method.state_dict(), "after")


def first_difference(one, other):
    """Name of the first part in which two steps differ; None if they are identical bit for bit."""
    for (name, first), (other_name, second) in zip(one, other, strict=False):
        same = name == other_name and first.shape == second.shape
        if not same or not torch.allclose(first, second, 0, 0, equal_nan=True):
            return name
    return None


BLUR = {
    "augmentation.blur": 1.0,
    # does not change the width of the kernel
    "augmentation.blur_um": ({"augmentation.blur": 1.0}, 0.3),
}
IN_VIEWS = {
    **BLUR,
    "views.global_px": 96,
    "views.local_px": 64,
    "views.mpp.0": 0.75,
    "views.mpp.1": 0.75,
    "views.min_matches": 1000,
    "views.max_matches": 1,
    "views.draws": ({"views.min_matches": 1000}, 1),
    "balance": 1.0,
    "grey": 1.0,
    "min_nuclei": 33,
}
APPEARANCE = {
    **BLUR,
    "augmentation.scale": 2.0,
    "augmentation.free_rotation": 1.0,
}


class Kind:
    """The runs of one method, and a changed value for each of its settings.

    Args:
        values: settings of the run, with paths relative to its folder.
        parts: function that takes the stages of a run and the data they have read, and yields each
            (name, tensor).
        trained: names of settings that do not affect which data are read, separated by spaces.
        others: setting -> its changed value; or (settings under which it has an effect, changed
            value); or a dict of settings to change instead. Settings that are not numbers are only
            tested if they are listed here.
        inert: beginning or end of a setting's name -> the reason why the setting does not change a
            step.
        section: prefix of the names of all settings to change.
    """

    def __init__(self, values, parts, trained, others, inert, section=""):
        self.values, self.parts, self.others, self._kept = values, parts, others, {}
        self.trained = tuple(trained.split())
        config = parse_config(values, RECIPES[values["method"]].Config, values["method"])
        inert = {**REPORTS, **inert}
        self.names = [
            name
            for name, _ in numbers_in(config)
            if name.startswith(section)
            and not any(
                f"{name}.".startswith(f"{one}.") or name.endswith(f".{one}") for one in inert
            )
        ]
        self.names += [name for name in others if name not in self.names]

    def load(self, folder):
        """The recipe and the settings of the runs in ``folder``."""
        (folder / "settings.yaml").write_text(yaml.safe_dump(self.values))
        return load_run(folder / "settings.yaml")

    def difference(self, name, folder):
        """Name of the first part that the changed value of a setting affects; None if it affects
        nothing.
        """
        recipe, base = self.load(folder)
        given = self.others.get(name)
        before, other = given if isinstance(given, tuple) else ({}, given)
        for setting, value in before.items():
            base = with_setting(base, setting, value)
        if (key := repr(before)) not in self._kept:
            read = {}
            parts = list(self.parts(recipe.stages(base, folder), read))
            again = self.parts(recipe.stages(base, folder), {})
            assert first_difference(parts, again) is None
            self._kept[key] = parts, read
        kept, read = self._kept[key]
        other = other_value(name, dict(numbers_in(base))[name]) if other is None else other
        changed = base
        for setting, value in other.items() if isinstance(other, dict) else [(name, other)]:
            changed = with_setting(changed, setting, value)
        read = dict(read) if name.startswith(self.trained) else {}
        return first_difference(kept, self.parts(recipe.stages(changed, folder), read))


def last_stage(stages, read):
    return parts_of_step(stages[-1], read)


def keep_untrained(stage, path=None):
    data = stage.read(lambda line: None)
    path = path or stage.result
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same weights in any order of tests; with this seed, the teacher marks some pixels.
    torch.manual_seed(3)
    save_checkpoint(path, stage.checkpoint(data, stage.build(data)))
