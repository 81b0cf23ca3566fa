"""The logger plugin prints a line for every slide of a plain workflow, and its failures with their
reasons.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nuclei_example import PROVENANCE

SNAKEFILE = """
from pathlib import Path
from muse_pipeline.core.files import write_json
from snakemake_logger_plugin_muse import plan_file

SLIDES = ["s0", "s1", "s2"]
last_jobs = dict.fromkeys(SLIDES, ["overlay_nuclei", {}])
write_json(plan_file(), {"results": "results", "last_jobs": last_jobs, "batches": {}})

rule all:
    input: expand("results/{slide}/summary.json", slide=SLIDES), "results/logs/numbers"

rule image:
    output: "results/{slide}/image"
    log: "results/{slide}/logs/image.log"
    shell: "echo 'disk is full' >{log}; [ {wildcards.slide} != s1 ] && echo pixels >{output}"

rule overlay_nuclei:
    input: "results/{slide}/image"
    output: "results/{slide}/summary.json"
    shell: "mkdir -p results/{wildcards.slide}/ledger; "
           "cp {wildcards.slide}.json results/{wildcards.slide}/ledger/; "
           "cp {wildcards.slide}.json results/{wildcards.slide}/ledger/inspect.json; "
           "[ {wildcards.slide} != s2 ] && cp summary.json {output}"

rule numbers:
    output: "results/logs/numbers"
    log: "results/logs/numbers.log"
    shell: "echo 'muse statistics: no groups' >{log}; exit 1"

onerror:
    said = "3 slides: 1 ok, 2 failed; see results/report.html\\n"
    Path("results/logs/report.log").write_text(said)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a workflow whose slide s1 fails without a ledger, and s2 with one."""
    folder = tmp_path_factory.mktemp("logged")
    (folder / "Snakefile").write_text(SNAKEFILE, encoding="utf-8")
    summary = {"n_nuclei": 1200, "immunohistochemistry": None, "trust": {"verdicts": {}}}
    summary["provenance"] = PROVENANCE
    (folder / "summary.json").write_text(json.dumps(summary))
    for slide, status in (("s0", "ok"), ("s2", "failed")):
        entry = {"step": "inspect", "status": status, "reason": "is not a slide", "seconds": 1.25}
        (folder / f"{slide}.json").write_text(json.dumps(entry))
    return folder


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        *f"{sys.executable} -m snakemake --cores 1 --keep-going --logger muse".split(),
        *options,
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def printed(folder) -> list[str]:
    done = run(folder)
    assert done.returncode == 1
    return done.stderr.splitlines()


def test_a_slide_is_a_line(printed):
    lines = [re.sub(r" \([123] of 3\)$", "", line) for line in printed if re.match(r"s\d: ", line)]
    assert sorted(lines) == [
        "s0: 1,200 nuclei, 2.5 s",
        "s1: image failed: disk is full; see results/s1/logs/image.log",
        "s2: inspect failed: is not a slide",
    ]
    assert {line[-8:] for line in printed if re.match(r"s\d: ", line)} == {
        f"({n} of 3)" for n in (1, 2, 3)
    }


def test_a_job_of_no_slide_fails_with_the_last_line_of_its_log(printed):
    assert "numbers failed: muse statistics: no groups; see results/logs/numbers.log" in printed


def test_jobs_are_not_shown_and_the_summary_is_the_last_line(printed):
    assert not [
        line for line in printed if "rule " in line or "Finished" in line or "Select" in line
    ]
    assert "Job stats:" in printed and not any("WorkflowError" in line for line in printed)
    assert printed[-1] == "3 slides: 1 ok, 2 failed; see results/report.html"


def test_with_their_commands_jobs_are_shown_too(folder, printed):
    shown = run(folder, "--dry-run", "--printshellcmds").stdout
    assert "rule image:" in shown and "disk is full" in shown
    shown = run(folder, "--dry-run").stdout
    assert (
        "rule image:" not in shown
        and shown.count("Job stats:") == 1
        and "This was a dry-run" in shown
    )


def test_a_part_of_a_workflow_ends_with_a_sentence(folder, printed):
    done = run(folder, "--force", "results/s0/image")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "The requested part is done.")
