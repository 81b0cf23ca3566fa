"""The contract of training methods, tested with all real methods and with a toy of one file."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_sum
from labelled import draw_labelled_folder
from tiny_runs import RUNS, toy

from muse_pipeline.export.onnx import load_detector
from muse_pipeline.training import loop
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.recipe import RECIPES, load_run

TOY = toy_sum.__name__
CONFIGS = sorted((Path(__file__).parents[2] / "config/train").glob("*.yaml"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_labelled_folder(tmp_path_factory.mktemp("toys")) / "images"


@pytest.fixture
def undrawn(monkeypatch):
    """Plot no curves, because that takes longer than a short run; one test plots them."""
    monkeypatch.setattr(loop, "draw_curves", lambda rows, output: None)


def train(muse, config, folder, more=""):
    return muse.ok(f"train {config} -o {folder} --accelerator cpu --threads 1 {more}")


def contents(run, *names):
    return {path.relative_to(run): path.read_bytes() for name in names for path in run.rglob(name)}


# settings of the run in `resume.pt`; each is of another stage, or of another part of the method
CHANGES = {
    "detector": "n_rays=16 schedule.learning_rate=0.001 schedule.steps=7 seed=1",
    "muse": "distillation.momentum=0.9 views.n_local=1 schedule.learning_rate=0.1 batch=2 seed=1",
    "trident": "alignment.width=8 distillation.momentum=0.9 weight=2 seed=1",
    "mil": "batch=4 student.rounds=3 seed=1",
    "psm": "activation.batch=3 detector.colour=identity seed=1",
    "unit": "weights.cycle=1 second.learning_rate=0.1 seed=1",
}


@pytest.mark.parametrize("method", [*sorted(RUNS.keys() & RECIPES.names()), TOY])
def test_a_stopped_run_comes_to_the_same_bytes_and_is_for_one_config(
    method, images, tmp_path, muse, monkeypatch, undrawn
):
    config = toy(images, tmp_path / "c.yaml") if method == TOY else RUNS[method](tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    more = "--until detector" if method == "psm" else ""  # because its export takes long
    train(muse, config, whole, more)
    updates, update = [], loop.Turn.update

    def stop(turn, *arguments):
        updates.append(turn)
        if len(updates) in {4, 11}:  # within the first stage, and in the last if there are more
            raise KeyboardInterrupt
        return update(turn, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop.Turn, "update", stop)
        train_parts = f"train {config} -o {parts} --accelerator cpu --threads 1 {more}"
        statuses = [130]
        while statuses[-1] == 130:
            statuses.append(muse(train_parts)[0])
    assert statuses[-1] == 0 and len(statuses) > 2
    files = contents(whole, "checkpoint.pt", "metrics.jsonl")
    assert contents(parts, "checkpoint.pt", "metrics.jsonl") == files
    before = {path: path.stat().st_mtime_ns for path in parts.rglob("resume.pt")}
    train(muse, config, parts, more)  # has nothing left to do
    assert before == {path: path.stat().st_mtime_ns for path in parts.rglob("resume.pt")}
    if method in {"detector", "mil", "unit"}:
        train(muse, config, parts, "--set limits=trial")  # the card alone states it
        first, changed = (load_checkpoint(run / "checkpoint.pt") for run in (whole, parts))
        assert "'limits': 'trial'" in str(changed.meta)
        assert changed.weights_sha256() == first.weights_sha256()
        train(muse, config, parts)
    for change in CHANGES.get(method, "seed=1").split():
        printed = muse.fails(f"{train_parts} --set {change}")
        assert "different" in printed and "--start-over" in printed, change
    assert contents(parts, "checkpoint.pt", "metrics.jsonl") == files
    train(muse, config, parts, f"{more} --start-over --set seed=1")
    assert contents(parts, "checkpoint.pt", "metrics.jsonl") != files


def test_a_toy_learns_and_leaves_a_detector(images, tmp_path, muse):
    train(muse, toy(images, tmp_path / "c.yaml", steps=30), tmp_path / "run")
    rows = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    losses = [json.loads(row)["loss"] for row in rows]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert (tmp_path / "run/curves.png").is_file()
    graph, card = load_detector(tmp_path / "run/checkpoint.pt")
    with torch.no_grad():
        found = graph(torch.full((1, 3, 192, 192), 230, dtype=torch.uint8), torch.eye(3, 4))
    assert found[0].shape == (1, card.capacity, 2)


@pytest.mark.parametrize("name", RECIPES.names())
def test_settings_name_the_method_and_are_documented(name):
    kind = RECIPES[name].Config
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    assert {"name", "schedule" if name != "psm" else "detector"} <= defaults.keys()
    assert defaults["method"] == name
    if name != TOY:
        described = "".join(
            each.__doc__ for each in kind.__mro__
        )  # each class describes its own settings
        for setting in defaults.keys() - {"activation", "labels", "detector", "self_training"}:
            assert f"\n        {setting}: " in described, setting


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_in_config_is_of_a_method(path):
    if "\nsources:" not in path.read_text():
        pytest.skip("of a cohort, whose slides the workflow fills in")
    recipe, config = load_run(path)
    assert isinstance(config, recipe.Config)
