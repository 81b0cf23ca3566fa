"""Reduced precision inside a graph: int8 for the expensive convolutions, float32 for the final
decisions.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
from numpy import ndarray
from torch import Tensor

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.pictures import list_pictures, read_rgb, spread_evenly
from muse_pipeline.inference.card import ModelCard, RegionCard
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.models.base import Backbone, Features
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.models.region import RegionNetwork
from muse_pipeline.tissue.stain import fit_macenko

AnyCard = TypeVar("AnyCard", ModelCard, RegionCard)
QUANTISED = ("Conv", "Add", "Relu", "Clip")
KEPT = ("Resize", "Transpose", "Reshape")  # operations that gain nothing from int8


def quantise_on(
    pictures: Path, trace: Callable[[], onnx.ModelProto], card: AnyCard
) -> tuple[onnx.ModelProto, AnyCard]:
    """The model that ``trace`` returns, in int8 if its card has this precision, with ranges from
    the ``pictures`` in a folder; and its card, which then states them.
    """
    if card.precision != "int8":
        return trace(), card
    windows = calibration_windows(pictures, card)  # tracing takes longer than finding a fault here
    model = quantise(trace(), windows, card.source["backbone"])
    source = {**card.source, "calibration": describe_calibration(windows)}
    return model, replace(card, source=source)


def quantise(
    model: onnx.ModelProto, windows: Sequence[CalibrationWindow], name: str
) -> onnx.ModelProto:
    """Insert static QDQ pairs (U8S8) around convolutions: weights are scaled per channel,
    activations by their range.

    Layers from the first convolution with weights up to, but not including, the last layers are
    int8. The others are not, because rounded scores would tie, and colour, positions and selection
    need more than 256 values. The result is deterministic. The ranges of activations are determined
    from the ``windows``; ``name`` is that of the network in errors.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = ({"pixels": window.pixels, "colour": window.colour} for window in windows)

        def get_next(self) -> dict | None:
            return next(self.feeds, None)

    nodes = _before_last_layers(model)
    others = sorted({node.op_type for node in nodes} - {*QUANTISED, *KEPT})
    if others or not nodes:
        operations = ", ".join(others) or "fewer than two convolutions"
        raise ConfigError(
            "precision 'int8' is only for networks of convolutions (the compact family), but"
            f" {name} has {operations}; choose fp32 or fp16"
        )
    # Hides the advice to fuse batch norms first, which torch's exporter has done already.
    with tempfile.TemporaryDirectory() as folder, errors_only():
        quantised = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            quantised,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_quantize=[node.name for node in nodes if node.op_type in QUANTISED],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        result = onnx.load(quantised)
    _gather_before_dequantising(result)
    return result


def _gather_before_dequantising(model: onnx.ModelProto) -> None:
    """Change the graph, in place, so that only the few selected cells of a map are dequantised,
    which is faster.
    """
    maker = {output: node for node in model.graph.node for output in node.output}
    moved_values = set()
    for gather in [node for node in model.graph.node if node.op_type == "GatherND"]:
        source, moves = maker.get(gather.input[0]), []
        while source is not None and source.op_type in ("Transpose", "Reshape"):
            moves.append(source)
            source = maker.get(source.input[0])
        if source is None or source.op_type != "DequantizeLinear":
            continue
        values, *scale = source.input
        nodes = []
        for node in (*reversed(moves), gather):
            moved = onnx.NodeProto()
            moved.CopyFrom(node)
            moved.name, moved.input[0], moved.output[0] = (
                f"{node.name}_int8",
                values,
                f"{node.output[0]}_int8",
            )
            values = moved.output[0]
            if values not in moved_values:  # several operations may gather from one map
                moved_values.add(values)
                nodes.append(moved)
        nodes.append(
            onnx.helper.make_node(
                "DequantizeLinear", [values, *scale], gather.output, f"{gather.name}_dequantised"
            )
        )
        at = list(model.graph.node).index(gather)
        model.graph.node.remove(gather)
        for node in reversed(nodes):
            model.graph.node.insert(at, node)


def _before_last_layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes from the first convolution with weights up to, but not including, the last layers.

    Layers are convolutions and matrix products with weights. The last layers, with which heads
    compute their maps, are not followed by any convolution.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    convolutions, products = (
        {
            node.name
            for node in model.graph.node
            if node.op_type == kind and node.input[1] in weights
        }
        for kind in ("Conv", "MatMul")
    )
    last_products = products - _leading_to(model, convolutions)
    leading = _leading_to(model, convolutions | last_products)
    follows = set()  # tensors computed from a convolution
    of_products = set()  # tensors computed from a last product
    before = []
    for node in model.graph.node:
        if node.name in last_products or of_products & set(node.input):
            of_products |= set(node.output)
        elif node.name in convolutions or follows & set(node.input):
            follows |= set(node.output)
            if node.name in leading:
                before.append(node)
    return before


