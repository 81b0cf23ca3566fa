"""The backbone of a detector's ONNX file: the same graph up to its head, with the dense map as its only output.

An ONNX file is a message of Protocol Buffers (https://protobuf.dev/programming-guides/encoding). Nodes are in the order
in which they are computed, so those before the head are all that the dense map needs. The file is cut here field by
field, because the package `onnx` is installed for training alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from muse_pipeline.core.errors import ModelError

HEAD = "detector.head."  # how names of the head's weights begin, see ``models.detector.DetectionGraph``
# Numbers of fields in onnx.proto.
GRAPH, NODE, OUTPUT = 7, 1, 12  # of a model; of its graph
INPUTS, OUTPUTS, OPERATOR, NAME = 1, 2, 4, 1  # of a node; of an output
LENGTH_DELIMITED = 2
FIXED_BYTES = {1: 8, 5: 4}


def cut_before_head(model: bytes, output: str, path: Path) -> bytes:
    """The model with one output, the map that its head reads at the centres of cells.

    Args:
        model: a detector in ONNX.
        output: name of the output.
        path: for messages.

    Raises:
        ModelError: no node of the graph reads weights of a head.
    """
    graph = next(content for number, content, _ in _fields(model) if number == GRAPH)
    before, dense = [], b""
    for number, content, whole in _fields(graph):
        if number == NODE and not dense:
            dense = _map_for_head(content)
        if number not in {NODE, OUTPUT} or (number == NODE and not dense):
            before.append(whole)
    if not dense:
        raise ModelError(
            f"{path}: its graph has no weights named {HEAD}..., so its features cannot be read; use `muse embed "
            "--checkpoint` with the checkpoint that it was exported from"
        )
    name = output.encode()
    rename = _field(INPUTS, dense) + _field(OUTPUTS, name) + _field(OPERATOR, b"Identity")
    cut = b"".join([*before, _field(NODE, rename), _field(OUTPUT, _field(NAME, name))])
    return b"".join(whole for number, _, whole in _fields(model) if number != GRAPH) + _field(GRAPH, cut)


def _map_for_head(node: bytes) -> bytes:
    """Name of a node's first input if its others are weights of the head, and it is none itself; else b""."""
    first, *weights = [content for number, content, _ in _fields(node) if number == INPUTS] or [b""]
    head = HEAD.encode()
    return first if not first.startswith(head) and any(name.startswith(head) for name in weights) else b""


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number and content of every field, and the field itself; numbers have no content."""
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
    """A number of seven bits per byte, least first, and where the next one begins."""
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
