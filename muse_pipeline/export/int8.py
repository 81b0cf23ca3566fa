"""Eight-bit integers inside a graph: convolutions in int8 where the time goes, float32 where nuclei are decided."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx

from muse_pipeline.errors import ConfigError
from muse_pipeline.export.calibration import CalibrationWindow

QUANTISED = ("Conv", "Add", "Relu")
KEPT = ("Resize", "Transpose", "Reshape")  # gain nothing from being quantised themselves


def quantise(model: onnx.ModelProto, windows: Sequence[CalibrationWindow], name: str) -> onnx.ModelProto:
    """The model with static QDQ pairs around its convolutions: U8S8, weights per channel, ranges by least and largest.

    In int8 is what lies between the first convolution with weights of its own and the last layers, these excluded:
    rounded scores would tie, and colour, read-out and selection need more than 256 values. The same windows give the
    same bytes.

    Args:
        model: in float32, as ``export.onnx.trace`` gives it.
        windows: what the ranges of activations are taken from.
        name: of the network, in errors.

    Raises:
        ConfigError: the network is more than convolutions.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = ({"pixels": window.pixels, "colour": window.colour} for window in windows)

        def get_next(self) -> dict | None:
            return next(self.feeds, None)

    nodes = _before_last_layers(model)
    others = sorted({node.op_type for node in nodes} - {*QUANTISED, *KEPT})
    if others or not nodes:
        found = ", ".join(others) or "no two convolutions"
        raise ConfigError(
            f"precision 'int8' is for networks of convolutions alone (the compact family), and {name} has {found}; "
            "choose fp32 or fp16"
        )
    with tempfile.TemporaryDirectory() as folder, _without_advice():
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
        return onnx.load(quantised)


def _before_last_layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes from the first convolution with weights of its own up to, and without, the last layers.

    Layers are convolutions and matrix products that have weights. The last ones are those that no convolution follows:
    heads read cells by convolutions or by products.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    convolutions, products = (
        {node.name for node in model.graph.node if node.op_type == kind and node.input[1] in weights}
        for kind in ("Conv", "MatMul")
    )
    last_products = products - _leading_to(model, convolutions)
    leading = _leading_to(model, convolutions | last_products)
    follows: set[str] = set()  # tensors that a convolution made, if by other nodes
    of_products: set[str] = set()  # and those that a last product made
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
    """Names of the nodes whose results one of the ``layers`` reads, if by other nodes."""
    wanted: set[str] = set()
    leading = set()
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            leading.add(node.name)
        if node.name in leading | layers:
            wanted |= set(node.input)
    return leading


@contextmanager
def _without_advice() -> Iterator[None]:
    """ONNX Runtime advises to fuse batch norms first, which torch's exporter has done."""
    root = logging.getLogger()
    root.addFilter(_is_error)
    try:
        yield
    finally:
        root.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
