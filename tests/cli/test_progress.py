"""The progress that a command prints while it runs."""

import re
import time

from muse_pipeline.cli.arguments import TrainingOutput


def test_without_a_terminal_each_logged_step_is_a_line(capsys):
    output = TrainingOutput()
    output.log("3 patients")
    output.progress(50, 100, {"loss": 1.25, "centre": 0.5})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "3 patients\nstep 50 of 100: loss 1.25, centre 0.5\n"


def test_each_line_but_the_first_and_the_last_of_a_training_has_the_time_left(capsys, monkeypatch):
    clock = iter((100.0, 110.0, 500.0, 530.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    output = TrainingOutput()
    for done, steps in ((1, 101), (6, 101), (101, 101), (1, 11), (4, 11)):
        output.progress(done, steps, {"loss": 1.0})
    assert re.findall(r"of \d+(.*):", capsys.readouterr().err) == [
        *("", " (about 3 min left)", "", "", " (about 1 min left)"),
    ]


def test_on_a_terminal_the_losses_stand_beside_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    output = TrainingOutput()
    output.progress(50, 100, {"loss": 1.25})
    output.progress(100, 100, {"loss": 1.0})
    error = capsys.readouterr().err
    assert "100/100" in error
    assert "loss 1" in error
    assert "step 50 of" not in error
