"""Trainings that are killed without warning, and trainings in two processes."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
from labelled import draw_labelled_folder, write_config
from tiny_runs import RUNS

from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.run import RunFolder

STEPS, SAVE_EVERY = 16, 4
MUSE = f"{sys.executable} -m muse_pipeline.cli.main finetune".split()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(draw_labelled_folder(tmp_path_factory.mktemp("labelled")), steps=STEPS)


def command(config, folder, *options):
    settings = (f"schedule.save_every={SAVE_EVERY}", "window_px=64")
    return [
        *MUSE,
        *f"{config} --output {folder} --accelerator cpu".split(),
        *options,
        "--set",
        *settings,
    ]


def kill_at(command, metrics, n_lines):
    """Start a command, wait until ``n_lines`` steps are logged, and kill it without warning."""
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and (
        not metrics.is_file() or metrics.read_bytes().count(b"\n") < n_lines
    ):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_an_added_or_removed_input_changes_a_run(tmp_path):
    run, config, inputs = RunFolder(tmp_path), Schedule(4), {"a.png": "1f", "b.png": "2e"}
    run.describe(config, {"inputs": inputs})
    run.resume.touch()
    assert run.begin(config, {"inputs": inputs}, (), start_over=False) == ""
    for changed, name in (({"a.png": "1f"}, "b.png"), ({**inputs, "c.png": "3d"}, "c.png")):
        with pytest.raises(CheckpointError, match=f"{name} changed"):
            run.begin(config, {"inputs": changed}, (), start_over=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method, loaders", [("detector", 0), ("muse", 2)])
def test_killed_twice_at_random_steps_it_comes_to_the_very_same_end(method, loaders, tmp_path):
    """Logs and checkpoints have the same bytes, also if batches are made ahead."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train = f"{sys.executable} -m muse_pipeline.cli.main train {RUNS[method](tmp_path)} --set"
    train = f"{train} schedule.steps={STEPS} schedule.save_every={SAVE_EVERY} -o".split()
    subprocess.run([*train, whole, "--accelerator", "cpu"], check=True)
    parted = [*train, parts, "--accelerator", "cpu", "--loaders", str(loaders)]
    for n_lines in sorted(random.Random(0).sample(range(1, STEPS - 1), 2)):
        kill_at(parted, parts / "metrics.jsonl", n_lines)
        assert not (parts / "checkpoint.pt").exists(), f"killed too late at {n_lines}"
    subprocess.run(parted, check=True)
    assert len((whole / "metrics.jsonl").read_text().splitlines()) == STEPS
    for name in ("metrics.jsonl", "checkpoint.pt"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    assert not list(parts.glob("*.partial"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_one_network(config, tmp_path):
    """Gradients and losses are means over both processes, which therefore do what two accumulated
    batches do.
    """
    subprocess.run(
        [*command(config, tmp_path / "two", "--devices", "2"), "schedule.steps=4"],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    subprocess.run(
        [*command(config, tmp_path / "one"), "schedule.steps=4", "schedule.accumulate=2"],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    two, one = (
        [
            json.loads(line)["loss"]
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("two", "one")
    )
    assert len(two) == 4
    assert two == pytest.approx(one, rel=1e-3)
    (tmp_path / "two/checkpoint.pt").unlink()  # otherwise the run counts as finished
    rejected = subprocess.run(
        [*command(config, tmp_path / "two"), "schedule.steps=4"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rejected.returncode == 2
    assert "used 2 batch(es) per step, not 1" in rejected.stderr
    other_division = [
        *command(config, tmp_path / "two"),
        "schedule.steps=4",
        "schedule.accumulate=2",
    ]
    subprocess.run(other_division, check=True, stderr=subprocess.DEVNULL)
    assert (tmp_path / "two/checkpoint.pt").is_file()
