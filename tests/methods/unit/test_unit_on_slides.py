"""A run without `sources` uses the slides of a sheet, as in the workflow's `model` and
`pretrain`.
"""

from pathlib import Path

import pytest
import yaml
from tiny_runs import UNIT as CONFIG
from workflow_runs import write_sheet

from muse_pipeline.core.files import read_json

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
    assert "tiny: 0.5 um/px; Nucleus" in muse.ok(
        f"step model {cohort / 'cohort.yaml'} --resolved {cohort / 'model.json'}"
    )
    assert not read_json(cohort / "model.json")["trains_on_slides"]


def test_pretraining_holds_slides_back(cohort, muse):
    facts = cohort / "facts.json"
    assert plan(muse, cohort, "--resolved", facts) == (0, "")
    found = read_json(facts)
    assert (found["backbone"], found["mpp"], found["slides"], found["held"]) == (
        "muse_compact_16",
        0.5,
        ["a"],
        ["b"],
    )


def test_the_recipe_for_slides_names_none(muse, tmp_path):
    config = TOP / "config/train/unit.yaml"
    assert "unit: 0.5 um/px; Nucleus" in muse.ok(
        f"step model {config} --resolved {tmp_path / 'model.json'}"
    )
    assert read_json(tmp_path / "model.json")["trains_on_slides"]
    assert "sources: the list is empty" in muse.fails(f"train {config} -o {tmp_path / 'run'}")


def test_methods_that_train_no_detector_are_no_model(muse):
    recipe = TOP / "config/train/muse_pretrain.yaml"
    assert "the workflow cannot train models with method 'muse'" in muse.fails(
        f"step model {recipe} --set", "sources=[{images: a, mpp: 1}]"
    )
    muse.fails(
        f"step pretrain-config {TOP / 'config/train/mil.yaml'} --sheet "
        f"{TOP / 'config/none.tsv'} --results r -o c"
    )
