"""The workflow as a user runs it, on synthetic slides of which one is broken, and what the terminal
shows.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from workflow_runs import (
    SNAKEFILE,
    draw_stained_slide,
    enlarge,
    planned_jobs,
    run_snakemake,
    write_config,
    write_sheet,
)

from muse_pipeline.core.files import read_json

pytestmark = pytest.mark.timeout(
    1200
)  # tests run the workflow once or twice, on a machine that may be busy

IDS = ("S 12 [a]", "Ä-(2)")  # names that are difficult for shells and patterns
BROKEN = {"slide_id": "broken", "path": "broken.svs", "shards": "", "patient": ""}
WHY_BROKEN = "broken.svs: is not a slide or image of a known format; copy it again from its source"
ANY_ID, BOTH = "|".join(map(re.escape, IDS)), ", ".join(IDS)
NOTHING_RUNS = (
    "--dry-run",
    "--dry-run --printshellcmds",
    "--unlock",
    "--summary --workflow-profile none",
)


def sheet_rows(shards=("", "2"), patient=""):
    return [
        {"slide_id": name, "path": f"{name}.tif", "shards": n, "patient": patient}
        for name, n in zip(IDS, shards, strict=True)
    ]


def exported(folder: Path, slide: str, results="results") -> bytes:
    return (folder / results / slide / "nuclei.geojson.gz").read_bytes()


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    """A folder with two copies of a slide, and a file that is not a slide."""
    folder = tmp_path_factory.mktemp("slides")
    draw_stained_slide(folder / f"{IDS[0]}.tif", size_px=1100, n_nuclei=300)  # it has four windows
    enlarge(folder / f"{IDS[0]}.tif")
    shutil.copy(folder / f"{IDS[0]}.tif", folder / f"{IDS[1]}.tif")
    (folder / "broken.svs").write_bytes(bytes(range(256)) * 4)
    enlarge(folder / "broken.svs")
    return folder


def make_cohort(folder: Path, slides: Path, rows, **settings) -> Path:
    for slide in slides.iterdir():
        (folder / slide.name).symlink_to(slide)
    write_sheet(folder / "slides.tsv", rows)
    write_config(folder, **settings)
    return folder


@pytest.fixture(scope="module")
def untouched(tmp_path_factory, slides) -> Path:
    """The folder of the cohort, which includes a broken slide, before any run."""
    return make_cohort(tmp_path_factory.mktemp("cohort"), slides, [*sheet_rows(), BROKEN])


@pytest.fixture(scope="module")
def without_run(untouched) -> dict[str, subprocess.CompletedProcess[str]]:
    """Options of Snakemake -> the result of a command with these options, none of which starts a
    job.
    """
    return {
        options: run_snakemake(untouched, *options.split(), cores=None) for options in NOTHING_RUNS
    }


@pytest.fixture(scope="module")
def first_run(untouched, without_run):
    """(folder, result of `snakemake` without options) of the cohort, which includes the broken
    slide.
    """
    return untouched, run_snakemake(untouched, cores=None)


@pytest.fixture(scope="module")
def finished(first_run) -> Path:
    """The cohort's folder after the broken slide was removed from the sheet."""
    folder, _ = first_run
    write_sheet(folder / "slides.tsv", sheet_rows())
    run = run_snakemake(folder)
    assert run.returncode == 0, run.stdout
    assert planned_jobs(run.stdout) == {"report": 1, "all": 1}
    return folder


def slide_lines(shown: str) -> list[str]:
    """The lines in a run's output that are about single slides."""
    return [line for line in shown.splitlines() if re.match(f"({ANY_ID}|broken): ", line)]


def nuclei_of(folder: Path) -> dict[str, int]:
    return {name: (folder / f"results/{name}/nuclei.parquet").stat().st_mtime_ns for name in IDS}


@pytest.mark.parametrize("options", NOTHING_RUNS)
def test_what_runs_nothing_needs_no_cores(without_run, options):
    run = without_run[options]
    assert run.returncode == 0, run.stdout
    assert "requires a total number of cores" not in run.stdout


def test_a_dry_run_counts_jobs_and_lists_them_when_asked(without_run):
    shown = without_run["--dry-run"].stdout
    assert planned_jobs(shown)["detect"] == 4 and shown.count("Job stats:") == 1
    assert "rule detect:" not in shown and "replaces" not in shown
    assert without_run["--dry-run --printshellcmds"].stdout.count("rule detect:") == 4


