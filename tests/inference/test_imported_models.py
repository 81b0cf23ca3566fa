"""Foreign networks after `muse import-model`: StarDist's rays, and maps that a watershed divides
into nuclei.
"""

import re
import sys
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest
import tifffile
from drawn_networks import (
    GAUSS,
    RADIUS_PX,
    Drawing,
    draw_boundary,
    draw_cellpose,
    draw_cellvit,
    draw_distance,
    draw_hover,
    draw_hovernext,
    draw_instanseg,
    draw_random,
    draw_stardist,
)
from drawn_tissue import CLASSES, draw_labelled_tissue
from inference_slides import open_tiled, tile_slide
from qupath_check import check_geojson
from scipy.spatial import cKDTree
from slide_files import write_pyramid

from muse_pipeline.core import types
from muse_pipeline.inference.card import METADATA_KEY
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.maps import SCALINGS, nuclei_of_maps
from muse_pipeline.inference.model import read_card
from muse_pipeline.inference.predictor import CONSTANT, NOT_FINITE, Predictor, find_faults
from muse_pipeline.inference.stitch import count_useless
from muse_pipeline.nuclei.parquet import read_nuclei, read_provenance
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.proposals.base import NUCLEUS
from muse_pipeline.tissue.stain import IDENTITY

WORDS = {
    "stardist": (draw_stardist, ()),
    "hover": (draw_hover, ("--logits",)),
    "cellvit": (draw_cellvit, ("--logits",)),
    "hovernext": (draw_hovernext, ("--logits",)),
    "instanseg": (draw_instanseg, ["--classes", "Nucleus", "--input-px", "256"]),
    "cellpose": (draw_cellpose, ("--classes", "Nucleus")),
    "distance": (draw_distance, ()),
    "boundary": (draw_boundary, ()),
}
MARGIN_PX = 60
COMMON = ["--mpp", "0.5", "--scaling", "unit"]
DISTANCE = ["--kind", "distance", *COMMON, "--classes", *CLASSES]


@pytest.fixture(scope="module")
def tissue():
    return draw_labelled_tissue((420, 380), 0.5, seed=1)


@pytest.fixture
def imported(muse, tmp_path):
    """``imported(kind)``: import a network of that kind, and return the path of the model."""

    def make(kind, *more, network=None):
        draw, words = WORDS[kind]
        network, model = network or draw(tmp_path / f"{kind}.onnx"), tmp_path / f"{kind}-model.onnx"
        words = [
            *f"import-model {network} --kind {kind}".split(),
            *COMMON,
            "--classes",
            *CLASSES,
            *words,
            *more,
            "-o",
            model,
        ]
        status, out, errors = muse(*words)
        assert (status, errors) == (0, ""), errors
        assert str(model) in out
        assert "finds 64 of 64 synthetic nuclei" in out
        return model

    return make


@pytest.mark.parametrize("kind", WORDS)
def test_nuclei_lie_where_they_were_drawn(kind, imported, tissue):
    predictor = Predictor(imported(kind))
    found = detect_image(predictor, tissue.pixels, IDENTITY)
    distance, nearest = cKDTree(found.xy).query(tissue.xy)
    inside = ((tissue.xy > 12) & (tissue.xy < np.array(tissue.pixels.shape[1::-1]) - 12)).all(1)
    assert len(found) == pytest.approx(len(tissue.xy), abs=3)
    assert (distance[inside] * 0.5 < 1.2).all() and len(set(nearest[inside])) == inside.sum()
    assert (
        np.abs((found.xy[nearest] - tissue.xy)[inside].mean(0)).max() < 0.4
    )  # a wrong origin would shift by 0.5
    assert len(predictor.card.classes) == 1 or (found.label[nearest] == tissue.label)[inside].all()
    assert np.median(found.rays) == pytest.approx(3.6, abs=0.6)  # blurring makes dark nuclei larger
    assert np.allclose(found.prob.sum(1), 1) and (found.score > 0.5).all()


def test_rays_point_to_the_right_and_then_down(imported):
    """As in StarDist, a nucleus lies at the centre of the pixel of its grid point."""
    card = replace(read_card(imported("stardist")), n_rays=4, classes=(NUCLEUS,))
    prob, rays = np.zeros((1, 32, 32, 1), np.float32), np.zeros((1, 32, 32, 4), np.float32)
    prob[0, 10, 20], rays[0, 10, 20] = 0.9, (8, 4, 2, 6)  # row 20 and column 40 of the window
    (found,) = nuclei_of_maps([prob, rays], card)
    ring = rays_to_rings(found.xy, found.rays, (0.5, 0.5))[0]
    assert np.allclose(ring, [(48.5, 20.5), (40.5, 24.5), (38.5, 20.5), (40.5, 14.5)], atol=1e-4)


