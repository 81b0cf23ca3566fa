"""Every verb prints its help quickly and answers bad input with one sentence and exit status 2."""

import errno
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from muse_pipeline.cli.main import GROUPS, VERBS, main
from muse_pipeline.cli.step import COMMANDS, STEPS

HEAVY = {
    "numpy",
    "pandas",
    "pyarrow",
    "shapely",
    "zarr",
    "cv2",
    "scipy",
    "torch",
    "onnxruntime",
    "openslide",
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert f"usage: muse {verb}" in capsys.readouterr().out


def test_nothing_that_is_read_is_written_over(muse, tmp_path):
    slide = tmp_path / "slide.png"
    slide.write_bytes(b"pixels")
    here = (
        f"step tissue {slide} --info {tmp_path / 'i.json'} --mask {tmp_path / 'm.npz'} "
        f"--colour {tmp_path / 'c.json'}"
    ).split()
    for picture, outline in ((slide, tmp_path / "o.geojson"), (tmp_path / "x", tmp_path / "x")):
        status, _, printed = muse(*here, "--picture", picture, "--outline", outline)
        assert (status, slide.read_bytes()) == (2, b"pixels") and "is already an input" in printed


def listed_by(words, **options):
    """The verbs in the order in which help prints them; fails if printing it loads a heavy
    library.
    """
    script = f"""
import sys
from muse_pipeline.cli.main import main
try:
    main({words})
except SystemExit as end:
    assert end.code == 0
    sys.exit(f"loaded {{loaded}}" if (loaded := {HEAVY} & set(sys.modules)) else 0)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, **options
    )
    assert (run.returncode, run.stderr) == (0, "")
    return re.findall(r"^    ([a-z-]+) +[A-Z]", run.stdout, re.MULTILINE)


def test_help_lists_the_verbs_that_users_need_and_all_of_them_when_asked_to():
    assert listed_by(["help", "all"]) == [*VERBS]
    n_listed = len(" ".join(GROUPS.values()).split())
    assert listed_by([]) == listed_by(["--help"]) == listed_by(["help"]) == [*VERBS[:n_listed]]


def test_help_has_its_text_where_python_strips_docstrings():
    assert listed_by(["help", "all"], env=os.environ | {"PYTHONOPTIMIZE": "2"}) == [*VERBS]


def test_help_is_quick():
    """The limit is 15 times the start of Python, because the machine may be busy: 0.5 s if Python
    starts in 0.03 s.
    """
    help_seconds, bare_seconds = (
        min(_seconds([sys.executable, *arguments]) for _ in range(3))
        for arguments in (["-m", "muse_pipeline.cli.main", "--help"], ["-c", ""])
    )
    assert help_seconds < 15 * bare_seconds


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


BAD_INPUT = {
    "preflight": "{noise} --model no-such-name",
    "qupath-script": "--config {missing} --output {out}",
    "step fetch": "{missing} --output {out}",
    "step inspect": "{noise} --output {out}",
    "step tissue": "{noise} --info {missing} --mask {out} --picture {out} --outline {out} "
    "--colour {out}",
    "register": "{noise} {missing} -o {out}",
    "step tile": "{noise} --info {missing} --tissue {missing} --output {out}",
    "step import-checkpoint": "{noise} -o {out}",
    "import-model": "{noise} --kind hover --mpp 0.5 --scaling unit -o {out}",
    "step pretrain-config": "{missing} --sheet {missing} --results {missing} -o {out}",
    "pretrain": "{missing} -o {out}",
    "finetune": "{missing} -o {out}",
    "train": "{missing} -o {out}",
    "psm": "{missing} -o {out}",
    "export": "{missing} -o {out}",
    "step model": "{noise} --resolved {out}",
    "step proposer": "no-such-name --resolved {out}",
    "card": "{noise} --temperature 1.5 -o {out}",
    "regions": "{missing} --model {noise} --output {out}",
    "step propose": "{missing} --colour {missing} --info {missing} --output {out}",
    "step detect": "{missing} --colour {missing} --output {out}",
    "step stitch": "{noise} --info {missing} --tissue {missing} --output {out}",
    "embed": "{missing} --model {noise}",
    "step geojson": "{noise} --info {missing} --output {out}",
    "step anndata": "{noise} -o {out}",
    "bins": "{missing} --visium-hd {missing} -o {out}",
    "step spatialdata": "{noise} --store {missing} -o {out}",
    "statistics": "{missing} --sheet {missing} --group label -o {out}",
    "step overlay": "{missing}",
    "report": "{missing} --slides {missing} --output {out} --table {out}",
    "view": "{missing}",
    "run": "{noise} -o {out} --model no-such-name",
    "evaluate": "{noise} --truth {missing}",
    "sheet": "{missing} --output {out}",
    "workflow": "{out} --slides {missing}",
    "demo-slide": "{out} --area-mm2 -1",
    "synthesize": "pictures --generator {missing} --output {out}",
}
JOINED = {
    "step image",
    "step nuclei",
    "step partner",
    "step proposals",
}  # each runs several steps in one process
JUDGES = {"doctor"}  # problems are their output, not an error


def test_bad_input_is_given_to_every_verb():
    steps = {f"step {name}" for name in (*STEPS, *COMMANDS)}
    assert set(BAD_INPUT) == (set(VERBS) | steps) - {"step"} - JUDGES - JOINED


@pytest.mark.parametrize("verb", BAD_INPUT)
def test_a_name_that_no_file_can_have_costs_one_sentence(verb, muse, tmp_path):
    name = tmp_path / ("a" * 300)
    words = [
        argument.format(noise=name, missing=name, out=tmp_path / "out")
        for argument in BAD_INPUT[verb].split()
    ]
    errors = muse.fails(*verb.split(), *words)
    assert errors.startswith(f"muse {verb}: ")


@pytest.mark.parametrize("verb", BAD_INPUT)
def test_bad_input_costs_one_sentence(verb, muse, tmp_path):
    positions = {
        "noise": tmp_path / "noise.svs",
        "missing": tmp_path / "missing",
        "out": tmp_path / "out",
    }
    positions["noise"].write_bytes(bytes(range(256)) * 4)
    errors = muse.fails(
        *verb.split(), *(argument.format(**positions) for argument in BAD_INPUT[verb].split())
    )
    assert errors.startswith(f"muse {verb}: ")
    assert errors.count("\n") == 1
    assert not positions["out"].exists()


def test_a_file_that_may_not_be_read_is_one_sentence(monkeypatch, capsys):
    def deny(arguments):
        raise PermissionError(errno.EACCES, "Permission denied", "labels/a.png")

    monkeypatch.setattr("muse_pipeline.cli.main.run_verb", deny)
    assert main(["finetune"]) == 2
    assert capsys.readouterr().err.startswith(
        "muse finetune: labels/a.png: access is denied; change its permissions"
    )


def test_a_reader_may_close_the_pipe():
    """For example, `head` closes the pipe early."""
    command = f"{sys.executable} -u -m muse_pipeline.cli.main doctor".split()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE
