"""Every backbone with either head finds the same nuclei on real tissue after its export to ONNX."""

import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from official_fixtures import load_official, needs_fixtures

from muse_pipeline.core.types import Frame
from muse_pipeline.export.cut import cut
from muse_pipeline.export.onnx import trace
from muse_pipeline.export.parity import COLOUR, compare
from muse_pipeline.export.parity import TOLERANCES as EXPORT_TOLERANCES
from muse_pipeline.export.quantise import CalibrationWindow, halve, quantise
from muse_pipeline.inference.card import EMBEDDING, OUTPUTS, ModelCard, NucleusClass
from muse_pipeline.models import BACKBONES, HEADS, muse
from muse_pipeline.models import detector as heads
from muse_pipeline.models.detector import DetectionGraph, NucleusDetector
from muse_pipeline.nuclei.table import Nuclei

N_CLASSES, N_RAYS, THRESHOLD = 3, 16, 0.5
# Tolerances for networks whose last layer, and with it every error, is made 100 times larger by
# ``spread``.
TOLERANCES = {**EXPORT_TOLERANCES, "fp16": replace(EXPORT_TOLERANCES["fp16"], xy_px=0.5)}


@pytest.fixture(autouse=True)
def every_neighbour_counts(request, monkeypatch):
    """Let all neighbours agree: in an untrained dense head, the last digits would decide which
    neighbours do.
    """
    if "point" not in request.node.name:
        monkeypatch.setattr(heads, "SAME_NUCLEUS_CELLS", 1e9)


def build(backbone: str, head: str) -> NucleusDetector:
    torch.manual_seed(0)
    return NucleusDetector(backbone, head, N_CLASSES, N_RAYS).eval()


def build_tiny_vit(head: str) -> NucleusDetector:
    """A detector with a ViT of four narrow blocks, in place of twelve blocks."""
    detector = build("muse_compact_16", head)
    detector.backbone = muse.MuseVit(dim=32, n_heads=2, input_px=96)
    encoder = detector.backbone.encoder["encoder"]
    encoder.blocks = encoder.blocks[:4]
    detector.head = HEADS[head](32, N_CLASSES, N_RAYS)
    return detector.eval()


@torch.no_grad()
def spread(detector: NucleusDetector, pixels: torch.Tensor) -> None:
    """Make an untrained network certain: its scores are near 0 or 1, so that the last digits decide
    nothing.
    """
    head = detector.head
    for layer in [head.out] if hasattr(head, "out") else [head.types[-1], head.offset[-1]]:
        layer.weight.mul_(100)
    maps = detector(pixels, torch.from_numpy(COLOUR))
    centre = maps.centre.flatten()
    shift = centre.quantile(0.8)
    if hasattr(head, "out"):
        head.out.bias[0] -= shift
    else:
        head.types[-1].bias[-1] += shift


def nuclei_of(outputs, window: int) -> Nuclei:
    xy, score, prob, rays, embedding = (values[window] for values in outputs)
    n = int((score > 0).sum())
    kept = dict(rays=rays[:n], score=score[:n], prob=prob[:n], embedding=embedding[:n])
    return Nuclei(xy[:n], Frame.WINDOW, label=prob[:n].argmax(1), **kept)


def export_and_compare(
    detector: NucleusDetector,
    window_px: int,
    shared_data,
    n_windows: int,
    precision: str = "fp32",
    plant=lambda _: None,
):
    """The graph, and how the nuclei of torch and ONNX Runtime differ, in a batch and for its first
    window alone.

    ``plant`` can put a mistake into the network before the export.
    """
    import cv2
    import onnxruntime

    path = sorted((shared_data / "brca-m2c/images").glob("*.png"))[0]
    picture = cv2.imread(str(path))[..., ::-1].repeat(2, 0).repeat(2, 1)
    windows = np.stack(
        [
            picture[100 * k : 100 * k + window_px, :window_px].transpose(2, 0, 1)
            for k in range(n_windows)
        ]
    )
    pixels = torch.from_numpy(np.ascontiguousarray(windows))
    detector.backbone.fix_size(window_px, window_px)
    spread(detector, pixels[:1])
    graph = DetectionGraph(detector, THRESHOLD, 400, embed=True).eval()
    with torch.no_grad():
        expected = [value.numpy() for value in graph(pixels, torch.from_numpy(COLOUR))]
    if precision == "fp16":
        halve(detector)
    plant(detector)
    model = trace(graph, card_of(detector, window_px, precision))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    if precision == "fp32":
        require_backbone(model, detector, pixels)
    pairs = []
    for batch in (slice(0, 1), slice(0, n_windows)):
        found = session.run([*OUTPUTS, EMBEDDING], {"pixels": windows[batch], "colour": COLOUR})
        pairs += [
            (nuclei_of(expected, index), nuclei_of(found, index)) for index in range(batch.stop)
        ]
    return model, compare(pairs, THRESHOLD, TOLERANCES[precision])


@torch.no_grad()
def require_backbone(
    model: onnx.ModelProto, detector: NucleusDetector, pixels: torch.Tensor
) -> None:
    """Require that the cut graph gives the map that the head reads."""
    found = dense_map(model, pixels.numpy())
    expected = detector.backbone.lattice.at_cells(
        detector.features(pixels, torch.from_numpy(COLOUR))
    ).numpy()
    assert found.shape == expected.shape
    assert abs(found - expected).max() <= 1e-3 * abs(expected).max()


