"""Facts that were measured after the export are added to the card, while the graph stays as it
is.
"""

import json

import cv2
import numpy as np
import onnx
import pytest
from drawn_tissue import draw_labelled_tissue

from muse_pipeline.export.parity import check_parity
from muse_pipeline.inference.model import find_model, read_card
from muse_pipeline.inference.predictor import Predictor, temper
from muse_pipeline.tissue.stain import IDENTITY


@pytest.fixture(scope="module")
def picture():
    return draw_labelled_tissue((192, 192), 0.5, seed=1).pixels


def test_without_anything_to_write_people_can_read_it(run, muse, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    status, out, _ = muse(f"card {run / 'model.onnx'}")
    card, lines = read_card(run / "model.onnx"), out.splitlines()
    assert (status, lines[0]) == (0, card.name)
    assert (
        max(len(line) for line in lines if " " in line.strip()) <= 60
    )  # only a checksum may be longer
    assert f"  Classes             {card.classes[0].name}" in lines
    assert f"                      {card.classes[1].name}" in lines
    assert " ".join(card.training_data.split()) in " ".join(out.split())
    status, out, _ = muse(f"card {run / 'model.onnx'} --json")
    assert (status, json.loads(out)) == (0, json.loads(card.to_json()))


def test_a_temperature_softens_probabilities_and_nothing_else(run, muse, tmp_path, picture):
    model, tempered = run / "model.onnx", tmp_path / "tempered.onnx"
    assert "temperature 2" in muse.ok(f"card {model} --temperature 2 -o {tempered}")
    raw, soft = (Predictor(path)(picture[None], IDENTITY)[0] for path in (model, tempered))
    assert len(raw) and np.array_equal(raw.xy, soft.xy) and np.array_equal(raw.label, soft.label)
    assert np.allclose(
        soft.prob, np.sqrt(raw.prob) / np.sqrt(raw.prob).sum(1, keepdims=True), atol=1e-5
    )
    assert (soft.prob.max(1) <= raw.prob.max(1) + 1e-6).all() and soft.prob.max() < raw.prob.max()


def test_outlines_move_to_edges_and_nothing_else_changes(run, muse, tmp_path, picture):
    model, moving = run / "model.onnx", tmp_path / "moving.onnx"
    muse.ok(f"card {model} --snap-um 1.5 -o {moving}")
    drawn, moved = (Predictor(path)(picture[None], IDENTITY)[0] for path in (model, moving))
    assert np.array_equal(drawn.xy, moved.xy) and np.array_equal(drawn.prob, moved.prob)
    assert (
        not np.array_equal(drawn.rays, moved.rays)
        and np.abs(drawn.rays - moved.rays).max() < 1.5 + 0.2
    )
    assert "moved by up to 1.5" in muse(f"card {moving}")[1]
    muse.ok(f"card {moving} --snap-um 0 -o {tmp_path / 'still.onnx'}")
    assert np.array_equal(
        Predictor(tmp_path / "still.onnx")(picture[None], IDENTITY)[0].rays, drawn.rays
    )
    assert check_parity(run / "run/checkpoint.pt", moving, run / "images").n_nuclei


def test_refining_replaces_moving_to_edges(muse, tmp_path, picture):
    moving, refined = tmp_path / "moving.onnx", tmp_path / "refined.onnx"
    muse.ok(f"card compact-fp32 --snap-um 1.5 -o {moving}")
    assert "moved by up to 1.5" in muse(f"card {moving}")[1]
    out = muse.ok(f"card {moving} --refine -o {refined}")
    assert "outlines refined" in out and "refined by a second network" in muse(f"card {refined}")[1]
    before, after, shipped = (
        Predictor(path)(picture[None], IDENTITY)[0]
        for path in (moving, refined, find_model("compact-fp32"))
    )
    assert (
        len(before)
        and np.array_equal(before.xy, after.xy)
        and not np.array_equal(before.rays, after.rays)
    )
    assert np.array_equal(after.rays, shipped.rays)


def test_limits_are_reported_anew_and_the_weights_stay(run, muse, tmp_path):
    model, printed = tmp_path / "model.onnx", "Tumour: any epithelium. Not for diagnosis."
    muse.ok(f"card {run / 'model.onnx'} -o {model} --limits", printed)
    assert printed in " ".join(muse(f"card {model}")[1].split())
    before, after = (onnx.load(path) for path in (run / "model.onnx", model))
    assert before.graph.SerializeToString(deterministic=True) == after.graph.SerializeToString(
        deterministic=True
    )


def test_how_the_training_pictures_looked_is_measured_of_folders(run, muse, tmp_path, picture):
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures/1.png"), picture)
    model = tmp_path / "model.onnx"
    muse.ok(f"card {run / 'model.onnx'} --pictures {tmp_path / 'pictures'} 0.5 -o {model}")
    out = muse.ok(f"card {model} --json")
    assert json.loads(out)["appearance"]["n_pictures"] == 1
    assert read_card(model).temperature == 1


def test_a_finetuned_model_has_its_training_pictures(run):
    appearance = read_card(run / "model.onnx").appearance
    assert appearance.n_pictures == 3 and "tissue red" in appearance.ranges


def test_tempering_survives_probabilities_of_nought():
    prob = np.array([[1.0, 0.0, 0.0]], np.float32)
    assert np.isfinite(temper(prob, 0.5)).all() and temper(prob, 3.0).sum() == pytest.approx(1)


def test_cards_of_built_in_models_and_of_models_made_from_them_have_organs_and_sizes(
    muse, tmp_path
):
    built_in = read_card(find_model("compact-fp32"))
    breast = {"Lymphocyte": ("breast",), "Epithelial": ("breast", "colon"), "Stroma": ("breast",)}
    assert built_in.organs == breast and built_in.nuclei.keys() == breast.keys()
    assert "Measured in         Epithelial: breast, colon\n" in muse("card compact")[1]
    organs = ["--organ", "kidney", "--organ", "Stroma=bladder"]
    muse.ok("card compact-fp32", *organs, "-o", tmp_path / "a.onnx")
    card = read_card(tmp_path / "a.onnx")
    own = {"Lymphocyte": ("kidney",), "Epithelial": ("kidney",), "Stroma": ("kidney", "bladder")}
    assert (card.organs, card.nuclei) == (own, built_in.nuclei)
