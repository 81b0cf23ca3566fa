"""Cut the graphs of the built-in models: ``python docs/make_cut_graphs.py`` after a model was
replaced.

``muse export`` cuts the graphs of newer models. The files of older ones stay as they are, because
ids of nuclei depend on their checksums: NAME.cut contains only the graph, and reads the
weights from NAME.onnx.
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper
from onnx.external_data_helper import set_external_data

from muse_pipeline.export.cut import cut
from muse_pipeline.inference.card import DENSITY, PIXELS
from muse_pipeline.inference.model import BUILT_IN, DENSITIES

LEAST_BYTES = 1024  # smaller arrays are copied


def cut_file(path: Path, output: Path) -> None:
    """Write the cut graph of the model ``path`` to ``output``, in the same folder."""
    model, content = cut(onnx.load(path)), path.read_bytes()
    for weights in model.graph.initializer:
        if len(values := weights.raw_data) >= LEAST_BYTES:
            set_external_data(weights, path.name, content.index(values), len(values))
            weights.ClearField("raw_data")
    output.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(output)


def write_densities(output: Path) -> None:
    """Write the graph with which every detector begins, in the order of its operations."""
    nodes = [
        helper.make_node("Cast", [PIXELS], ["value"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["value", "one"], ["light"]),
        helper.make_node("Mul", ["light", "scale"], ["transmitted"]),
        helper.make_node("Log", ["transmitted"], [DENSITY]),
    ]
    ports = [
        helper.make_tensor_value_info(name, kind, ["n"])
        for name, kind in ((PIXELS, TensorProto.UINT8), (DENSITY, TensorProto.FLOAT))
    ]
    numbers = [
        helper.make_tensor(*number)
        for number in (("one", 1, (), [1.0]), ("scale", 1, (), [1 / 256]))
    ]
    graph = helper.make_graph(nodes, DENSITY, ports[:1], ports[1:], numbers)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), output
    )


if __name__ == "__main__":
    write_densities(DENSITIES)
    for path in BUILT_IN.glob("*.cut"):
        cut_file(path.with_suffix(".onnx"), path)
