"""The duration of a run with `mixing`: measured steps, its limit, and how a continued run keeps
both.
"""

import shutil
import subprocess
import sys

import pytest
import torch
from labelled import CPU, draw_labelled_folder, write_config

from experiments.common.training import finetune
from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.methods.detector.mixing import shorten
from muse_pipeline.methods.detector.run import DetectorStage, load_detector_config
from muse_pipeline.training.checkpoint import load_checkpoint, steps_done
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.pace import PaceStage
from muse_pipeline.training.run import Options


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Labelled pictures, and ``first``, a detector that was trained on them."""
    folder = draw_labelled_folder(tmp_path_factory.mktemp("pace"))
    finetune(load_detector_config(write_config(folder, steps=2)), folder / "first", CPU)
    return folder


def configured(folder, *changes):
    start = f"checkpoint={folder / 'first/checkpoint.pt'}"
    return load_detector_config(
        folder / "tiny.yaml",
        changes=[start, "mixing.folds=2", "minutes=10", "schedule.steps=6", *changes],
    )


def run(config, folder, **options):
    output = []
    finetune(config, folder, Options(accelerator="cpu", log=output.append, **options))
    return output


def steps_of(folder):
    return [
        steps_done(folder / name / "resume.pt")
        for name in ("stages/1-held-out", "stages/2-held-out", ".")
    ]


def test_a_shortened_schedule_is_the_beginning_of_the_whole():
    schedule = Schedule(steps=200, last_weight_decay=0.1)
    short = shorten(shorten(schedule, 0.5), 0.5)
    assert short.steps == 50 and short.length == 200 and shorten(schedule, 1.0) == schedule
    for step in (0, 5, 49):
        assert short.rate(step) == schedule.rate(step) and short.decay(step) == schedule.decay(step)


def test_a_limit_shortens_every_training_and_is_kept(folder, tmp_path):
    output = run(configured(folder, "minutes=1e-6"), tmp_path)
    pace = (tmp_path / "stages/0-pace/pace.json").read_bytes()
    assert any(
        "% of the steps are taken, in 1e-06 min; --minutes 1 takes all" in line for line in output
    )
    assert steps_of(tmp_path) == [1, 1, 1]
    (tmp_path / "checkpoint.pt").unlink()
    output = run(configured(folder, "minutes=1e-6"), tmp_path)
    assert (tmp_path / "stages/0-pace/pace.json").read_bytes() == pace and not any(
        "about 1 min" in x for x in output
    )
    with pytest.raises(
        CheckpointError, match=r"0-pace: was made from different inputs \(minutes changed\)"
    ):
        run(configured(folder), tmp_path)
    run(configured(folder), tmp_path, start_over=True)
    assert max(steps_of(tmp_path)) > 1


def test_a_stopped_run_comes_to_the_same_end_as_a_whole_one(folder, tmp_path):
    """It is stopped in the second training; its length and its threads are those with which it
    began.
    """
    config = configured(folder, "schedule.save_every=2")
    run(config, tmp_path / "first")
    pace = tmp_path / "first/stages/0-pace/pace.json"
    write_json(pace, {**read_json(pace), "share": 0.7})
    for name in ("whole", "parts"):
        shutil.copytree(pace.parent, tmp_path / name / "stages/0-pace")
    run(config, tmp_path / "whole")

    def stop(done, steps, losses):
        assert torch.get_num_threads() == 1
        if (tmp_path / "parts/stages/2-held-out/resume.pt").is_file():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "parts", threads=2, progress=stop)
    run(config, tmp_path / "parts")
    one, other = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts"))
    assert (
        one.weights_sha256() == other.weights_sha256()
        and one.meta["mixing"] == other.meta["mixing"]
    )


@pytest.mark.slow
def test_one_thread_is_compared_with_two(folder, tmp_path):
    config = configured(folder)
    for compares in (True, False):
        stage = DetectorStage(config, tmp_path)
        options = Options(accelerator="cpu", threads=2, compares_threads=compares)
        seconds = PaceStage(tmp_path / "pace", stage, stage.read(print), [6], 10, options).measure()
        assert sorted(seconds) == ([1, 2] if compares else [2]) and min(seconds.values()) > 0


def test_the_option_sets_the_limit(folder, tmp_path, muse):
    """The limit of a single training, without parts that are held out."""
    command = ["finetune", folder / "tiny.yaml", "-o", tmp_path, "--accelerator", "cpu"]
    status, _, error = muse(*command, "--minutes", "3")
    assert status == 0 and "about 1 min for 1 training, with " in error
    assert read_json(tmp_path / "stages/0-pace/made-from.json")["minutes"] == 3
    status, _, error = muse(*command)
    assert status == 2 and "(setting 'minutes' changed)" in error


@pytest.mark.slow
def test_of_several_processes_one_prints(folder, tmp_path):
    changes = [f"checkpoint={folder / 'first/checkpoint.pt'}", "mixing.folds=2", "schedule.steps=2"]
    command = [
        sys.executable,
        "-m",
        "muse_pipeline.cli.main",
        "finetune",
        folder / "tiny.yaml",
        "-o",
        tmp_path / "run",
    ]
    command += ["--accelerator", "cpu", "--threads", "1", "--devices", "2", "--set", *changes]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert printed.count("training 1 of 3") == printed.count("training 2 of 3") == 1
