"""A trained network finds the same nuclei after its export to ONNX."""

import dataclasses

import cv2
import numpy as np
import onnx
import pytest
import torch
from drawn_tissue import draw_labelled_tissue

from muse_pipeline.core.errors import CheckpointError, ModelError
from muse_pipeline.export.onnx import export_onnx, load_detector
from muse_pipeline.export.parity import check_parity
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor, nuclei_of_windows
from muse_pipeline.tissue.stain import IDENTITY
from muse_pipeline.training.checkpoint import load_checkpoint, save_checkpoint


def test_the_graph_agrees_with_torch_down_to_the_nuclei(run):
    parity = check_parity(run / "run/checkpoint.pt", run / "model.onnx", run / "images")
    assert parity.n_nuclei > 20
    assert (parity.n_windows, parity.n_unmatched, parity.n_other_class) == (3, 0, 0)
    assert parity.xy_px < 0.001


@pytest.mark.parametrize(
    "rows, by",
    [
        (slice(0, 1), 0.05),  # centre
        (slice(1, 2), 0.5),  # offset in x, which moves all positions
        (slice(3, 4), 20.0),  # the first class, large because the network is so certain
        (slice(-8, None), 0.05),  # rays
    ],
)
def test_parity_notices_another_network(run, tmp_path, rows, by):
    checkpoint = load_checkpoint(run / "run/checkpoint.pt")
    checkpoint.head["out.bias"][rows] += by
    save_checkpoint(tmp_path / "other.pt", checkpoint)
    with pytest.raises(ModelError, match="differs from its checkpoint"):
        check_parity(tmp_path / "other.pt", run / "model.onnx", run / "images")


def test_parity_notices_a_graph_that_lost_its_colour(run, tmp_path):
    """In the graph, the identity replaces every use of the input ``colour``."""
    model = onnx.load(run / "model.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(IDENTITY, "constant_colour"))
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == "colour":
                node.input[index] = "constant_colour"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="differs from its checkpoint"):
        check_parity(run / "run/checkpoint.pt", tmp_path / "m.onnx", run / "images")


@pytest.mark.parametrize("height, width", [(96, 160), (256, 112), (64, 64)])
def test_one_graph_takes_windows_of_any_sides(run, height, width):
    predictor = Predictor(run / "model.onnx")
    graph, _ = load_detector(run / "run/checkpoint.pt")
    picture = cv2.imread(str(next((run / "images").glob("*.png"))))[..., ::-1]
    window = np.full((1, height, width, 3), 255, np.uint8)
    part = picture[:height, :width]
    window[0, : part.shape[0], : part.shape[1]] = part
    with torch.no_grad():
        printed = graph(torch.from_numpy(window).permute(0, 3, 1, 2), torch.from_numpy(IDENTITY))
    expected, found = (
        nuclei_of_windows([values.numpy() for values in printed])[0],
        predictor(window, IDENTITY)[0],
    )
    assert predictor.any_size and len(found) == len(expected) > 2
    assert np.abs(found.xy - expected.xy).max() < 0.001
    assert found.xy.max(0)[0] > width / 2


def test_the_card_travels_in_the_file_and_names_no_folder(run):
    predictor = Predictor(run / "model.onnx")
    card = predictor.card
    assert (card.name, card.mpp, card.n_rays, card.stride_px) == ("tiny", 0.5, 8, 16)
    assert [one.name for one in card.classes] == ["Dark", "Pale"]
    assert len(card.source["checkpoint_sha256"]) == 64
    assert str(run).encode() not in (run / "model.onnx").read_bytes()


@pytest.mark.slow
def test_exporting_again_gives_the_same_bytes_and_states_that_nothing_was_checked(
    run, tmp_path, muse
):
    """Without the pictures of the run there is nothing to check the graph with."""
    (tmp_path / "checkpoint.pt").write_bytes((run / "run/checkpoint.pt").read_bytes())
    status, printed, _ = muse(
        f"export {tmp_path / 'checkpoint.pt'} --output {tmp_path / 'again.onnx'}"
    )
    assert (status, "not checked against torch" in printed) == (0, True)
    assert (tmp_path / "again.onnx").read_bytes() == (run / "model.onnx").read_bytes()