def test_points_between_those_of_the_grid_may_be_empty(imported):
    """StarDist's own export gives probabilities at every second pixel, and zeros between them."""
    card = replace(read_card(imported("stardist")), n_rays=4, stride_px=1, classes=(NUCLEUS,))
    rows, columns = np.mgrid[:64, :64]
    prob = sum(np.exp(-((rows - 20) ** 2 + (columns - x) ** 2) / 60) for x in (20, 44))
    prob = np.where((rows % 2 == 0) & (columns % 2 == 0), prob, 0).astype(np.float32)[
        None, ..., None
    ]
    (found,) = nuclei_of_maps(
        [np.concatenate([prob, np.full((1, 64, 64, 4), 6, np.float32)], 3)], card
    )
    assert np.array_equal(found.xy[np.argsort(found.xy[:, 0])], [(20.5, 20.5), (44.5, 20.5)])


def spread(centres, radius, side=64):
    """(side, side) float32: 1 within ``radius`` of the centres (x, y)."""
    rows, columns = np.mgrid[:side, :side]
    return np.any([np.hypot(columns - x, rows - y) < radius for x, y in centres], axis=0).astype(
        np.float32
    )


@pytest.mark.parametrize(
    "centres, radius",
    [([(20, 20), (44, 44)], 7), ([(20, 32), (32, 32), (44, 32)], 8), ([(30, 30)], 1.1)],
)
@pytest.mark.parametrize("varying", [False, True], ids=["equal rays", "own rays"])
def test_a_plateau_of_equal_scores_is_one_candidate_per_nucleus(imported, centres, radius, varying):
    """As where a network in half precision saturates, also where nuclei touch."""
    card = replace(
        read_card(imported("stardist")), n_rays=8, stride_px=1, classes=(NUCLEUS,), threshold=0.5
    )
    depth = np.max(
        [
            radius - np.hypot(*(np.mgrid[:64, :64] - np.reshape((y, x), (2, 1, 1))))
            for x, y in centres
        ],
        0,
    )
    rays = np.repeat((depth if varying else np.full((64, 64), 6.0))[None], 8, 0)
    (found,) = nuclei_of_maps([spread(centres, radius)[None, None], rays[None]], card)
    assert np.allclose(found.xy[np.lexsort(found.xy.T[::-1])], np.array(centres) + 0.5, atol=1.1)


@pytest.fixture(scope="module")
def slide(once, tissue):
    """The tissue on glass, after `tile`."""

    def draw(folder):
        glass = np.pad(
            tissue.pixels,
            ((MARGIN_PX, MARGIN_PX), (MARGIN_PX, MARGIN_PX), (0, 0)),
            constant_values=244,
        )
        write_pyramid(folder / "slide.tif", glass)
        tile_slide(folder, folder / "slide.tif")

    return open_tiled(once("imported_models", draw))


@pytest.mark.parametrize("kind", ["stardist", "hover"])
def test_any_number_of_shards_gives_the_same_bytes(kind, imported, slide, tissue, tmp_path):
    slide = replace(slide, predictor=Predictor(imported(kind)))
    one, three = (slide.nuclei(tmp_path / str(n), n_shards=n) for n in (1, 3))
    assert one.read_bytes() == three.read_bytes()
    found = read_nuclei(one)
    assert read_provenance(one).n_windows >= 4 and len(found) == pytest.approx(
        len(tissue.xy), abs=3
    )
    distance, nearest = cKDTree(found.xy - MARGIN_PX).query(tissue.xy)
    assert (distance * 0.5 < 1.2).mean() > 0.97 and (
        found.label[nearest] == tissue.label
    ).mean() > 0.97


def test_touching_nuclei_are_divided_where_their_positions_fall(imported):
    """The maps are smooth and noisy, as from a network, and the mask has no neck where nuclei
    touch.
    """
    card = replace(read_card(imported("hover")), margin_px=0, logits=False, classes=(NUCLEUS,))
    rows, columns = np.mgrid[:64, :96]
    mask = (
        (abs(rows - 32) < 10) & (columns >= 20) & (columns < 80)
    )  # three squares of 20 px in a row
    horizontal = np.where(mask, (columns % 20 - 9.5) / 10, 0).astype(np.float32)
    vertical = np.where(mask, (rows - 32) / 10, 0).astype(np.float32)
    maps = [
        cv2.GaussianBlur(each, (0, 0), 1.5)
        for each in (mask.astype(np.float32), horizontal, vertical)
    ]
    nucleus, *position = [np.pad(each, ((0, 32), (0, 0))) for each in maps]
    position = position + np.random.default_rng(0).normal(0, 0.2, (2, 96, 96))
    (found,) = nuclei_of_maps([nucleus[None, None], position[None]], card)
    assert np.allclose(np.sort(found.xy[:, 0]), (30, 50, 70), atol=1.5) and np.allclose(
        found.xy[:, 1], 32, atol=1.5
    )


