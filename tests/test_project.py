"""Values that the project states more than once agree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from muse_pipeline.cohort.sheet import COLUMNS

TOP = Path(__file__).parents[1]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RULES = "".join(path.read_text(encoding="utf-8") for path in sorted((TOP / "workflow/rules").glob("*.smk")))


def load(path: str):
    return yaml.safe_load((TOP / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "extras"), [("infer", ["cpu"]), ("fetch", ["cpu", "remote"]), ("train", ["cpu", "train"])]
)
def test_environments_mirror_the_extras(name, extras):
    wanted = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    pip = next(entry["pip"] for entry in load(f"envs/{name}.yaml")["dependencies"] if isinstance(entry, dict))
    assert pip == wanted


def test_the_pinned_versions_are_within_the_ranges():
    lines = (TOP / "envs/constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {}
    for pin in map(Requirement, lines):
        pinned.setdefault(canonicalize_name(pin.name), []).append(str(pin.specifier).removeprefix("=="))
    ranges = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    for needed in map(Requirement, ranges):
        assert all(map(needed.specifier.contains, pinned[canonicalize_name(needed.name)])), needed


def test_the_config_shows_the_defaults():
    properties = load("workflow/schemas/config.schema.yaml")["properties"]
    assert load("config/config.yaml") == {name: setting["default"] for name, setting in properties.items()}
    text = (TOP / "config/README.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `(\w+)` \|", text.split("## The settings")[1].split("\n## ")[0], re.M)
    assert described == list(properties)


def test_every_column_of_the_sheet_is_described():
    text = (TOP / "config/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`.*?) \|", text.split("## The sheet")[1].split("\n## ")[0], re.M)
    assert sorted(re.findall(r"\w+", " ".join(rows))) == sorted(COLUMNS)


@pytest.mark.parametrize("profile", ["default", "slurm", "slurm-gpu"])
def test_profiles_name_rules_that_exist(profile):
    settings = load(f"profiles/{profile}/config.yaml")
    named = {*settings["set-threads"], *settings["set-resources"], *settings.get("groups", ())}
    assert named <= set(re.findall(r"^ *rule (\w+):", RULES, re.M))
    assert settings["keep-going"]


@pytest.mark.parametrize("profile", ["slurm", "slurm-gpu"])
def test_preflight_on_slurm_asks_for_hours_at_most(profile):
    settings = load(f"profiles/{profile}/config.yaml")
    minutes = int(settings["set-resources"]["preflight_slide"]["runtime"].removesuffix(" * attempt"))
    assert minutes * settings["group-components"]["preflights"] <= 120
