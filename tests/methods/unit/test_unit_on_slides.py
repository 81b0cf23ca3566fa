"""A run without `sources` uses the slides of a sheet, as in the workflow's `model` and
`pretrain`.
"""

import json
from pathlib import Path

import pytest
import yaml
from tiny_runs import UNIT as CONFIG
from workflow_runs import write_sheet

TOP = Path(__file__).parents[3]
ROWS = [
    {"slide_id": "a", "path": "a.tif", "patient": "P1", "split": ""},
    {"slide_id": "b", "path": "b.tif", "patient": "P2", "split": "test"},
]


@pytest.fixture
def cohort(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.tif").touch()
    write_sheet(tmp_path / "slides.tsv", ROWS)
    run = yaml.safe_load(CONFIG)
    del run["sources"]
    (tmp_path / "unit.yaml").write_text(yaml.safe_dump(run))
    return tmp_path


def plan(muse, folder, *more):
    arguments = [
        *(
            f"--sheet {folder / 'slides.tsv'} --results {folder / 'results'} -o "
            f"{folder / 'cohort.yaml'}"
        ).split(),
        *more,
    ]
    status, _, errors = muse(f"step pretrain-config {folder / 'unit.yaml'}", *arguments)
    return status, errors


def test_a_model_is_trained_on_every_slide(cohort, muse):
    assert plan(muse, cohort, "--held-splits") == (0, "")
    sources = yaml.safe_load((cohort / "cohort.yaml").read_text())["sources"]
    assert sources == [
        {"store": str(cohort / "results" / name / "image-500nm.zarr")} for name in "ab"
    ]
    status, out, errors = muse(
        f"step model {cohort / 'cohort.yaml'} --resolved {cohort / 'model.json'}"
    )
    assert status == 0 and "tiny: 0.5 um/px; Nucleus" in out, errors
    assert not json.loads((cohort / "model.json").read_text())["trains_on_slides"]


def test_pretraining_holds_slides_back(cohort, muse):
    facts = cohort / "facts.json"
    assert plan(muse, cohort, "--resolved", facts) == (0, "")
    found = json.loads(facts.read_text())
    assert (found["backbone"], found["mpp"], found["slides"], found["held"]) == (
        "muse_compact_16",
        0.5,
        ["a"],
        ["b"],
    )


def test_the_recipe_for_slides_names_none(muse, tmp_path):
    config = TOP / "config/train/unit.yaml"
    status, out, errors = muse(f"step model {config} --resolved {tmp_path / 'model.json'}")
    assert status == 0 and "unit: 0.5 um/px; Nucleus" in out, errors
    assert json.loads((tmp_path / "model.json").read_text())["trains_on_slides"]
    status, _, errors = muse(f"train {config} -o {tmp_path / 'run'}")
    assert status == 2 and "sources: the list is empty" in errors


def test_methods_that_train_no_detector_are_no_model(muse):
    recipe = TOP / "config/train/muse_pretrain.yaml"
    status, _, errors = muse(f"step model {recipe} --set", "sources=[{images: a, mpp: 1}]")
    assert status == 2 and "the workflow cannot train models with method 'muse'" in errors
    status, _, errors = muse(
        f"step pretrain-config {TOP / 'config/train/mil.yaml'} --sheet "
        f"{TOP / 'config/none.tsv'} --results r -o c"
    )
    assert status == 2