def test_a_network_of_one_class_whose_maps_are_one_output(muse, tmp_path, tissue):
    """StarDist files for QuPath have this form; they take windows of any size."""
    model = onnx.load(draw_stardist(tmp_path / "two.onnx", classes=False, side="side"))
    joined = onnx.helper.make_node("Concat", ["prob", "dist"], ["output"], axis=3)
    model.graph.node.append(joined)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("output", 1, ["b", "h", "w", "c"]))
    onnx.save(model, tmp_path / "one.onnx")
    words = ("--kind", "stardist", *COMMON, "-o", tmp_path / "model.onnx")
    assert "give --input-px" in muse.fails(f"import-model {tmp_path / 'one.onnx'}", *words)
    muse.ok(f"import-model {tmp_path / 'one.onnx'}", *words, "--input-px", "384")
    predictor = Predictor(tmp_path / "model.onnx")
    assert (predictor.card.n_rays, predictor.card.stride_px, predictor.card.input_px) == (
        16,
        2,
        384,
    )
    assert len(detect_image(predictor, tissue.pixels, IDENTITY)) == pytest.approx(
        len(tissue.xy), abs=3
    )


@pytest.mark.parametrize("kind", WORDS)
@pytest.mark.parametrize("scaling", ["none", "symmetric"])
def test_a_scaling_with_which_nothing_is_found_is_rejected(kind, scaling, muse, tmp_path):
    draw, words = WORDS[kind]
    words = [
        *f"--kind {kind} --mpp 0.5 --classes".split(),
        *CLASSES,
        *words,
        "-o",
        tmp_path / "m.onnx",
    ]
    status, _, errors = muse(
        f"import-model {draw(tmp_path / 'network.onnx')} --scaling {scaling}", *words
    )
    assert (status, errors.count("\n")) == (2, 1) or scaling != "none"
    if "none of the synthetic nuclei" in errors:
        assert "it finds more with unit" in errors
    assert status == 2 or len(Predictor(tmp_path / "m.onnx")(draw_nuclei(), IDENTITY)[0])


def draw_nuclei():
    """A window with round, dark nuclei."""
    dark = spread([(x, y) for x in range(20, 240, 32) for y in range(20, 240, 32)], 8, 256)[
        ..., None
    ]
    return np.where(dark > 0, (96, 72, 140), (232, 196, 214)).astype(np.uint8)[None]


@pytest.mark.parametrize(
    "change, reason",
    [
        (
            lambda model: setattr(model, "ir_version", 99),
            "(Unsupported model IR version: 99, max supported IR version",
        ),
        (
            lambda model: setattr(model.opset_import[0], "version", 99),
            "(ONNX Runtime only *guarantees* support for",
        ),
        (
            lambda model: setattr(model.graph.node[0], "op_type", "Fancy"),
            "No Op registered for Fancy",
        ),
    ],
)
def test_the_reason_why_a_network_does_not_open_is_whole(change, reason, muse, tmp_path):
    network = onnx.load(draw_distance(tmp_path / "network.onnx"))
    change(network)
    (tmp_path / "network.onnx").write_bytes(network.SerializeToString())
    words = (*DISTANCE, "-o", tmp_path / "m.onnx")
    errors = muse.fails(f"import-model {tmp_path / 'network.onnx'}", *words)
    assert reason in errors
    assert "onnxruntime_src" not in errors and "[ONNXRuntimeError]" not in errors


def test_weights_in_a_file_beside_the_network_are_copied(muse, tmp_path):
    network = onnx.load(draw_distance(tmp_path / "whole.onnx"))
    weights = dict(save_as_external_data=True, location="weights.data", size_threshold=0)
    onnx.save_model(network, tmp_path / "parts.onnx", **weights)
    assert (tmp_path / "weights.data").is_file()
    words = (*DISTANCE, "-o", tmp_path / "models/m.onnx")
    status, _, errors = muse(f"import-model {tmp_path / 'parts.onnx'}", *words)
    (tmp_path / "weights.data").unlink()
    assert (status, errors) == (0, "") and Predictor(
        tmp_path / "models/m.onnx"
    ).card.kind == "distance"


