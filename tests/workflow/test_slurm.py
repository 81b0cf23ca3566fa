"""The workflow on a real Slurm of two nodes: the same bytes as a local run, lost jobs, a lost node,
and GPUs.
"""

import csv
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import onnxruntime
import psutil
import pytest
import torch
from labelled import draw_labelled_folder
from labelled import write_config as write_training_config
from slurm import NoSlurmError, Slurm
from workflow_runs import (
    draw_stained_slide,
    enlarge,
    snakemake_command,
    write_config,
    write_sheet,
)

from muse_pipeline.cohort.ledgers import read_progress
from muse_pipeline.core.files import read_json

PROFILES = Path(__file__).parents[2] / "workflow/profiles"
# Jobs are short here, so their status is queried often. Everything else is as in the profile that
# users get.
IMPATIENT = [
    "--slurm-init-seconds-before-status-checks",
    "2",
    "--seconds-between-status-checks",
    "2",
]
RESULTS = ("nuclei.parquet", "nuclei.geojson.gz", "tissue.npz", "colour.json", "summary.json")
SLIDES = ("first", "second")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def slurm():
    pytest.importorskip(
        "snakemake_executor_plugin_slurm", reason="the extra `slurm` is not installed"
    )
    folder = Path(
        tempfile.mkdtemp(prefix="slurm-")
    )  # a short path, because the length of a socket's path is limited
    try:
        node = Slurm(folder).start()
    except NoSlurmError as error:
        pytest.skip(f"no Slurm: {error}")
    yield node
    node.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    """The folder of a cohort of two slides that has not run yet."""
    return draw_cohort(tmp_path_factory.mktemp("cohort"))


def draw_cohort(folder: Path) -> Path:
    draw_stained_slide(folder / "first.tif", size_px=1000, n_nuclei=250)
    draw_stained_slide(folder / "second.tif", size_px=600, n_nuclei=90, seed=1)
    for name in SLIDES:
        enlarge(folder / f"{name}.tif")
    write_sheet(
        folder / "slides.tsv",
        [{"slide_id": name, "path": folder / f"{name}.tif"} for name in SLIDES],
    )
    write_config(folder)
    return folder


@pytest.fixture(scope="module")
def killed(slurm, cohort, request) -> list[str]:
    """Ids of the Slurm jobs of a run in which one slide's job was cancelled and steps of the other
    were killed.
    """
    n_kills, draw = slurm_kills(request.config), random.Random(request.config.getoption("seed"))
    run = start_on_slurm(slurm, cohort, "slurm", "--retries", str(n_kills))
    slurm.call("scancel", wait_for(lambda: job_of("second", cohort), run, cohort))
    for attempt in range(1, n_kills + 1):
        verb = draw.choice(("image", "detect", "nuclei"))
        wait_for(lambda verb=verb: running_step("first", cohort, verb), run, cohort).kill()
        wait_for(lambda n=attempt: len(submitted(cohort)) > len(SLIDES) + n, run, cohort)
    assert run.wait() == 0, (cohort / "output.txt").read_text("utf-8")
    return submitted(cohort)