def test_a_bare_run_uses_every_core_that_it_may(first_run):
    _, bare = first_run
    assert f"Provided cores: {len(os.sched_getaffinity(0))}" in bare.stdout


def test_a_slide_is_a_line(first_run):
    _, bare = first_run
    found = {line.partition(": ")[0]: line for line in slide_lines(bare.stdout)}
    assert len(slide_lines(bare.stdout)) == len(found) == 3
    for name in IDS:
        assert re.fullmatch(
            re.escape(name) + r": [1-9]\d* nuclei, \d+ more in artefacts, \d+\.\d s \([123] of 3\)",
            found[name],
        )  # drawn slides lack fine detail
    assert re.fullmatch(
        rf"broken: inspect failed: .*{WHY_BROKEN}.* \([123] of 3\)", found["broken"]
    )
    assert "Finished jobid" not in bare.stdout and "RuleException" not in bare.stdout
    assert len(bare.stdout.splitlines()) < 45


def test_the_end_names_what_failed_and_why(first_run):
    _, bare = first_run
    lines = bare.stdout.splitlines()
    totals, heading, failure, *doubts, last = lines[lines.index("1 slide failed:") - 1 :]
    assert (bare.returncode, heading) == (
        1,
        "1 slide failed:",
    ) and "no nuclei; 2 slides left out: doubtful scale" in totals
    assert failure.startswith("  broken: inspect: ") and WHY_BROKEN in failure
    assert "doubtful scale (2 slides; correct the pixel size):" in doubts
    # Drawn slides lack fine detail, and their nuclei are large.
    assert "artefacts (2 slides; check the outlined artefacts):" in doubts
    assert last == "3 slides: 2 ok, 1 failed; see results/report.html"


def test_the_rest_is_in_the_logs(first_run):
    folder, _ = first_run
    log = "".join(
        path.read_text(encoding="utf-8") for path in (folder / ".snakemake/log").glob("*.log")
    )
    assert (
        log.count("rule detect:") >= 2 and "Finished jobid" in log and "Error in rule image:" in log
    )
    assert "provider cpu" in (folder / f"results/{IDS[0]}/logs/detect-1-of-1.log").read_text(
        encoding="utf-8"
    )
    assert WHY_BROKEN in (folder / "results/broken/logs/image.log").read_text(encoding="utf-8")


def test_where_snakemake_remembers_nothing_other_settings_run_again_and_the_same_do_not(
    first_run, tmp_path
):
    folder, _ = first_run
    shutil.copytree(folder / "results", tmp_path / "results")  # keeps the times of files
    write_config(tmp_path, slides=str(folder / "slides.tsv"), keep_stores=True)
    assert planned_jobs(run_snakemake(tmp_path, "--dry-run").stdout) == {
        **{"image": 1, "detect": 1, "nuclei": 1, "report": 1, "all": 1},  # the broken slide
    }
    run = run_snakemake(tmp_path, "--dry-run", "--config", "max_features=9", "csv=True")
    assert planned_jobs(run.stdout)["nuclei"] == 3 and planned_jobs(run.stdout)["detect"] == 1
    assert (
        f"\n  csv false -> true: 2 slides ({BOTH})\n  max_features null -> 9: 2 slides ({BOTH})\n"
        in run.stdout
    )
    rows = [
        {**row, "path": folder / row["path"], "mpp": mpp}
        for row, mpp in zip(sheet_rows(), (0.25, ""), strict=True)
    ]
    write_sheet(tmp_path / "slides.tsv", rows)
    (tmp_path / f"results/{IDS[1]}/tissue.npz").touch()
    run = run_snakemake(tmp_path, "--dry-run", "--config", "slides=slides.tsv")
    assert f"\n  mpp of the file -> 0.25: 1 slide ({IDS[0]})\n" in run.stdout
    assert (
        f"\n  tissue.npz is newer than the results made from it: 1 slide ({IDS[1]})\n" in run.stdout
    )
    assert planned_jobs(run.stdout) == {"image": 1, "detect": 1, "nuclei": 2, "report": 1, "all": 1}


def test_effective_settings_are_written_down(finished):
    settings = (finished / "results/run_config.yaml").read_text(encoding="utf-8")
    assert "model: compact" in settings
    rows = read_json(finished / "results/sheet.json")
    assert [(row["slide_id"], row["shards"]) for row in rows] == [(IDS[0], 1), (IDS[1], 2)]


