"""Cut the graph of a detector: it starts from optical densities, and also returns the map that its
head reads.
"""

from __future__ import annotations

import copy

import onnx

from muse_pipeline.inference.card import DENSE, DENSITY, PIXELS

HEAD = "detector.head."  # prefix of the head's weights, see ``models.detector.DetectionGraph``


def cut(whole: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the input ``density`` in place of ``pixels``, and with the output ``dense``;
    results do not change.

    ONNX Runtime computes densities in four passes over all pixels, and a table in one.
    """
    model = copy.deepcopy(whole)
    graph = model.graph
    makers = {output: node for node in graph.node for output in node.output}
    # later ones belong to the head
    of_density = [next(node for node in graph.node if node.op_type == "Log")]
    while (value := of_density[-1].input[0]) != PIXELS:
        of_density.append(makers[value])
    for node in of_density:
        graph.node.remove(node)
    of_head = (
        node.input[0] for node in graph.node if any(name.startswith(HEAD) for name in node.input)
    )
    dense = next(name for name in of_head if not name.startswith(HEAD))
    names = {PIXELS: DENSITY, of_density[0].output[0]: DENSITY, dense: DENSE}
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    # Without the types of the other values, ONNX Runtime optimises the graph differently.
    for value in graph.value_info:
        value.name = names.get(value.name, value.name)
    port = next(port for port in graph.input if port.name == PIXELS)
    port.name = DENSITY
    port.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    graph.output.append(next(value for value in inferred if value.name == DENSE))
    return model
