"""Commands without --cores, and what the terminal shows of a run: a line per slide, what is replaced, what failed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from workflow_runs import draw_stained_slide, planned_jobs, run_snakemake, write_config, write_sheet

pytestmark = pytest.mark.timeout(1200)

WHY_BROKEN = "broken.svs: is not a slide or image of a known format; copy it again from its source"


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Path:
    """The folder of a cohort of two slides and a broken one, where nothing has run."""
    folder = tmp_path_factory.mktemp("terminal")
    for seed, name in enumerate(("a", "b")):
        draw_stained_slide(folder / f"{name}.tif", size_px=500, n_nuclei=60, seed=seed)
    (folder / "broken.svs").write_bytes(b"no slide")
    names = ("a.tif", "b.tif", "broken.svs")
    write_sheet(folder / "slides.tsv", [{"slide_id": Path(name).stem, "path": name} for name in names])
    write_config(folder)
    return folder


@pytest.fixture(scope="module")
def without_run(untouched) -> dict[str, subprocess.CompletedProcess[str]]:
    """What is printed where nothing has run, by the command's options."""
    commands = ("--dry-run", "--summary", "--unlock", "--summary --workflow-profile none", "--jobs 2")
    return {options: run_snakemake(untouched, *options.split(), cores=None) for options in commands}


@pytest.fixture(scope="module")
def bare(untouched, without_run) -> subprocess.CompletedProcess[str]:
    """What a bare `snakemake` prints."""
    return run_snakemake(untouched, cores=None)


def slide_lines(shown: str) -> list[str]:
    """The lines of a run about single slides."""
    return [line for line in shown.splitlines() if re.match("(a|b|broken): ", line)]


def nuclei_of(folder: Path) -> dict[str, int]:
    return {name: (folder / f"results/{name}/nuclei.parquet").stat().st_mtime_ns for name in ("a", "b")}


@pytest.mark.parametrize("options", ["--dry-run", "--summary", "--unlock", "--summary --workflow-profile none"])
def test_what_runs_nothing_needs_no_cores(without_run, options):
    run = without_run[options]
    assert run.returncode == 0, run.stdout
    assert "requires a total number of cores" not in run.stdout


def test_a_dry_run_counts_jobs_and_lists_them_when_asked(untouched, without_run):
    shown = without_run["--dry-run"].stdout
    assert planned_jobs(shown)["detect"] == 3 and shown.count("Job stats:") == 1
    assert "rule detect:" not in shown and "replaces" not in shown
    assert run_snakemake(untouched, "--dry-run", "--printshellcmds").stdout.count("rule detect:") == 3


def test_jobs_in_position_of_cores_are_rejected(without_run):
    run = without_run["--jobs 2"]
    assert run.returncode == 1
    assert "--jobs 2: does not limit the cores used on this machine; give `--cores 2`" in run.stdout
    assert not slide_lines(run.stdout)


def test_a_bare_run_uses_every_core_that_it_may(bare):
    assert f"Provided cores: {len(os.sched_getaffinity(0))}" in bare.stdout


def test_a_slide_is_a_line(bare):
    found = {line.partition(": ")[0]: line for line in slide_lines(bare.stdout)}
    assert len(slide_lines(bare.stdout)) == len(found) == 3
    for name in ("a", "b"):
        assert re.fullmatch(name + r": [1-9]\d* nuclei, \d+\.\d s \([123] of 3\)", found[name])
    assert re.fullmatch(rf"broken: inspect failed: .*{WHY_BROKEN}.* \([123] of 3\)", found["broken"])
    assert "Finished jobid" not in bare.stdout and "RuleException" not in bare.stdout
    assert len(bare.stdout.splitlines()) < 45


def test_the_end_names_what_failed_and_why(bare):
    first, heading, failure, last = bare.stdout.splitlines()[-4:]
    assert bare.returncode == 1
    assert (first, heading) == ("3 slides: 2 ok, 1 failed; see results/report.html", "1 slide failed:")
    assert failure.startswith("  broken: inspect: ") and WHY_BROKEN in failure
    assert last == "Something failed; every other slide is done. Which, and why: results/report.html"


def test_the_rest_is_in_the_logs(bare, untouched):
    log = "".join(path.read_text(encoding="utf-8") for path in (untouched / ".snakemake/log").glob("*.log"))
    assert log.count("rule detect:") >= 2 and "Finished jobid" in log and "Error in rule image:" in log
    assert "provider cpu" in (untouched / "results/a/logs/detect-1-of-1.log").read_text(encoding="utf-8")
    assert WHY_BROKEN in (untouched / "results/broken/logs/image.log").read_text(encoding="utf-8")