def test_an_edited_row_reruns_its_slide_alone(finished):
    write_sheet(finished / "slides.tsv", sheet_rows(shards=("3", "2")))
    assert planned_jobs(run_snakemake(finished, "--dry-run").stdout) == {
        **{"detect": 3, "nuclei": 1, "report": 1, "all": 1},
    }
    write_sheet(finished / "slides.tsv", sheet_rows(patient="P1"))
    assert planned_jobs(run_snakemake(finished, "--dry-run").stdout) == {"report": 1, "all": 1}
    write_sheet(finished / "slides.tsv", sheet_rows())


def test_settings_are_checked_before_anything_runs(finished):
    """`muse sheet` checks them here; tests/cli has the mistakes that `muse step model` and `muse
    step proposer` reject.
    """
    run = run_snakemake(finished, "--config", "slides=nowhere.tsv")
    assert run.returncode == 1
    assert "nowhere.tsv: cannot be read" in run.stdout
    assert "Traceback" not in run.stdout


@pytest.mark.slow
def test_a_slide_that_breaks_later_keeps_no_older_result(slides, tmp_path):
    make_cohort(tmp_path, slides, sheet_rows())
    assert run_snakemake(tmp_path).returncode == 0
    victim = tmp_path / f"{IDS[0]}.tif"
    victim.unlink()
    victim.write_bytes(b"no longer a slide")
    (tmp_path / "results/cohort.h5ad").touch()
    for _ in range(2):  # the second run must not use the older result either
        assert run_snakemake(tmp_path).returncode == 1
        assert not list((tmp_path / "results" / IDS[0]).glob("nuclei*"))
        assert not (tmp_path / "results/cohort.h5ad").exists()  # it contained the older result
        assert exported(tmp_path, IDS[1])
    victim.unlink()
    victim.symlink_to(slides / victim.name)
    assert run_snakemake(tmp_path).returncode == 0
    assert exported(tmp_path, IDS[0])


def test_a_mistake_in_the_config_is_one_sentence(tmp_path, slides):
    """Other mistakes in the config are tested in tests/cohort."""
    run = run_snakemake(make_cohort(tmp_path, slides, sheet_rows(), modle="compact"), "--dry-run")
    assert run.returncode != 0 and not (tmp_path / "results").exists()
    (line,) = (line for line in run.stdout.splitlines() if line.startswith(("config: ", "muse ")))
    assert line == "config: unknown setting 'modle'; did you mean 'model'?"
    assert not {"schema", "Traceback"} & set(run.stdout.split())


@pytest.mark.slow
def test_what_is_replaced_is_named_before_it_is(first_run):
    folder, _ = first_run
    write_sheet(folder / "slides.tsv", [*sheet_rows(), BROKEN])
    before = nuclei_of(folder)
    again = run_snakemake(folder, cores=1).stdout  # only the broken slide is tried again
    assert "replaces" not in again and "Provided cores: 1 " in again
    options = "--config", "model=label_free"
    dry_run = run_snakemake(folder, "--dry-run", *options)
    heading, model = "This run replaces the finished results of 2 slides:", ""
    lines = dry_run.stdout.splitlines()
    model = lines[lines.index(heading) + 1]
    assert re.fullmatch(
        rf"  model compact \(\w{{8}}\) -> label_free \(\w{{8}}\): 2 slides \({re.escape(BOTH)}\)",
        model,
    )
    assert nuclei_of(folder) == before
    run = run_snakemake(folder, *options)
    lines = run.stdout.splitlines()
    assert lines.index(heading) + 1 == lines.index(model) < lines.index(slide_lines(run.stdout)[0])
    assert all(now > before[name] for name, now in nuclei_of(folder).items())
    back = run_snakemake(
        folder, "--dry-run"
    ).stdout  # a run without the option would replace these results
    assert re.search(
        rf"  model label_free \(\w{{8}}\) -> compact \(\w{{8}}\): 2 slides \({re.escape(BOTH)}\)",
        back,
    )


@pytest.mark.slow
def test_the_end_names_the_slides_that_pretraining_waits_for(first_run):
    folder, _ = first_run
    write_sheet(folder / "slides.tsv", [*sheet_rows(), BROKEN])
    recipe = SNAKEFILE.parents[1] / "config/train/muse_pretrain.yaml"
    run = run_snakemake(folder, "--config", f"pretrain={recipe}")
    assert run.returncode == 1
    waits = "pretraining waits for broken: fix these slides or list them in `pretrain.exclude`"
    assert run.stdout.splitlines()[-1] == waits