def slurm_kills(config: pytest.Config) -> int:
    """The number of kills: an eighth of ``--kills``, because a job takes longer in Slurm."""
    return max(1, config.getoption("kills") // 8)


def start_on_slurm(slurm: Slurm, folder: Path, profile: str, *arguments: str) -> subprocess.Popen:
    command = snakemake_command(
        "--workflow-profile", str(PROFILES / profile), *IMPATIENT, *arguments, cores=16
    )
    with (folder / "output.txt").open("w", encoding="utf-8") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=slurm.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for(condition, process: subprocess.Popen, folder: Path):
    """Wait until ``condition`` returns a true value while the workflow runs, and return that
    value.
    """
    while not (found := condition()):
        assert process.poll() is None, (folder / "output.txt").read_text("utf-8")
        time.sleep(0.02)
    return found


def running_step(slide: str, folder: Path, verb: str | None = None) -> psutil.Process | None:
    """The `muse` process that works on a slide in a Slurm job, with this ``verb`` if given."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            at = next((i for i, word in enumerate(words) if word.endswith("/muse")), None)
            if (
                at is None
                or process.cwd() != str(folder)
                or verb not in (None, words[at + 1 + (words[at + 1] == "step")])
            ):
                continue
            if any(f"/{slide}/" in word or word == slide for word in words):
                return process
    return None


def job_of(slide: str, folder: Path) -> str | None:
    """Id of the Slurm job that works on a slide."""
    with suppress(psutil.Error):
        step = running_step(slide, folder)
        return step and step.environ()["SLURM_JOB_ID"]
    return None


def submitted(folder: Path) -> list[str]:
    """Ids of the Slurm jobs of the last run, from Snakemake's log, whose name has the time of the
    run.
    """
    log = max((folder / ".snakemake/log").glob("*.log"), default=None)
    lines = log.read_text("utf-8").splitlines() if log else []
    return [
        line.split("SLURM jobid ")[1].split()[0] for line in lines if "with SLURM jobid" in line
    ]


def assert_bytes_of_one_machine(cohort: Path, folder: Path, muse) -> None:
    muse.ok("run", *(cohort / f"{name}.tif" for name in SLIDES), "-o", folder)
    for slide in SLIDES:
        for name in RESULTS:
            here, there = folder / slide / name, cohort / "results" / slide / name
            assert here.read_bytes() == there.read_bytes(), (slide, name)
    assert (cohort / "results/report.html").is_file()


def test_a_lost_node_costs_no_slide_of_two_batches_and_repeats_no_finished_one(slurm, tmp_path):
    """The table of used beside requested resources is printed (``-s``)."""
    names = [f"s{number:02}" for number in range(40)]
    for seed, name in enumerate(names):
        draw_stained_slide(tmp_path / f"{name}.tif", size_px=300, n_nuclei=20, seed=seed)
    rows = [{"slide_id": name, "path": tmp_path / f"{name}.tif"} for name in names]
    write_sheet(tmp_path / "slides.tsv", rows)
    write_config(tmp_path)
    results = tmp_path / "results"
    run = start_on_slurm(slurm, tmp_path, "slurm")
    finished = wait_for(lambda: sorted(results.glob("*/summary.json"))[9:], run, tmp_path)
    ended = {path: path.stat().st_mtime_ns for path in finished}
    lost = slurm.node_of(slurm.call("squeue", "-h", "-t", "R", "-o", "%i").split()[0])
    slurm.lose_node(lost)
    assert run.wait() == 0, (tmp_path / "output.txt").read_text("utf-8")
    slurm.start_node(lost)
    assert {path: path.stat().st_mtime_ns for path in finished} == ended
    with (results / "cohort.tsv").open(newline="") as table:
        outcomes = [row["status"] for row in csv.DictReader(table, delimiter="\t")]
    assert outcomes == ["ok"] * len(names)
    batches = {
        path.stem: [row["slide_id"] for row in read_json(path)]
        for path in sorted((results / "logs/batches").glob("*.json"))
    }
    assert sorted(name for batch in batches.values() for name in batch) == names
    jobs = submitted(tmp_path)
    assert len(jobs) == len(batches) + 1  # and the report
    print("\n| batch | slides | cores | memory asked | memory used | processor s |")
    print("|---|---|---|---|---|---|")
    for job, (batch, slides) in zip(jobs, batches.items(), strict=False):
        steps = [step for name in slides for step in read_progress(results / name)]
        cores, mb = slurm.granted(job)
        used_mib = max(step.peak_memory_mib or 0 for step in steps)
        seconds = sum(step.processor_seconds or 0 for step in steps)
        print(f"| {batch} | {len(slides)} | {cores} | {mb} MB | {used_mib} MiB | {seconds:.0f} |")
        assert used_mib < mb


def test_killed_and_cancelled_jobs_begin_anew_and_the_bytes_are_those_of_one_machine(
    killed, cohort, tmp_path, muse
):
    assert_bytes_of_one_machine(cohort, tmp_path, muse)


def test_a_job_asks_for_its_largest_step_and_for_more_when_it_failed(slurm, killed, request):
    n_kills = slurm_kills(request.config)
    first, second = (
        [(4, 3000 * attempt) for attempt in range(1, n_kills + 2)],
        [(4, 3000), (4, 6000)],
    )
    report = (4, 2000)
    assert sorted(map(slurm.granted, killed)) == sorted([*first, *second, report])
    assert not slurm.gpus().keys() & set(killed)


def test_detection_is_given_the_gpu_that_it_asks_for_and_states_what_it_lacks(
    slurm, killed, cohort, tmp_path
):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this runtime has CUDA")
    shutil.copytree(cohort, tmp_path, dirs_exist_ok=True, symlinks=True)
    run = start_on_slurm(
        slurm, tmp_path, "slurm-gpu", "--retries", "0", "--config", "provider=cuda"
    )
    assert run.wait() == 1
    jobs = submitted(tmp_path)
    assert len(jobs) == len(SLIDES)  # detection only; the images are kept
    assert {job: slurm.gpus().get(job) for job in jobs} == dict.fromkeys(jobs, "0")
    for slide in SLIDES:
        log = (tmp_path / "results" / slide / "logs/detect-1-of-1.log").read_text("utf-8")
        assert log.startswith("muse step detect: provider 'cuda' is not in this installation")
        assert len(log.splitlines()) == 1
        assert not list((tmp_path / "results" / slide).glob("nuclei.*"))


TRAIN = (
    f"{sys.executable} -m muse_pipeline.cli.main finetune tiny.yaml --accelerator cpu --devices 2"
).split()


def test_tasks_of_srun_train_one_network_and_a_job_of_one_task_starts_its_own(slurm, tmp_path):
    """The weights are those of two processes without Slurm.

    Different numbers of tasks and devices are an error.
    """
    write_training_config(draw_labelled_folder(tmp_path), steps=2)
    tasks = ["srun", "--ntasks=2", "--ntasks-per-node=2", *TRAIN]
    for command in (
        [*TRAIN, "-o", "plain"],
        [*tasks, "-o", "tasks"],
        ["srun", "--ntasks=1", *TRAIN, "-o", "single"],
    ):
        environment = slurm.environment if command[0] == "srun" else None
        subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            check=True,
            stderr=subprocess.DEVNULL,
            timeout=300,
        )
    states = [
        torch.load(tmp_path / name / "resume.pt", weights_only=True)
        for name in ("plain", "tasks", "single")
    ]
    assert [state["batches"] for state in states] == [2, 2, 2]
    for state in states[1:]:
        assert all(
            torch.equal(value, states[0]["method"][name]) for name, value in state["method"].items()
        )
    command = [*tasks, *["-o", "wrong", "--devices", "4"]]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env=slurm.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 2 and "is 4 process(es), but srun started 2" in run.stderr
