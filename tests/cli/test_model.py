"""`muse step model` finds problems with a model before the workflow starts."""

import pytest
import torch
from labelled import draw_labelled_folder, write_config

from muse_pipeline.core.files import read_json
from muse_pipeline.inference import model as providers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_labelled_folder(tmp_path_factory.mktemp("labelled"))


def test_a_run_states_what_it_reads(folder, muse, tmp_path):
    path = write_config(folder)
    path.write_text(path.read_text() + "checkpoint: c.pt\n")
    torch.save({}, folder / "c.pt")
    status, _, error = muse(f"step model {path}")
    assert (status, "c.pt: has no dictionary `teacher`" in error) == (2, True)
    torch.save({"teacher": {"module.backbone.weight": torch.zeros(1)}}, folder / "c.pt")
    status, out, _ = muse(f"step model {path} --resolved {tmp_path / 'm.json'}")
    assert (status, out) == (0, "tiny: 0.5 um/px; Dark, Pale\n")
    names = [file.rpartition("/")[2] for file in read_json(tmp_path / "m.json")["inputs"]]
    assert names == [
        "c.pt",
        *(f"P{k}.png" for k in range(3)),
        *(f"P{k}_points.txt" for k in range(3)),
    ]


def test_a_name_that_is_not_a_model_is_rejected_with_those_that_are(muse):
    known = (
        "accurate, accurate-fp32, accurate-int8, compact, compact-fp32, compact-int8, label_free"
    )
    sentence = (
        f"model 'compac': neither a file nor a built-in model ({known}); did you mean 'compact'?"
    )
    assert muse("step model compac") == (2, "", f"muse step model: {sentence}\n")


def test_a_provider_that_is_not_here_is_rejected_where_it_is_asked_for(muse, tmp_path, monkeypatch):
    monkeypatch.setattr(providers, "_lacks", lambda name: "" if name == "cpu" else "missing")
    muse.ok("step model compact --provider cuda")  # as on a login node without a GPU
    muse.ok("step model compact --provider cpu --here")
    assert "provider 'cuda' is missing" in muse.fails("step model compact --provider cuda --here")
    monkeypatch.setattr(providers, "find_fault", lambda provider: providers.DOES_NOT_START)
    assert (
        "is installed, but does not start here"
        in muse("step model compact --provider cuda --here")[2]
    )