def dense_map(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    """The map that the head reads, from the graph cut after the densities."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        cut(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    density = np.log((pixels + np.float32(1)) / 256)
    return session.run(["dense"], {"density": density, "colour": COLOUR})[0]


def card_of(detector: NucleusDetector, window_px: int, precision: str) -> ModelCard:
    classes = tuple(NucleusClass(name, (0, 0, 0)) for name in "abc")
    sizes = dict(
        input_px=window_px, halo_px=0, stride_px=detector.backbone.stride_px, batch=1, capacity=400
    )
    words = dict(readout=detector.backbone.lattice.name, licence="CC0-1.0", training_data="none")
    outputs = dict(n_rays=N_RAYS, embedding_dim=detector.backbone.channels, precision=precision)
    return ModelCard(
        name="x", mpp=0.5, classes=classes, threshold=THRESHOLD, **sizes, **words, **outputs
    )


def require_the_same(parity, precision: str = "fp32") -> None:
    """Require equal counts and classes, and embeddings that agree within their tolerance."""
    tolerance = TOLERANCES[precision]
    assert parity.n_nuclei > 50
    assert parity.n_unmatched <= max(1, tolerance.unmatched * parity.n_nuclei)
    assert parity.n_other_class <= max(1, tolerance.label * parity.n_nuclei)
    assert parity.cosine >= tolerance.cosine
    assert parity.embedding <= tolerance.embedding


def resizes(model: onnx.ModelProto) -> set[tuple[bytes, bytes]]:
    """(mode, coordinate transformation mode) of every resize in a graph."""
    found = set()
    for node in model.graph.node:
        if node.op_type == "Resize":
            output = {
                entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute
            }
            found.add((output["mode"], output["coordinate_transformation_mode"]))
    return found


@pytest.mark.slow
def test_a_tiny_vit_in_a_window_that_its_positions_are_resampled_for(shared_data, monkeypatch):
    monkeypatch.setattr(muse, "TAPS", (0, 1, 2, 3))
    model, parity = export_and_compare(build_tiny_vit("dense"), 160, shared_data, n_windows=4)
    require_the_same(parity)
    assert resizes(model) == {
        (b"linear", b"align_corners")
    }  # no cubic resize, as positions are constants


PAIRS = [  # one backbone per architecture; graphs do not depend on width and window size
    ("muse_compact_16", "point"),  # all other tests of this folder export the dense head
    ("muse_vit_s_16_224", "dense"),
    ("muse_vit_b_16_512", "point"),
    ("muse_r50_224", "dense"),
    ("muse_r50_512", "point"),
    ("shallow_cnn", "dense"),
    ("vgg16_3_stages", "dense"),
    ("colour_cnn", "dense"),
    ("efficientnet_lite0_16", "dense"),
    ("efficientnet_lite1", "dense"),
    ("efficientnet_lite2", "point"),
]


def test_no_architecture_or_head_is_forgotten():
    def architectures(names):
        return {re.sub(r"(_\d+)+$", "", name) for name in names}

    assert architectures(backbone for backbone, _ in PAIRS) == architectures(BACKBONES.names())
    assert {head for _, head in PAIRS} == set(HEADS.names())


@pytest.mark.slow
@pytest.mark.parametrize("backbone, head", PAIRS)
def test_every_architecture_with_either_head(backbone, head, shared_data):
    model, parity = export_and_compare(build(backbone, head), 224, shared_data, n_windows=2)
    require_the_same(parity)
    if backbone.startswith("muse_compact"):
        assert resizes(model) == {(b"linear", b"half_pixel")}


@pytest.mark.slow
def test_efficientnet_lite_in_eight_bit_integers():
    """Convolutions and their ReLU6 are integers; the map that the head reads hardly changes."""
    detector = build("efficientnet_lite0_16", "dense")
    graph = DetectionGraph(detector, THRESHOLD, 400, embed=True).eval()
    model = trace(graph, card_of(detector, 96, "fp32"))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 96, 96), np.uint8)
    expected = dense_map(model, pixels)  # before the next line, which moves the model's weights
    small = quantise(model, [CalibrationWindow(pixels, COLOUR)], "efficientnet_lite0_16")
    weights = {tensor.name for tensor in small.graph.initializer}
    makers = {output: node.op_type for node in small.graph.node for output in node.output}
    inputs = {(node.op_type, name) for node in small.graph.node for name in node.input}
    assert not any(("Conv", name) in inputs for name in weights)
    assert "Conv" not in {makers.get(name) for kind, name in inputs if kind == "Clip"}
    found = dense_map(small, pixels)
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.99


@pytest.mark.slow
@needs_fixtures
def test_a_gelu_by_tanh_in_the_graph_is_seen(shared_data):
    """The mistake exceeds only the limit on embeddings; it moves nuclei by less than their limits.

    In `test_every_architecture_with_either_head`, graphs without the mistake are within the limit
    on embeddings.
    """

    def plant(network):
        for block in network.backbone.encoder["encoder"].blocks:
            block.mlp.act = torch.nn.GELU("tanh")

    detector = build("muse_vit_s_16_224", "dense")
    detector.backbone = load_official("vit_s_16_224", "muse_vit_s_16_224")
    _, parity = export_and_compare(detector, 224, shared_data, 2, plant=plant)
    assert parity.cosine >= TOLERANCES["fp32"].cosine
    assert parity.embedding > TOLERANCES["fp32"].embedding


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone, head", [("muse_vit_s_16_224", "point"), ("muse_r50_224", "dense")]
)
def test_half_precision_of_the_released_networks(backbone, head, shared_data):
    _, parity = export_and_compare(build(backbone, head), 224, shared_data, 2, "fp16")
    require_the_same(parity, "fp16")
