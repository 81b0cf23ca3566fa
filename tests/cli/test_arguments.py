"""Numbers that are out of range are rejected before any work begins."""

import json
import re

import pytest

from muse_pipeline.cli import arguments, pretrain_config
from muse_pipeline.cli.arguments import Parser
from muse_pipeline.cli.main import VERBS, import_verb
from muse_pipeline.cli.signature import add_verb


@pytest.mark.parametrize("verb", VERBS)
def test_an_option_is_the_same_in_every_verb(verb):
    parser = Parser()
    add_verb(parser, import_verb(verb))
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
    add_verb(parser, pretrain_config)
    words = (
        "c.yaml --sheet s --results r -o o --exclude P1 P2 --exclude P3 --set a=1 --set b=2"
        " --held-splits val"
    )
    given = parser.parse_args(words.split())
    assert (given.exclude, given.changes, given.held_splits) == (
        ["P1", "P2", "P3"],
        ["a=1", "b=2"],
        ["val"],
    )