def _leading_to(model: onnx.ModelProto, layers: set[str]) -> set[str]:
    """Names of the nodes whose results reach one of the ``layers``, directly or through other
    nodes.
    """
    wanted = set()
    leading = set()
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            leading.add(node.name)
        if node.name in leading | layers:
            wanted |= set(node.input)
    return leading


@contextmanager
def errors_only(name: str | None = None) -> Iterator[None]:
    """Drop messages of the logger ``name``, by default the root logger, that are less severe than
    errors.
    """

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger = logging.getLogger(name)
    logger.addFilter(is_error)
    try:
        yield
    finally:
        logger.removeFilter(is_error)


class HalfBackbone(Backbone):
    """A backbone with float16 weights and activations, whose inputs and features are float32.

    The layers of the network are changed in place. Its inputs are normalised in float32, where 8
    bits of colour and the means of ImageNet are exact.
    """

    def __init__(self, network: Backbone):
        super().__init__()
        # only children, because the backbone's own buffers are used in `prepare`
        for layers in network.children():
            layers.half()
        self.network = network.eval()
        self.channels = network.channels
        self.image_channels = network.image_channels
        self.stride_px = network.stride_px
        self.stage_sizes = network.stage_sizes
        self.lattice = network.lattice

    def prepare(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """Prepare pixels as the network does, in float32."""
        return self.network.prepare(pixels, colour)

    def forward(self, image: Tensor) -> Features:
        """(B, 3, H, W) float32 -> features in float32, computed in float16."""
        dense, vector = self.network(image.half())
        return Features(dense.float(), vector.float())

    def stage_maps(self, image: Tensor) -> Iterator[Tensor]:
        """The network's stages in float32, computed in float16."""
        for stage_map in self.network.stage_maps(image.half()):
            yield stage_map.float()


def halve(detector: NucleusDetector | RegionNetwork) -> None:
    """Run the backbone of a detector or region network in float16, in place.

    The head remains in float32, because it takes little time and rounded scores could tie, which
    would make two neighbouring cells peaks of one nucleus.
    """
    detector.backbone = HalfBackbone(detector.backbone)


MAX_WINDOWS = 64


@dataclass(frozen=True)
class CalibrationWindow:
    """Inputs of a call of the graph: pixels (1, 3, S, S) uint8, and a colour map (3, 4) float32 for
    the picture.
    """

    pixels: ndarray
    colour: ndarray


def calibration_windows(folder: Path, card: ModelCard | RegionCard) -> list[CalibrationWindow]:
    """The upper left window of each picture in a folder, or of ``MAX_WINDOWS`` selected ones if
    there are more.

    The pictures are at the model's mpp. The selection is spread evenly over the sorted names. Small
    pictures are padded with white, like windows at the edge of a slide.
    """
    paths = list_pictures(folder)
    if not paths:
        raise ConfigError(
            f"{folder}: no pictures to calibrate precision 'int8' on; give a folder of pictures"
            " like those that the model will see (--calibration FOLDER)"
        )
    return [_window(paths[index], card) for index in spread_evenly(len(paths), MAX_WINDOWS)]


def describe_calibration(windows: Sequence[CalibrationWindow]) -> str:
    """Number and checksum of the windows, for the card."""
    digest = hashlib.sha256()
    for window in windows:
        digest.update(window.pixels.tobytes())
        digest.update(window.colour.tobytes())
    return f"{len(windows)} windows, sha256 {digest.hexdigest()}"


def _window(path: Path, card: ModelCard | RegionCard) -> CalibrationWindow:
    pixels, window = read_window(path, card.input_px)
    colour = colour_of_fit(card.colour, fit_macenko(pixels.reshape(-1, 3)))
    return CalibrationWindow(window.transpose(2, 0, 1)[None], colour)


def read_window(path: Path, input_px: int) -> tuple[ndarray, ndarray]:
    """The upper left pixels (h, w, 3) uint8 of a picture, and a window (S, S, 3) of them that is
    padded with white.
    """
    pixels = read_rgb(path)[:input_px, :input_px]
    window = np.full((input_px, input_px, 3), 255, np.uint8)
    window[: pixels.shape[0], : pixels.shape[1]] = pixels
    return pixels, window
