"""Vectors that a third-party encoder computes for tiles, and the nuclei of a cohort in memory."""

import shutil
from importlib.util import find_spec

import numpy as np
import onnx
import pandas
import pytest
from onnx import TensorProto, helper, numpy_helper

from muse_pipeline import read_anndata
from muse_pipeline.cli.main import main
from muse_pipeline.core.coords import level0_to_work
from muse_pipeline.inference.embed import embed_nuclei
from muse_pipeline.inference.encoder import TileEncoder

TILE_PX, DIM = 31, 5
WEIGHTS = (
    np.random.default_rng(0).normal(size=(DIM, 3, TILE_PX, TILE_PX)).astype(np.float32) / TILE_PX
)
WORDS = ["--kind", "encoder", "--mpp", "0.5", "--scaling", "imagenet"]
MEAN, DEVIATION = np.array([(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)])


def draw_encoder(path, batch="batch", pooled=True, weights=WEIGHTS, pixels=TensorProto.FLOAT):
    """A linear encoder: a weighted sum over all pixels of a tile."""
    nodes = [
        helper.make_node("Conv", ["cast", "weights"], ["maps"]),
        helper.make_node("Flatten", ["maps"], ["vector"]),
    ]
    nodes.insert(0, helper.make_node("Cast", ["tile"], ["cast"], to=TensorProto.FLOAT))
    tile = helper.make_tensor_value_info("tile", pixels, [batch, 3, TILE_PX, TILE_PX])
    shapes = {"maps": [batch, len(weights), 1, 1], "vector": [batch, len(weights)]}
    names = ["vector", "maps"] if pooled else ["maps"]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in names
    ]
    graph = helper.make_graph(
        nodes, "drawn", [tile], outputs, [numpy_helper.from_array(weights, "weights")]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path
    )
    return str(path)


@pytest.fixture(scope="module")
def folder(tiled_slide, table_file, tmp_path_factory):
    """Results of a slide with the vectors of an encoder, next to the encoder."""
    folder = tmp_path_factory.mktemp("results") / "drawn"
    shutil.copytree(tiled_slide.folder, folder)
    shutil.copy(table_file, folder / "nuclei.parquet")
    network = draw_encoder(folder.parent / "network.onnx")
    model = str(folder.parent / "linear.onnx")
    assert main(["import-model", network, *WORDS, "-o", model]) == 0
    assert main(f"embed {folder} --model {model}".split()) == 0
    return folder


@pytest.fixture(scope="module")
def vectors(folder):
    return pandas.read_parquet(folder / "embeddings-linear.parquet")


def test_a_vector_describes_the_tile_around_its_nucleus(folder, vectors, tiled_slide):
    xy = level0_to_work(vectors[["x", "y"]].to_numpy(), tiled_slide.info.mpp, 0.5)
    for row in [0, len(xy) // 2, xy[:, 0].argmax(), xy[:, 1].argmin()]:
        corner = np.round(xy[row] - TILE_PX / 2).astype(int)
        tile = tiled_slide.store.read_continued(tuple(corner), (TILE_PX, TILE_PX))
        expected = np.einsum("dcyx,yxc", WEIGHTS, (tile / 255 - MEAN) / DEVIATION)
        np.testing.assert_allclose(vectors["embedding"][row], expected, rtol=0.002, atol=0.01)


def test_windows_and_threads_leave_no_trace(folder, vectors, tiled_slide):
    encoder = TileEncoder(folder.parent / "linear.onnx")
    xy = level0_to_work(vectors[["x", "y"]].to_numpy(), tiled_slide.info.mpp, 0.5)
    shifted = embed_nuclei(tiled_slide.store, encoder, np.eye(3, 4), xy, threads=3, offset_px=200)
    np.testing.assert_allclose(np.stack(vectors["embedding"]), shifted, rtol=0.002, atol=0.002)
    before = (folder / "embeddings-linear.parquet").read_bytes()
    assert main(f"embed {folder} --model {folder.parent / 'linear.onnx'} --threads 3".split()) == 0
    assert (folder / "embeddings-linear.parquet").read_bytes() == before


def test_a_graph_may_fix_the_number_of_tiles(folder, vectors):
    network = draw_encoder(folder.parent / "network.onnx", batch=3)
    model = folder.parent / "threes.onnx"
    assert main(["import-model", network, *WORDS, *f"--outputs vector -o {model}".split()]) == 0
    assert main(f"embed {folder} --model {model}".split()) == 0
    threes = pandas.read_parquet(folder / "embeddings-threes.parquet")
    np.testing.assert_allclose(
        np.stack(threes["embedding"]), np.stack(vectors["embedding"]), rtol=0.002, atol=0.002
    )


@pytest.mark.parametrize(
    "drawing, words, message",
    [
        ({"pooled": False}, "", "output 'maps' has shape [16, 5, 1, 1] for 16 tiles; an encoder"),
        ({"weights": WEIGHTS * np.nan}, "", "returns NaN, or values above 65,504"),
        ({"pixels": TensorProto.UINT8}, "", "takes pixels in uint8, from 0 to 255; give --scaling"),
        ({}, "--outputs tokens", "in one of vector, maps; correct --outputs"),
        ({}, "--input-px 64", "takes only windows of 31 px"),
    ],
)
def test_what_is_no_encoder_is_one_sentence(drawing, words, message, tmp_path, capsys):
    network = draw_encoder(tmp_path / "network.onnx", **drawing)
    words = f"{words} -o {tmp_path / 'model.onnx'}".split()
    assert main(["import-model", network, *WORDS, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.skipif(
    find_spec("anndata") is None, reason="anndata is not installed (it needs pandas below 3)"
)
def test_a_cohort_is_one_anndata_with_features_and_embedding(folder, vectors):
    nuclei = read_anndata(folder.parent, embedding="linear")
    assert list(nuclei.obs_names) == list(vectors["id"])
    np.testing.assert_array_equal(nuclei.obsm["X_embedding"], np.stack(vectors["embedding"]))
    table = pandas.read_parquet(folder / "nuclei.parquet")
    np.testing.assert_array_equal(nuclei.obs["class"], table["class"])
    np.testing.assert_array_equal(nuclei[:, "area_um2"].X[:, 0], table["area_um2"])
