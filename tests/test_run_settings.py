"""The settings of a run: the files generated from their descriptions, and values that depend on
other settings.
"""

import importlib.util
from pathlib import Path

import pytest

from muse_pipeline import settings
from muse_pipeline.cli.arguments import Parser, read_settings
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.outputs.artefacts import subtracted
from muse_pipeline.outputs.geojson import require_measurements
from muse_pipeline.settings import RunSettings, list_run_settings, list_settings

ROOT = Path(__file__).parents[1]


def complete(**changes):
    return dict(RunSettings(changes))


def test_the_config_its_schema_and_its_table_are_made_from_the_settings():
    spec = importlib.util.spec_from_file_location("make_settings", ROOT / "docs/make_settings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path, text in module.make_files().items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path}: run `python docs/make_settings.py`"
        )


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("csv", True, ["--csv"]),
        ("viewer", False, ["--no-viewer"]),
        ("features", "none", ["--features", "none"]),
        ("quality", False, ["--no-quality"]),
        ("quality", {"subtract": []}, ["--subtract"]),
        ("quality", {"subtract": ["blurred"]}, ["--subtract", "blurred"]),
        ("model", "compact-int8", ["--model", "compact-int8"]),
    ],
)
def test_a_value_passes_the_command_line(name, value, words):
    setting = list_settings()[name]
    parser = Parser()
    parser.add_settings([setting])
    assert read_settings(parser.parse_args(words), [setting]) == {name: value}
    assert read_settings(parser.parse_args([]), [setting]) == {}


def test_a_value_out_of_its_range_is_rejected_on_the_command_line(capsys):
    parser = Parser()
    parser.add_settings(list_run_settings())
    with pytest.raises(SystemExit):
        parser.parse_args(["--features", "some"])
    assert "--features" in capsys.readouterr().err


def test_settings_are_read_by_name_and_as_attributes():
    run = RunSettings({"csv": True}, threads=3)
    assert (run.csv, run["csv"], run.features, run.threads, len(run)) == (
        True,
        True,
        "basic",
        3,
        len(list_settings()),
    )
    with pytest.raises(AttributeError):
        _ = run.colour


def test_what_follows_from_other_settings_is_filled_in(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    assert complete()["model"] == "compact"
    assert complete(mode="label-free")["model"] == "label_free"
    assert complete(mode="label-free", model="~/my.onnx")["model"] == "/home/ann/my.onnx"
    assert complete(max_features=1e5, shards=2.0) == {
        **complete(),
        "max_features": 100_000,
        "shards": 2,
    }
    assert complete(pretrain={"run": "~/b.yaml"})["proposals"] == {"method": "haematoxylin"}
    assert complete(pretrain={"run": "~/b.yaml"})["pretrain"] == {"run": "/home/ann/b.yaml"}
    assert complete(slides="s3://bucket//a")["slides"] == "s3://bucket//a"
    assert complete(anndata=True)["features"] == complete(spatialdata=True)["features"] == "all"


@pytest.mark.parametrize("mpp", [1.0, 0.3])
def test_artefacts_are_sought_by_default_where_focus_can_be_judged(mpp):
    assert complete()["quality"] == complete(mpp=0.25)["quality"] == {"subtract": ["blurred"]}
    assert complete(mpp=mpp)["quality"] is False


def test_artefacts_to_subtract_are_rejected_if_none_are_searched(muse, tmp_path):
    (tmp_path / "a.svs").touch()
    status, _, error = muse(
        f"run {tmp_path / 'a.svs'} -o {tmp_path / 'r'} --no-quality --subtract fold"
    )
    assert (status, error) == (
        2,
        "muse run: --no-quality and --subtract contradict each other; give one of them\n",
    )


def test_quality_subtracts_what_is_out_of_focus_or_what_is_named():
    assert complete(quality={"subtract": ["ink", "blur", "ink"]})["quality"] == {
        "subtract": ["ink", "blurred"]
    }
    assert complete(quality={"subtract": []})["quality"] == {"subtract": []}
    assert subtracted({"quality": True}) == ("blurred",) and subtracted({"quality": False}) is None


def test_nuclei_must_have_the_measurements():
    require_measurements(
        ["h_mean", "prob_A", "dab_od", "region_prob", "solidity"], "basic", ["A", "B"]
    )


def test_what_settings_need_must_be_there(tmp_path, monkeypatch):
    (tmp_path / "tumour.onnx").touch()
    settings.require_available(
        RunSettings({"anndata": True, "regions": str(tmp_path / "tumour.onnx")})
    )
    with pytest.raises(ConfigError, match="`nuclei`"):
        settings.require_available(RunSettings({"regions": "nosuch.onnx"}))
    with pytest.raises(ConfigError, match="regions 'epithelium'"):
        settings.require_available(RunSettings({"regions": "epithelium"}))
    settings.require_available(RunSettings({"regions": "nuclei"}))
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="extra `spatial`"):
        settings.require_available(RunSettings({"anndata": True}))
