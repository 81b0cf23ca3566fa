"""Numbers that are out of range are rejected before any work begins."""

import importlib
import json
import re

import pytest

from muse_pipeline.cli import arguments
from muse_pipeline.cli.arguments import Parser
from muse_pipeline.cli.main import VERBS, import_verb, main


@pytest.mark.parametrize(
    "verb, option, value",
    [
        *[(verb, "--threads", "0") for verb in ("step tile", "run", "finetune", "demo-slide")],
        ("step detect", "--threads", "two"),
        ("run", "--mpp", "0"),
        ("step tile", "--mpp", "nan"),
        *[(verb, "--mpp", "-0.25") for verb in ("inspect", "sheet", "demo-slide")],
        ("step tile", "--max-corrupt", "1.5"),
        ("step geojson", "--max-features", "0"),
        ("step stitch", "--intensities", "-0.1"),
    ],
)
def test_a_number_out_of_range_is_named(capsys, verb, option, value):
    with pytest.raises(SystemExit) as end:
        main([*verb.split(), option, value])
    assert end.value.code == 2
    assert f"argument {option}: '{value}' is not a" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_is_the_same_in_every_verb(verb):
    parser = Parser()
    import_verb(verb).add_arguments(parser)
    options = parser._option_string_actions
    assert ("-o" in options) == ("--output" in options)
    for name, metavar in (
        ("--threads", "N"),
        ("--sheet", "TSV"),
        ("--json", "FILE"),
        ("--set", "KEY=VALUE"),
    ):
        assert name not in options or options[name].metavar == metavar


def test_json_is_printed_or_written_beside_the_words(muse, tmp_path):
    words, found = muse("doctor")[1], muse("doctor --json")[1]
    status, shown, errors = muse(f"doctor --json {tmp_path / 'found.json'}")
    written = (tmp_path / "found.json").read_text()
    # other processes change the free memory and the free disk space
    assert (status, mask_numbers(shown), errors) == (0, mask_numbers(words), "")
    assert json.loads(mask_numbers(found)) == json.loads(mask_numbers(written))


def mask_numbers(text):
    return re.sub(r"[0-9][0-9.]*", "0", text)


def test_json_writes_over_no_slide(muse, tmp_path, capsys):
    slide = tmp_path / "a.svs"
    slide.write_bytes(b"slide")
    with pytest.raises(SystemExit):
        muse(f"preflight --json {slide} {slide}")
    assert f"'{slide}' does not end in .json" in capsys.readouterr().err
    assert slide.read_bytes() == b"slide"


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["help", "runn"], "muse: there is no 'runn'; did you mean 'run'?"),
        (["evalute"], "muse: there is no 'evalute'; did you mean 'evaluate'?"),
        (["detect"], "muse: there is no 'detect'; did you mean 'step detect'?"),
        (
            ["run", "a.svs", "-o", "out", "--modle", "x"],
            "muse run: there is no '--modle'; did you mean '--model'?",
        ),
        (
            ["run", "a.svs", "--ouput", "out"],
            "muse run: there is no '--ouput'; did you mean '--output'?",
        ),
        (
            ["run", "a.svs", "-o", "out", "--modle=x"],
            "muse run: there is no '--modle'; did you mean '--model'?",
        ),
        (
            ["run", "a.svs", "--gpu"],
            "muse run: there is no '--gpu'; give --provider cuda for a GPU",
        ),
        (
            ["train", "a.yaml", "--cuda"],
            "muse train: there is no '--cuda'; give --accelerator cuda for a GPU",
        ),
        (["sheet", "a", "b"], "muse sheet: there is no 'b'; see `muse sheet --help`"),
        (
            ["run", "a.svs"],
            "muse run: the following arguments are required: -o/--output; see `muse run --help`",
        ),
        (
            ["run", "a.svs", "-o", "out", "--mode", "free"],
            "muse run: argument --mode: invalid choice: 'free'",
        ),
    ],
)
def test_a_slip_of_the_words_is_one_sentence(capsys, words, sentence):
    with pytest.raises(SystemExit) as end:
        main(words)
    printed = capsys.readouterr().err
    assert (end.value.code, printed.count("\n")) == (2, 1)
    assert printed.startswith(sentence)


@pytest.mark.parametrize(
    "asked, of_openmp, processes, given",
    [
        *[(None, None, 1, 6), (None, None, 2, 3), (None, None, 9, 1), (2, None, 4, 2)],
        *[
            (None, "4", 1, 4),
            (None, "4", 2, 4),
            (2, "4", 1, 2),
            (None, "0", 1, 6),
            (None, "4,2", 1, 6),
        ],
    ],
)
def test_threads_are_all_cores_shared_by_the_processes_unless_a_number_is_asked_for(
    monkeypatch, asked, of_openmp, processes, given
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if of_openmp is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", of_openmp)
    monkeypatch.setattr(arguments, "count_cores", lambda: 6)
    assert arguments.share_of_cores(asked, processes) == given


def test_an_option_that_stands_twice_is_not_forgotten():
    parser = Parser()
    importlib.import_module("muse_pipeline.cli.pretrain_config").add_arguments(parser)
    words = (
        "c.yaml --sheet s --results r -o o --exclude P1 P2 --exclude P3 --set a=1 --set b=2"
        " --held-splits val"
    )
    given = parser.parse_args(words.split())
    assert (given.exclude, given.set, given.held_splits) == (
        ["P1", "P2", "P3"],
        ["a=1", "b=2"],
        ["val"],
    )
