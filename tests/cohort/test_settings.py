"""Checks of the workflow's config that its schema cannot express, and the files written for it."""

from pathlib import Path

import pytest
import yaml
from snakemake.cli import parse_config

from muse_pipeline import settings as run_settings
from muse_pipeline.cohort import settings
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.settings import list_settings

CONFIG = {setting.name: setting.default for setting in list_settings().values()}


def complete(**changes):
    return run_settings.complete({**CONFIG, **changes})


@pytest.mark.parametrize(
    "model, mode, sentence",
    [
        ({"mpp": 0.25, "classes": ["a"]}, "supervised", "works at 0.25 um/px; set `mpp: 0.25`"),
        (
            {"mpp": 0.5, "classes": ["a", "b"]},
            "label-free",
            "mode label-free is for models of one class",
        ),
        (
            {"mpp": 2, "classes": ["a", "b"], "kind": "regions"},
            "supervised",
            "'m' maps regions, not nuclei",
        ),
        ({"mpp": 0.5, "classes": ["a", "b"]}, "supervised", None),
        ({"mpp": 0.5, "classes": ["a"]}, "label-free", None),
        (
            {"mpp": 0.5, "classes": ["a"], "name": "label_free"},
            "supervised",
            "model 'label_free' was trained without",
        ),
        ({"mpp": 0.5, "classes": ["a"], "name": "label_free"}, None, None),
    ],
)
def test_the_model_must_fit(model, mode, sentence):
    def check():
        settings.require_fitting_model(complete(mode=mode), {"name": "m", **model})

    if sentence is None:
        check()
    else:
        with pytest.raises(ConfigError, match=sentence):
            check()


def test_a_region_run_has_the_slides_of_the_workflow_where_it_names_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        settings.region_run(complete())
        is settings.region_run(complete(regions="tumour.onnx"))
        is None
    )
    of_run = complete(regions="tumour.yaml", output="results")
    assert settings.region_run(of_run) == "tumour.yaml"
    for labels, expected in (
        ("slide_labels: {folds: 2}", {"slides": "config/slides.tsv", "stores": "results"}),
        ("slide_labels:", {"slides": "config/slides.tsv", "stores": "results"}),
        ("slide_labels: {slides: others.tsv}", {"stores": "results"}),
        ("sources: []", {}),
    ):
        Path("tumour.yaml").write_text(labels)
        changes = [
            f'slide_labels.{name}="{tmp_path / location}"' for name, location in expected.items()
        ]
        assert settings.slides_of_region_run(of_run) == (["--set", *changes] if changes else [])


def test_only_an_image_for_pretraining_alone_may_be_lossy():
    lossy = complete(pretrain_store={"codec": "jpeg"}, extra_mpps=[1.0])
    assert settings.pretraining_codec(lossy, 0.25) == "jpeg"
    for mpp in (0.5, 1.0):
        with pytest.raises(
            ConfigError,
            match=r"codec jpeg loses detail, but image-\d+nm\.zarr is also the store of",
        ):
            settings.pretraining_codec(lossy, mpp)
        assert settings.pretraining_codec(complete(), mpp) == "zstd"


def test_a_training_run_may_be_a_file_or_stand_in_the_config(tmp_path):
    assert settings.training_file(complete()) is None
    assert settings.training_file(complete(model="tiny.yaml")) == "tiny.yaml"
    assert settings.training_data(complete(model="tiny.yaml")) == []
    run = {
        "name": "my run!",
        "checkpoint": "b.pt",
        "distillation": {"teachers": ["compact", "c.pt"]},
    }
    inline = complete(model=run, output=str(tmp_path))
    file = settings.training_file(inline)
    assert (file, settings.training_data(inline)) == (
        f"{tmp_path}/training/my-run.yaml",
        ["--data", "."],
    )
    written = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    assert written["checkpoint"] == str(Path("b.pt").resolve())
    assert written["distillation"]["teachers"] == ["compact", str(Path("c.pt").resolve())]


def test_settings_within_settings_become_changes():
    assert list(settings.as_changes({"a": {"b": 1, "c": {"d": "x"}}, "e": {}})) == [
        "a.b=1",
        'a.c.d="x"',
        "e={}",
    ]


def test_numbers_that_snakemake_reads_as_text_become_numbers():
    given = parse_config(["run={steps: 100, mpp: [0.5, 1], rate: 1.0e-3, exact: true, name: a b}"])[
        "run"
    ]
    changes = list(settings.as_changes(given))
    assert changes == ["steps=100", "mpp=[0.5, 1]", "rate=0.001", "exact=true", 'name="a b"']


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("results/model.json")
    settings.write_if_changed(path, "one")
    return path


def test_a_file_of_the_plan_keeps_its_time_while_its_content_stays(planned):
    before = planned.stat().st_mtime_ns, planned.stat().st_ino
    settings.write_if_changed(planned, "one")
    assert (planned.stat().st_mtime_ns, planned.stat().st_ino) == before
    settings.write_if_changed(planned, "two")
    assert planned.read_text() == "two" and len(list(planned.parent.iterdir())) == 1
