"""Cut the graph in an ONNX file: remove the head of a detector, or split off elementwise operations on pixels.

An ONNX file is a Protocol Buffers message (https://protobuf.dev/programming-guides/encoding), with its nodes in the
order of their computation. The file is cut field by field, because the package `onnx` is installed only for training.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from muse_pipeline.core.errors import ModelError

HEAD = "detector.head."  # prefix of the head's weights, see ``models.detector.DetectionGraph``
PIXELS = b"pixels"  # name of the input
OF_SINGLE_VALUES = {b"Cast", b"Add", b"Sub", b"Mul", b"Div", b"Log", b"Neg"}  # elementwise; other inputs are scalars
ONLY_THE_SIZE = b"Shape"  # operator that reads only the size of its input
# Field numbers in onnx.proto; a comment names the message that contains the fields.
GRAPH, METADATA = 7, 14  # model
NODE, GRAPH_NAME, INITIALIZER, INPUT, OUTPUT = 1, 2, 5, 11, 12  # graph
INPUTS, OUTPUTS, OPERATOR = 1, 2, 4  # node
NAME, TYPE = 1, 2  # input or output
KEY, VALUE = 1, 2  # entry of the metadata
TENSOR, ELEMENT = 1, 1  # type; tensor type
DIMENSION, INITIALIZER_NAME = 1, 8  # initializer
FLOAT, UINT8 = 1, 2  # element types
# Wire types, which state how the content of a field is encoded.
VARINT, LENGTH_DELIMITED = 0, 2
FIXED_BYTES = {1: 8, 5: 4}


def add_metadata(model: bytes, key: str, value: str) -> bytes:
    """The model with one more entry in its metadata; the graph is unchanged."""
    # Fields of a message may have any order, so an entry can be appended to the file.
    return model + _field(METADATA, _field(KEY, key.encode()) + _field(VALUE, value.encode()))


def cut_before_head(model: bytes, output: str, path: Path) -> bytes:
    """The model with a single output: the dense map, which its head reads at the centres of cells.

    Args:
        model: content of a detector in ONNX.
        output: name of the output.
        path: path of the file, for messages.
    """
    before, dense = [], b""
    for number, content, whole in _fields(_graph_of(model)):
        if number == NODE and not dense:
            dense = _map_for_head(content)
        # Weights of the head stay in the file; ONNX Runtime drops those that no node reads.
        if number not in {NODE, OUTPUT} or (number == NODE and not dense):
            before.append(whole)
    if not dense:
        raise ModelError(
            f"{path}: its graph has no weights named {HEAD}..., so it has no embeddings; leave them out, or run `muse "
            "embed --checkpoint` with the checkpoint that it was exported from"
        )
    name = output.encode()
    return _with_graph(model, [*before, _identity(dense, name), _field(OUTPUT, _field(NAME, name))])


def cut_after_single_values(model: bytes) -> tuple[bytes, bytes] | None:
    """Split a graph into two models: the elementwise operations on pixels, and all later operations.

    ONNX Runtime passes over all pixels once for each operation; looking up the results in a table takes a single pass.

    Args:
        model: content of a model in ONNX, with ``pixels`` in uint8.

    Returns:
        A model that maps ``pixels`` of any shape to float32 values, and a model that takes these values as ``pixels``;
        None if there is nothing to split off. ONNX Runtime rejects both models if the values between them are not
        float32.
    """
    parts = list(_fields(_graph_of(model)))
    nodes = {content: _contents(content, INPUTS) for number, content, _ in parts if number == NODE}
    scalars = {_name_of_scalar(content) for number, content, _ in parts if number == INITIALIZER}
    ends = {name for number, content, _ in parts if number == OUTPUT for name in _contents(content, NAME)}
    chain, value = [], PIXELS
    while value not in ends and (node := _only_reader(nodes, value, scalars)):
        chain.append(node)
        (value,) = _contents(node, OUTPUTS)
    if not chain:
        return None
    known = [whole for number, content, whole in parts if number == INITIALIZER and _name_of_scalar(content)]
    ports = _field(INPUT, _port(PIXELS, UINT8)), _field(OUTPUT, _port(value, FLOAT))
    first = _with_graph(model, [*(_field(NODE, node) for node in chain), _field(GRAPH_NAME, b"values"), *known, *ports])
    rest = [_identity(PIXELS, value)]
    for number, content, whole in parts:
        if number == INPUT and _contents(content, NAME) == [PIXELS]:
            rest.append(_field(INPUT, _of_floats(content)))
        # Names of outputs are unique in a graph, so no other node has the same bytes.
        elif number != NODE or content not in chain:
            rest.append(whole)
    return first, _with_graph(model, rest)


def _map_for_head(node: bytes) -> bytes:
    """Name of a node's first input, if the node applies weights of the head to this input; otherwise b""."""
    first, *weights = _contents(node, INPUTS) or [b""]
    head = HEAD.encode()
    return first if not first.startswith(head) and any(name.startswith(head) for name in weights) else b""


