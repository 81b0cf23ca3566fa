"""What a training says while it runs."""

from muse_pipeline.cli.progress import show_steps


def test_without_a_terminal_each_logged_step_is_a_line(capsys):
    with show_steps(100) as (say, progress):
        say("3 patients")
        progress(50, {"loss": 1.25, "centre": 0.5})
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "3 patients\nstep 50 of 100: loss 1.25, centre 0.5\n"


def test_on_a_terminal_the_losses_stand_beside_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with show_steps(100) as (_, progress):
        progress(50, {"loss": 1.25})
    error = capsys.readouterr().err
    assert "50/100" in error
    assert "loss 1.25" in error
    assert "step 50 of" not in error
