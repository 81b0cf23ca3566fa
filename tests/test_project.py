"""Values that the project states more than once agree."""

import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from muse_pipeline.cohort.sheet import COLUMNS

TOP = Path(__file__).parents[1]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RULES = "".join(
    path.read_text(encoding="utf-8") for path in sorted((TOP / "workflow/rules").glob("*.smk"))
)


def load(path: str):
    return yaml.safe_load((TOP / path).read_text(encoding="utf-8"))


def test_snakemake_has_the_major_version_that_the_workflow_is_tested_with():
    installed = version("snakemake")
    assert installed.startswith("9."), (
        f"Snakemake {installed} is installed, but the workflow is tested with Snakemake 9: run"
        " tests/workflow, and then raise the bound in pyproject.toml"
    )
    assert "snakemake>=9.14,<10" in PROJECT["optional-dependencies"]["workflow"]


def test_the_conda_environment_has_the_extras_of_the_workflow():
    (pip,) = (
        each["pip"] for each in load("envs/muse.yaml")["dependencies"] if isinstance(each, dict)
    )
    assert pip == ["--constraint constraints.txt", "..[cpu,workflow]"]


def test_the_pinned_versions_are_within_the_ranges():
    lines = (TOP / "envs/constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {}
    for pin in map(Requirement, lines):
        pinned.setdefault(canonicalize_name(pin.name), []).append(
            str(pin.specifier).removeprefix("==")
        )
    ranges = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    own = canonicalize_name(PROJECT["name"])
    for needed in map(Requirement, ranges):
        assert canonicalize_name(needed.name) == own or all(
            map(needed.specifier.contains, pinned[canonicalize_name(needed.name)])
        ), needed


def test_the_packages_of_the_images_have_the_pinned_versions():
    pinned = (TOP / "envs/constraints.txt").read_text(encoding="utf-8")
    hashed = (TOP / "envs/hashes.txt").read_text(encoding="utf-8")
    versions = re.findall(r"^([\w.-]+==\S+) \\\n    --hash=sha256:", hashed, re.M)
    names = {canonicalize_name(each.partition("==")[0]) for each in versions}
    extras = PROJECT["optional-dependencies"]
    needed = map(Requirement, [*PROJECT["dependencies"], *extras["cpu"], *extras["workflow"]])
    assert {canonicalize_name(each.name) for each in needed} <= names
    assert all(re.search(rf"^{re.escape(each)}( ;|$)", pinned, re.M) for each in versions)


def test_the_config_shows_the_defaults():
    properties = load("workflow/schemas/config.schema.yaml")["properties"]
    assert load("config/config.yaml") == {
        name: setting["default"] for name, setting in properties.items()
    }
    text = (TOP / "config/README.md").read_text(encoding="utf-8")
    described = re.findall(
        r"^\| `(\w+)` \|", text.split("## The settings")[1].split("\n## ")[0], re.M
    )
    assert described == list(properties)


def test_every_column_of_the_sheet_is_described():
    text = (TOP / "config/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`.*?) \|", text.split("## The sheet")[1].split("\n## ")[0], re.M)
    assert sorted(re.findall(r"\w+", " ".join(rows))) == sorted(COLUMNS)


@pytest.mark.parametrize("profile", ["default", "slurm", "slurm-gpu"])
def test_profiles_name_rules_that_exist(profile):
    settings = load(f"workflow/profiles/{profile}/config.yaml")
    named = {
        rule
        for part in ("set-threads", "set-resources", "groups")
        for rule in settings.get(part, ())
    }
    assert named <= set(re.findall(r"^ *rule (\w+):", RULES, re.M))
    assert settings["keep-going"]


# The files that ``benchmarks/gpu_session.py`` needs on another machine, less its pictures.
MOST_MIB = 64 - 22


def test_the_checkout_is_small_enough_for_the_gpu_benchmark():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a Git checkout")
    files = [TOP / name for name in listed.stdout.decode().rstrip("\0").split("\0")]
    assert sum(file.stat().st_size for file in files if file.is_file()) < MOST_MIB * 2**20


def test_the_gpu_benchmark_states_its_sections_in_order(monkeypatch):
    monkeypatch.syspath_prepend(TOP / "benchmarks")
    import gpu_session

    explained = gpu_session.__doc__.partition("to test the script.")[2]
    assert re.findall(r"^(\w+) {1,10}\S", explained, re.M) == list(gpu_session.SECTIONS)
