"""The duration of a run with `mixing`: measured steps, its limit, and how a continued run keeps
both.
"""

import re
import shutil
import subprocess
import sys
import time

import pytest
import torch
from labelled import CPU, draw_labelled_folder, write_config

from experiments.common.training import finetune
from muse_pipeline.core.errors import CheckpointError, ConfigError
from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.methods.detector.mixing import shorten
from muse_pipeline.methods.detector.run import DetectorStage, load_detector_config
from muse_pipeline.training.checkpoint import load_checkpoint, steps_done
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.pace import PaceStage, TimeLimit
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


def limit_of(stage, data, minutes, search=lambda: None):
    return TimeLimit(stage, data, minutes, [0, 0, 0], search, time.monotonic())


def search_for(seconds=0.05):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def measure_as(monkeypatch, *seconds):
    """Let each measurement find the next duration of a step; returns those that are left."""
    left = list(seconds)
    monkeypatch.setattr(PaceStage, "measure", lambda stage: {1: left.pop(0)})
    return left


def test_a_limit_shortens_every_training_and_is_kept(folder, tmp_path, monkeypatch):
    """The machine is slower in the second training, so the rest is shortened further."""
    config = configured(folder, "minutes=1", "schedule.steps=100")
    stage = DetectorStage(config, tmp_path)
    output, limit = [], limit_of(stage, None, 1.0)
    options = Options(accelerator="cpu", log=output.append)
    left = measure_as(monkeypatch, 0.3, 0.6)
    shares = [limit.begin(number, [100, 100, 100], options)["share"] for number in (1, 2)]
    assert shares == pytest.approx([60 / (300 * 0.3 * 1.1), 60 / (200 * 0.6 * 1.1)], rel=0.02)
    assert "61% of the steps are taken, in 1 min; --minutes 2 takes all" in output
    assert not left
    again = limit_of(stage, None, 1.0)
    assert [again.begin(n, [100, 100, 100], options)["share"] for n in (1, 2)] == shares
    with pytest.raises(
        CheckpointError, match=r"0-pace: was made from different inputs \(minutes changed\)"
    ):
        limit_of(stage, None, 2.0).begin(1, [100, 100, 100], options)


def test_scores_count_and_too_short_a_limit_is_rejected(folder, tmp_path, monkeypatch):
    stage = DetectorStage(configured(folder), tmp_path)
    measure_as(monkeypatch, 0.3)
    limit = TimeLimit(stage, None, 1.0, [1000, 1000], search_for, time.monotonic() - 30)
    message = (
        r"--minutes 1: too short for the labels on this machine; give --minutes (\d+), or (\d+) for"
        " a tenth of the steps$"
    )
    with pytest.raises(ConfigError, match=message) as error:
        limit.begin(1, [1000, 1000], Options(accelerator="cpu"))
    whole, least = map(int, re.search(message, str(error.value)).groups())
    # half a minute has passed, scores take 1.8 and steps 11 minutes, or more on a busy machine
    assert 14 <= whole <= 30 and 9 <= whole - least <= 11
    assert not any(tmp_path.iterdir()) or not (tmp_path / "stages/0-pace").exists()


def test_a_run_in_too_few_minutes_stops_before_it_trains(folder, tmp_path):
    with pytest.raises(ConfigError, match="--minutes 1e-06: too short for the labels"):
        run(configured(folder, "minutes=1e-6"), tmp_path)
    assert not (tmp_path / "stages/1-held-out").exists()
    run(configured(folder), tmp_path)  # more minutes need no --start-over
    assert max(steps_of(tmp_path)) > 1


def test_a_stopped_run_comes_to_the_same_end_as_a_whole_one(folder, tmp_path):
    """It is stopped in the second training; its length and its threads are those with which it
    began.
    """
    config = configured(folder, "schedule.save_every=2")
    run(config, tmp_path / "first")
    for pace in (tmp_path / "first/stages").glob("*-pace/pace.json"):
        write_json(pace, {**read_json(pace), "share": 0.7})
        for name in ("whole", "parts"):
            shutil.copytree(pace.parent, tmp_path / name / "stages" / pace.parent.name)
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
        limit = limit_of(stage, stage.read(print), 10)
        seconds = PaceStage(tmp_path / "pace", limit, 1, [6], options).measure()
        assert sorted(seconds) == ([1, 2] if compares else [2]) and min(seconds.values()) > 0


def test_the_option_sets_the_limit(folder, tmp_path, muse):
    """The limit of a single training, without parts that are held out."""
    command = f"finetune {folder / 'tiny.yaml'} -o {tmp_path} --accelerator cpu".split()
    status, _, error = muse(*command, "--minutes", "3")
    assert status == 0 and "about 1 min for 1 training, with " in error
    assert read_json(tmp_path / "stages/0-pace/made-from.json")["minutes"] == 3
    assert "(setting 'minutes' changed)" in muse.fails(*command)


@pytest.mark.slow
def test_of_several_processes_one_prints(folder, tmp_path):
    changes = [f"checkpoint={folder / 'first/checkpoint.pt'}", "mixing.folds=2", "schedule.steps=2"]
    command = (
        f"{sys.executable} -m muse_pipeline.cli.main finetune {folder / 'tiny.yaml'} -o "
        f"{tmp_path / 'run'}"
    ).split()
    command += [*["--accelerator", "cpu", "--threads", "1", "--devices", "2", "--set"], *changes]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert printed.count("training 1 of 3") == printed.count("training 2 of 3") == 1
