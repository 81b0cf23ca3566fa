"""A network's features at the nuclei of a slide's table, or at nuclei that other programs give as
points or masks.
"""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnx
import pandas
import pytest
import torch
from exports import single_window_size

from muse_pipeline.cli.main import main
from muse_pipeline.core.coords import level0_to_work
from muse_pipeline.export.onnx import load_embedder
from muse_pipeline.inference.card import METADATA_KEY
from muse_pipeline.inference.embed import Embedder
from muse_pipeline.inference.model import find_model
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import interpolate_at
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.qupath.write import nucleus_ids
from muse_pipeline.training.checkpoint import Checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def folder(tiled_slide, table_file, tmp_path_factory):
    """Results of a slide with embeddings, next to the checkpoint of the backbone that computed
    them.
    """
    folder = tmp_path_factory.mktemp("results") / "drawn"
    shutil.copytree(tiled_slide.folder, folder)
    shutil.copy(table_file, folder / "nuclei.parquet")
    torch.manual_seed(1)
    meta = {"kind": "backbone", "backbone": "muse_compact_16", "mpp": 0.5}
    save_checkpoint(
        folder.parent / "small.pt",
        Checkpoint(BACKBONES["muse_compact_16"]().state_dict(), {}, meta),
    )
    with single_window_size("onnx"):
        assert embed(folder, "--checkpoint", folder.parent / "small.pt") == 0
    return folder


def embed(folder, *words):
    return main(
        [*f"embed {folder} --model {folder.parent / 'small.onnx'}".split(), *map(str, words)]
    )


@pytest.fixture(scope="module")
def found(folder):
    return pandas.read_parquet(folder / "embeddings-small.parquet")


def test_vectors_are_those_of_torch_where_the_nuclei_lie(
    folder, found, table, table_file, tiled_slide
):
    assert (found[["x", "y"]] == table[["x", "y"]]).all(axis=None)
    ids = nucleus_ids(
        read_provenance(table_file).run_name, table["x"].to_numpy(), table["y"].to_numpy()
    )
    assert list(found["id"]) == list(ids.astype(str))
    graph, card = load_embedder(folder.parent / "small.pt", mpp=1.0)
    assert (card.mpp, card.embedding_dim, card.readout) == (0.5, graph.backbone.channels, "x/4-0.5")
    require_vectors_of(graph, card, found, tiled_slide, np.eye(3, 4))


def require_vectors_of(graph, card, found, tiled_slide, colour):
    """Assert that the nuclei in the core of one window have the vectors that torch computes."""
    xy = level0_to_work(found[["x", "y"]].to_numpy(), tiled_slide.info.mpp, 0.5)
    core_px = card.input_px - 2 * card.halo_px
    core = np.median(xy, axis=0) // core_px * core_px
    inside = ((xy >= core) & (xy < core + core_px)).all(1)
    origin = (core - card.halo_px).astype(int)
    pixels = tiled_slide.store.read(tuple(origin), (card.input_px, card.input_px))
    with torch.no_grad():
        dense = graph(
            torch.from_numpy(pixels).permute(2, 0, 1)[None], torch.from_numpy(colour).float()
        )
    positions = torch.from_numpy(xy[inside] - origin).float()
    expected = interpolate_at(dense, positions[None], graph.backbone.lattice)[0].numpy()
    vectors = np.stack(found["embedding"])
    assert vectors.dtype == np.float16 and inside.sum() > 50
    np.testing.assert_allclose(vectors[inside], expected, atol=2e-3 * np.abs(expected).max())


@pytest.fixture(scope="module")
def of_detector(folder):
    """Embeddings of the nuclei by the built-in detector."""
    assert main(f"embed {folder} --model compact-fp32".split()) == 0
    return pandas.read_parquet(folder / "embeddings-compact.parquet")


def test_a_detector_gives_the_features_before_its_head(folder, found, of_detector, tiled_slide):
    assert list(of_detector["id"]) == list(found["id"])
    graph, card = load_embedder(Path("compact"), mpp=1.0)
    assert dataclasses.replace(card, source={}) == dataclasses.replace(
        Embedder(find_model("compact-fp32")).card, source={}
    )
    require_vectors_of(graph, card, of_detector, tiled_slide, tiled_slide.colour)
    assert Embedder(find_model("compact-int8")).card.embedding_dim == card.embedding_dim


def test_a_detector_with_another_card_keeps_the_map_of_its_head(tmp_path):
    assert main(f"card compact-fp32 --temperature 2 -o {tmp_path / 'soft.onnx'}".split()) == 0
    assert Embedder(tmp_path / "soft.onnx").card.embedding_dim == 24