@pytest.mark.slow
def test_a_built_in_name_is_its_checkpoint(tmp_path, muse):
    muse.ok(f"export compact --output {tmp_path / 'compact.onnx'}")
    predictors = [
        Predictor(path) for path in (tmp_path / "compact.onnx", find_model("compact-fp32"))
    ]
    window = draw_labelled_tissue((256, 256), 0.5, seed=1).pixels[None]
    exported, shipped = (predictor(window, IDENTITY)[0] for predictor in predictors)
    assert len(exported) > 5 and np.array_equal(exported.prob, shipped.prob)


def test_a_graph_that_cannot_be_checked_is_not_written(run, as_traced_before, tmp_path, muse):
    """The image for the check shows only glass, without nuclei that could be compared."""
    cv2.imwrite(str(tmp_path / "glass.png"), np.full((100, 100, 3), 255, np.uint8))
    command = (
        f"export {run / 'run/checkpoint.pt'} --output {tmp_path / 'm.onnx'} --check-images "
        f"{tmp_path}"
    ).split()
    status, _, complaint = muse(*command)
    assert (status, "finds no nucleus" in complaint) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["glass.png"]


def test_windows_of_one_picture_join_without_duplicates(run):
    """The picture is larger than a window: it has two rows of three copies of a smaller picture."""
    from scipy.spatial import cKDTree

    predictor = Predictor(run / "model.onnx")
    tile = cv2.imread(str(run / "images/P0.png"))[..., ::-1]
    wide = np.ascontiguousarray(np.tile(tile, (2, 3, 1)))
    nuclei = detect_image(predictor, wide, IDENTITY)
    assert len(nuclei) > 60
    assert not cKDTree(nuclei.xy).query_pairs(3.0)
    assert (nuclei.xy < (480, 320)).all()


def test_a_full_window_is_named(run, tmp_path):
    from muse_pipeline.inference.detect import ModelFinder, detect_shard

    class Picture:
        """A store in memory, with many nuclei in every window."""

        path, mpp, size_px, slide_mpp = run, 0.5, (256, 128), (0.5, 0.5)
        slide_id, fingerprint, attributes = "p", "f", {}
        tissue = np.ones((8, 16), bool), 16.0

        def read_continued(self, xy, size):
            tile = cv2.imread(str(run / "images/P0.png"))[..., ::-1]
            return np.tile(tile, (2, 2, 1))[: size[1], : size[0]]

        def keep_chunks(self, n):
            pass

        def require_unchanged(self):
            pass

    predictor = Predictor(run / "model.onnx")
    facts = detect_shard(Picture(), ModelFinder(predictor, IDENTITY), tmp_path / "s.parquet")
    assert facts["full_windows"] == [0, 1]  # 36 nuclei per window, but 30 slots


def test_a_checkpoint_that_does_not_fit_is_rejected(run, tmp_path):
    checkpoint = load_checkpoint(run / "run/checkpoint.pt")
    checkpoint.meta["config"]["n_rays"] = 16
    save_checkpoint(tmp_path / "c.pt", checkpoint)
    with pytest.raises(CheckpointError, match="does not fit"):
        export_onnx(tmp_path / "c.pt", tmp_path / "m.onnx")
    save_checkpoint(
        tmp_path / "c.pt", dataclasses.replace(checkpoint, head={}, meta={"kind": "backbone"})
    )
    with pytest.raises(CheckpointError, match="holds no detector"):
        export_onnx(tmp_path / "c.pt", tmp_path / "m.onnx")


def test_the_run_has_its_curves_and_config(run):
    assert (run / "run/curves.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "run/config.yaml").read_text().startswith("name: tiny")
