"""Values that the project states more than once agree."""

import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from muse_pipeline import __version__
from muse_pipeline.cli.main import VERBS
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


def test_the_config_shows_the_defaults():
    properties = load("workflow/schemas/config.schema.yaml")["properties"]
    assert load("config/config.yaml") == {name: setting["default"] for name, setting in properties.items()}
    text = (TOP / "config/README.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `(\w+)` \|", text.split("## The settings")[1].split("\n## ")[0], re.M)
    assert described == list(properties)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(load("workflow/schemas/config.schema.yaml"))


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


FORKS = {"image", "detect", "nuclei"}  # jobs fork, so a benchmark would measure the parent


def test_every_rule_is_one_verb_with_docstring_log_and_benchmark():
    for _, name, body in re.findall(r"^( *)rule (\w+):\n(.*?)(?=^\1\S|\Z)", RULES, re.M | re.S):
        assert body.lstrip().startswith('"""'), name
        if name == "check_regions":  # only reads the records of `regions`
            continue
        # Suffixes: the same step for proposals or regions; the part of a verb for one slide or for the cohort.
        verb = name.removesuffix("_proposals").removesuffix("_regions").removesuffix("_slide").removesuffix("_cohort")
        assert verb in VERBS
        assert f"muse {verb} " in body or name == "report"
        needed = {"log:", "conda:", "shell:", *([] if name in FORKS else ["benchmark:"])}
        assert needed <= {line.strip() for line in body.splitlines()}, name


def test_citations():
    citation = load("CITATION.cff")
    assert citation["version"] == __version__ == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert len(citation["references"]) == 5