def test_an_import_without_the_package_onnx_is_one_sentence(muse, tmp_path, monkeypatch):
    network = draw_distance(tmp_path / "network.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    words = (*DISTANCE, "-o", tmp_path / "m.onnx")
    assert "install the extra `onnx`" in muse.fails(f"import-model {network}", *words)


def test_an_input_of_bytes_may_have_the_name_that_ours_has(muse, tmp_path, tissue):
    network = onnx.load(draw_distance(tmp_path / "floats.onnx"))
    (port,) = network.graph.input
    network.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(255), "white"))
    network.graph.node.insert(0, onnx.helper.make_node("Div", ["float", "white"], [port.name]))
    network.graph.node.insert(
        0, onnx.helper.make_node("Cast", ["pixels"], ["float"], to=onnx.TensorProto.FLOAT)
    )
    port.name, port.type.tensor_type.elem_type = "pixels", onnx.TensorProto.UINT8
    onnx.save(network, tmp_path / "bytes.onnx")
    words = [*["--kind", "distance", "--mpp", "0.5", "--scaling", "none", "--classes"], *CLASSES]
    status, _, errors = muse(
        f"import-model {tmp_path / 'bytes.onnx'}", *words, "-o", tmp_path / "m.onnx"
    )
    assert (status, errors) == (0, "")
    assert Predictor(tmp_path / "m.onnx").card.dtype == "uint8"


def test_the_graph_stays_and_the_card_can_be_changed(imported, muse, tmp_path):
    network = draw_stardist(tmp_path / "network.onnx")
    model = imported("stardist", network=network)
    before, after = (
        onnx.load(path).graph.SerializeToString(deterministic=True) for path in (network, model)
    )
    assert before == after
    assert "stardist; scaling of pixels: unit" in muse(f"card {model}")[1]
    muse.ok(f"card {model} --temperature 2 -o {tmp_path / 'soft.onnx'}")
    assert Predictor(tmp_path / "soft.onnx").card == replace(read_card(model), temperature=2.0)


def test_every_scaling_has_its_range():
    pixels = np.linspace(0, 255, 3 * 64**2, dtype=np.float32).reshape(1, 64, 64, 3)
    assert tuple(SCALINGS) == types.SCALINGS
    ranges = {name: (scale(pixels).min(), scale(pixels).max()) for name, scale in SCALINGS.items()}
    assert (
        ranges["none"] == (0, 255) and ranges["unit"] == (0, 1) and ranges["symmetric"] == (-1, 1)
    )
    assert ranges["imagenet"] == pytest.approx((-2.118, 2.64), abs=1e-3)
    assert ranges["percentile"] == pytest.approx((-0.01, 1.002), abs=2e-3)


@pytest.mark.parametrize("name", SCALINGS)
def test_a_window_is_scaled_without_regard_to_the_others_of_its_batch(name):
    pixels = (
        np.random.default_rng(0)
        .uniform((0, 60, 90), (120, 200, 255), (2, 64, 64, 3))
        .astype(np.float32)
    )
    pixels[1] /= 2
    alone = [SCALINGS[name](window[None]) for window in pixels]
    assert np.array_equal(SCALINGS[name](pixels), np.concatenate(alone))


# number of channels of each output of a network for three classes
OUTPUTS = {
    "stardist": {"prob": 1, "dist": 32, "prob_class": 4},
    "hover": {"np": 2, "hv": 2, "tp": 4},
    "cellvit": {"nuclei_binary_map": 2, "hv_map": 2, "nuclei_type_map": 4},
    "hovernext": {"output": 9},
    "distance": {"classes": 4, "distance": 1},
    "boundary": {"maps": 5},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WORDS)