def test_points_of_another_program_get_the_same_vectors_and_features(folder, found, table, capsys):
    points = folder.parent / "points.csv"
    found[["x", "y"]].to_csv(points, index=False)
    assert embed(folder, "--nuclei", points, "--features") == 0
    assert capsys.readouterr().err == ""
    foreign = pandas.read_parquet(folder / "embeddings-small-points.csv.parquet")
    order = np.lexsort(found[["x", "y"]].to_numpy().T)
    np.testing.assert_array_equal(
        np.stack(foreign["embedding"]), np.stack(found["embedding"])[order]
    )
    assert not set(foreign["id"]) & set(found["id"])
    assert foreign["area_um2"].median() == pytest.approx(50, abs=1)  # circles of radius 4 um
    counts = "neighbours_within_50um"
    assert (foreign[counts].to_numpy() == table[counts].to_numpy()[order]).all()


@pytest.mark.parametrize("wrong", ["um", "y, x"])
def test_positions_that_are_not_those_of_the_slide_are_doubted(
    wrong, folder, found, tiled_slide, capsys
):
    xy = found[["x", "y"]].to_numpy()
    xy = xy * tiled_slide.info.mpp if wrong == "um" else xy[:, ::-1]
    xy = xy[(xy < tiled_slide.info.size_px).all(1)]
    pandas.DataFrame(xy, columns=["x", "y"]).to_csv(folder.parent / "wrong.csv", index=False)
    assert embed(folder, "--nuclei", folder.parent / "wrong.csv") == 0
    message = capsys.readouterr().err
    assert f"of {len(xy):,} nuclei lie on nuclei of the run, hardly more than by chance" in message


def test_features_of_the_slides_own_nuclei_are_those_of_its_table(folder, table):
    shutil.copytree(folder, again := folder.parent / "again")
    assert embed(again, "--features") == 0
    measured = pandas.read_parquet(again / "embeddings-small.parquet")
    names = [
        name for name in table if name.split("_")[0] in {"shape", "h", "e", "texture", "neighbours"}
    ]
    pandas.testing.assert_frame_equal(measured[names], table[names])


def test_the_image_that_a_network_lacks_is_written_by_the_command_in_the_message(folder, capsys):
    """For example, a backbone that was pretrained on views from 0.5 to 1 um/px reads images at 0.75
    um/px.
    """
    model = onnx.load(folder.parent / "small.onnx")
    card = json.loads(model.metadata_props[0].value) | {"mpp": 0.75, "name": "wide"}
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(card)})
    onnx.save(model, folder.parent / "wide.onnx")
    words = f"embed {folder} --model {folder.parent / 'wide.onnx'}".split()
    assert main(words) == 2
    message = capsys.readouterr().err
    assert (
        "has no image at 0.75 um/px, which model 'wide' reads" in message
        and "`extra_mpps: [0.75]`" in message
    )
    _, *command = shlex.split(message.split("`")[1])
    assert main(command) == main(words) == 0
    assert (folder / "embeddings-wide.parquet").is_file()


def test_a_label_image_gives_its_instances(folder, tiled_slide):
    width, height = tiled_slide.info.size_px
    label = np.zeros((-(-height // 4), -(-width // 4)), np.int32)
    label[100:112, 200:216], label[150:160, 90:100] = 5, 9
    np.save(folder.parent / "mask.npy", label)
    assert embed(folder, "--nuclei", folder.parent / "mask.npy", "--features") == 0
    found = pandas.read_parquet(folder / "embeddings-small-mask.npy.parquet")
    np.testing.assert_allclose(found[["x", "y"]], [[832, 424], [380, 620]], atol=3)
    np.testing.assert_allclose(found["area_um2"], [12 * 16, 100], rtol=0.15)


def test_what_is_wrong_is_one_sentence(folder, tiled_slide, capsys):
    beyond = folder.parent / "beyond.csv"
    beyond.write_text("x,y\n10,10\n99999999,10\n")
    assert embed(folder, "--nuclei", beyond) == 2
    assert "1 of 2 nuclei lie outside the slide" in capsys.readouterr().err
    np.save(folder.parent / "flat.npy", np.zeros((10, 1000), np.int32))
    assert embed(folder, "--nuclei", folder.parent / "flat.npy") == 2
    assert "1000 x 10 px do not have the slide's proportions" in capsys.readouterr().err
    model = f"--model {folder.parent / 'small.onnx'}"
    assert main(f"step detect {folder} {model} --colour c -o o".split()) == 2
    assert (
        "computes features of nuclei, for `muse embed`; give a model that finds nuclei"
        in capsys.readouterr().err
    )
    assert main(f"embed {folder.parent} {model}".split()) == 2
    assert "slide.json" in capsys.readouterr().err