def test_where_snakemake_remembers_nothing_other_settings_run_again_and_the_same_do_not(bare, untouched, tmp_path):
    shutil.copytree(untouched / "results", tmp_path / "results")  # with its times
    write_config(tmp_path, slides=str(untouched / "slides.tsv"), keep_stores=True)
    assert planned_jobs(run_snakemake(tmp_path, "--dry-run").stdout) == {
        **{"image": 1, "detect": 1, "nuclei": 1, "report": 1, "all": 1},  # of the broken slide
    }
    run = run_snakemake(tmp_path, "--dry-run", "--config", "max_features=9", "csv=True")
    assert planned_jobs(run.stdout)["nuclei"] == 3 and planned_jobs(run.stdout)["detect"] == 1
    assert "\n  csv false -> true: 2 slides (a, b)\n  max_features null -> 9: 2 slides (a, b)\n" in run.stdout
    rows = [{"slide_id": name, "path": untouched / f"{name}.tif", "mpp": mpp} for name, mpp in (("a", 0.25), ("b", ""))]
    write_sheet(tmp_path / "slides.tsv", rows)
    run = run_snakemake(tmp_path, "--dry-run", "--config", "slides=slides.tsv")
    assert planned_jobs(run.stdout) == {"image": 1, "detect": 1, "nuclei": 1, "report": 1, "all": 1}
    assert "\n  mpp of the file -> 0.25: 1 slide (a)\n" in run.stdout
    (tmp_path / "results/b/tissue.npz").touch()
    run = run_snakemake(tmp_path, "--dry-run", "--config", "slides=slides.tsv")
    assert "\n  tissue.npz is newer than the results made from it: 1 slide (b)\n" in run.stdout


def test_results_of_muse_run_are_results_of_the_workflow(untouched, muse, tmp_path):
    options = "--frame", "openslide", "--csv", "--measurements", "h_mean", "--max-features", "40"
    assert muse("run", untouched / "a.tif", "-o", tmp_path / "results", *options)[0] == 0
    assert (tmp_path / "results/a/nuclei.part-001.geojson.gz").is_file()
    write_sheet(tmp_path / "slides.tsv", [{"slide_id": "a", "path": untouched / "a.tif"}])
    write_config(tmp_path, frame="openslide", csv=True, measurements=["h_mean"], max_features=40)
    assert planned_jobs(run_snakemake(tmp_path, "--dry-run").stdout) == {"report": 1, "all": 1}
    run = run_snakemake(tmp_path, "--dry-run", "--config", "mode=label-free")
    assert planned_jobs(run.stdout)["nuclei"] == 1
    assert re.search(r"  model compact \(\w{8}\) -> label_free \(\w{8}\): 1 slide \(a\)", run.stdout)


@pytest.mark.slow
def test_what_is_replaced_is_named_before_it_is(bare, untouched):
    before = nuclei_of(untouched)
    again = run_snakemake(untouched, cores=1).stdout  # it tries the broken slide alone
    assert "replaces" not in again and "Provided cores: 1 " in again
    options = "--config", "model=label_free"
    dry_run = run_snakemake(untouched, "--dry-run", *options)
    heading, model, _ = dry_run.stdout.splitlines()[-3:]
    assert heading == "This run replaces the finished results of 2 slides:"
    assert re.fullmatch(r"  model compact \(\w{8}\) -> label_free \(\w{8}\): 2 slides \(a, b\)", model)
    assert nuclei_of(untouched) == before
    run = run_snakemake(untouched, *options)
    lines = run.stdout.splitlines()
    assert lines.index(heading) + 1 == lines.index(model) < lines.index(slide_lines(run.stdout)[0])
    assert all(now > before[name] for name, now in nuclei_of(untouched).items())
    back = run_snakemake(untouched, "--dry-run").stdout  # what would be lost by leaving the option out
    assert re.search(r"  model label_free \(\w{8}\) -> compact \(\w{8}\): 2 slides \(a, b\)", back)


@pytest.mark.slow
def test_the_end_names_the_slides_that_pretraining_waits_for(untouched, bare):
    smoke = Path(__file__).parents[2] / "config/train/muse_pretrain_smoke.yaml"
    run = run_snakemake(untouched, "--config", f"pretrain={smoke}")
    assert run.returncode == 1
    waits = "; pretraining waits for broken: fix these slides or list them in `pretrain.exclude`. Which, and why: "
    assert waits in run.stdout.splitlines()[-1]