def test_qupath_reads_the_outlines_of_odd_maps(kind, muse, tmp_path, shared_data):
    """Networks with random weights, unless no nuclei are found in their maps, run on a real
    slide.
    """
    (draw, words), model = WORDS[kind], tmp_path / "model.onnx"
    words = ("--kind", kind, *COMMON, "--classes", *CLASSES, *words, "-o", model)
    muse.ok(f"import-model {draw(tmp_path / 'network')}", *words)
    if kind in OUTPUTS:
        card = read_card(model)
        network = onnx.load(draw_random(tmp_path / "network", OUTPUTS[kind]))
        classes = tuple(replace(NUCLEUS, name=name) for name in "ABC")
        shape = [size.dim_value for size in network.graph.input[0].type.tensor_type.shape.dim]
        sizes = {"stride_px": 1, "margin_px": 0, "n_rays": 32}
        sizes["channels_first"] = shape[1] == 3
        card = replace(card, classes=classes, logits=True, maps=tuple(OUTPUTS[kind]), **sizes)
        network.metadata_props.add(key=METADATA_KEY, value=card.to_json())
        onnx.save(network, model)
    pixels = tifffile.imread(shared_data / "wsi-cmu-small-region/CMU-1-Small-Region.svs")[
        900:1500, 700:1300
    ]
    cv2.imwrite(str(tmp_path / "skin.png"), pixels[..., ::-1])
    words = f"--mpp 0.5 --model {model} --no-viewer --no-quality -o {tmp_path / 'out'}".split()
    muse.ok(f"run {tmp_path / 'skin.png'}", *words)
    verdict = check_geojson(tmp_path / "out/skin/nuclei.geojson.gz")
    assert verdict.is_good and verdict.n_by_type["detection"] > 10


@pytest.mark.parametrize("pixel, fault", [(0, NOT_FINITE), (255, "")])
def test_windows_for_which_a_network_returns_no_numbers_fail_the_slide(
    imported, muse, tissue, tmp_path, pixel, fault
):
    """A logarithm of the least red of a window stands for an overflow in half precision."""

    def draw(path):
        net = Drawing(True, "side")
        dark = net.filter(GAUSS)
        red = net.add("Conv", [net.pixels, np.reshape([1, 0, 0], (1, 3, 1, 1)), [0]])
        least = net.add("ReduceMin", [red], axes=[1, 2, 3], keepdims=1)
        zero = net.linear(net.add("Log", [least]), 0, 0)  # 0 x -infinity is NaN
        prob = net.add("Sigmoid", [net.add("Add", [net.linear(dark, 40, -16.8), zero])])
        net.give("prob", prob)
        rays = net.add("Conv", [prob, np.zeros((32, 1, 1, 1)), np.full(32, RADIUS_PX)])
        net.give("dist", rays)
        return net.save(path)

    words = ["--classes", "Nucleus", "--input-px", "256"]
    model = imported("stardist", *words, network=draw(tmp_path / "log.onnx"))
    pixels = tissue.pixels.copy()
    pixels[200, 200] = pixel, 0, 0
    cv2.imwrite(str(tmp_path / "speck.png"), np.ascontiguousarray(pixels[..., ::-1]))
    run = muse(
        f"run {tmp_path / 'speck.png'} --mpp 0.5 --model {model} --no-viewer -o {tmp_path / 'out'}"
    )
    assert (run[0] != 0) == bool(fault)
    if fault:
        assert re.search(rf"for \d+ of \d+ windows? of tissue, .*{re.escape(fault)}", str(run))


@pytest.mark.parametrize("scaling", ["unit", "imagenet"])
def test_scalings_with_which_as_many_nuclei_are_found_are_named(scaling, muse, tmp_path, trials5):
    network = trials5 / "1-network-returns-nan/sd_plain.onnx"
    words = "--kind", "stardist", "--mpp", "0.5", "--input-px", "128", "--classes", "Nucleus"
    model = tmp_path / "m.onnx"
    status, out, _ = muse("import-model", network, *words, "--scaling", scaling, "-o", model)
    others = [name for name in ("unit", "symmetric", "imagenet", "percentile") if name != scaling]
    assert (
        status == 0
        and f"16 synthetic nuclei, and as many with --scaling {', '.join(others)}:" in out
    )


def test_one_constant_window_of_several_does_not_fail_a_slide():
    assert count_useless(Counter({CONSTANT: 1}), 9) == 0
    assert count_useless(Counter({CONSTANT: 1}), 1) == 1
    assert count_useless(Counter({CONSTANT: 2}), 9) == 2
    assert count_useless(Counter({CONSTANT: 1, NOT_FINITE: 1}), 9) == 1


def test_faults_of_outputs():
    varied = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), np.uint8)
    maps = [np.zeros((3, 1, 8, 8), np.float32), np.ones((3, 2, 8, 8), np.float32)]
    assert find_faults(maps, varied) == [CONSTANT] * 3
    assert find_faults(maps, np.full_like(varied, 200)) == find_faults(maps) == [""] * 3
    maps[1][0, 1, 2, 3], maps[0][2, 0, 0, 0] = np.inf, 1
    assert find_faults(maps, varied) == [NOT_FINITE, CONSTANT, ""]