def _only_reader(nodes: dict[bytes, list[bytes]], value: bytes, scalars: set[bytes]) -> bytes:
    """The only node that reads ``value``, if this node combines ``value`` elementwise with ``scalars``; else b""."""
    readers = [node for node, inputs in nodes.items() if value in inputs]
    if value == PIXELS:  # remains an input of the later operations, which may read its size
        readers = [node for node in readers if _operator(node) != ONLY_THE_SIZE]
    if len(readers) != 1 or _operator(readers[0]) not in OF_SINGLE_VALUES:
        return b""
    others = [name for name in nodes[readers[0]] if name != value]
    return readers[0] if scalars.issuperset(others) else b""


def _operator(node: bytes) -> bytes:
    return b"".join(_contents(node, OPERATOR))


def _name_of_scalar(initializer: bytes) -> bytes:
    """Name of an initializer that is a scalar; b"" for arrays."""
    fields = list(_fields(initializer))
    is_array = any(number == DIMENSION for number, _, _ in fields)
    return b"" if is_array else b"".join(content for number, content, _ in fields if number == INITIALIZER_NAME)


def _identity(source: bytes, name: bytes) -> bytes:
    """An identity node that renames ``source``."""
    return _field(NODE, _field(INPUTS, source) + _field(OUTPUTS, name) + _field(OPERATOR, b"Identity"))


def _port(name: bytes, element: int) -> bytes:
    """An input or output of any shape."""
    return _field(NAME, name) + _field(TYPE, _field(TENSOR, _varint_field(ELEMENT, element)))


def _of_floats(port: bytes) -> bytes:
    """The same input with float32 elements."""
    (tensor,) = _contents(b"".join(_contents(port, TYPE)), TENSOR)
    shape = b"".join(whole for number, _, whole in _fields(tensor) if number != ELEMENT)
    (name,) = _contents(port, NAME)
    return _field(NAME, name) + _field(TYPE, _field(TENSOR, _varint_field(ELEMENT, FLOAT) + shape))


def _graph_of(model: bytes) -> bytes:
    return b"".join(_contents(model, GRAPH))


def _with_graph(model: bytes, parts: Iterable[bytes]) -> bytes:
    """The model with its graph replaced by one that has these fields."""
    return b"".join(whole for number, _, whole in _fields(model) if number != GRAPH) + _field(GRAPH, b"".join(parts))


def _contents(message: bytes, wanted: int) -> list[bytes]:
    """Contents of all fields with the number ``wanted``."""
    return [content for number, content, _ in _fields(message) if number == wanted]


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the number, the content and all bytes of every field; the content of an integer is left empty."""
    at = 0
    while at < len(message):
        start = at
        key, at = _read_varint(message, at)
        content = b""
        if key & 7 == LENGTH_DELIMITED:
            length, at = _read_varint(message, at)
            content = message[at : at + length]
            at += length
        elif key & 7 in FIXED_BYTES:
            at += FIXED_BYTES[key & 7]
        else:
            _, at = _read_varint(message, at)
        yield key >> 3, content, message[start:at]


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    """A number stored in seven bits per byte, lowest first, and the position after it."""
    value = shift = 0
    while message[at] & 128:
        value |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint_field(number: int, value: int) -> bytes:
    """A field that contains an integer."""
    return _varint(number << 3 | VARINT) + _varint(value)
