"""PyTorch as a runtime for model files: it runs the graph of an ONNX file operator by operator, on a GPU or the CPU.

``TorchSession`` stands in for ``onnxruntime.InferenceSession``. Operators follow the ONNX specification
(https://onnx.ai/onnx/operators), as far as the graphs of this package need them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

ACCELERATORS = ("cuda", "xpu", "mps")  # PyTorch calls ROCm "cuda" too
KEPT_PROGRAMS = 32  # number of programs that are kept, one for each size of the inputs

DTYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
}


class UnsupportedOperatorError(NotImplementedError):
    """Raised for a graph with an operator, or a variant of one, that this runtime lacks."""


def find_device(provider: str) -> torch.device | None:
    """The device of provider "torch" (the first accelerator) or "torch-cpu"; None if there is no accelerator."""
    if provider == "torch-cpu":
        return torch.device("cpu")
    usable = {"cuda": torch.cuda, "xpu": getattr(torch, "xpu", None), "mps": torch.backends.mps}
    return next((torch.device(name) for name in ACCELERATORS if usable[name] and usable[name].is_available()), None)


@dataclass(frozen=True)
class Port:
    """An input or output of a graph; sizes that the graph leaves open are strings."""

    name: str
    shape: list[int | str]


@dataclass(frozen=True)
class Metadata:
    """Metadata of a file, in an attribute that is named as in ONNX Runtime."""

    custom_metadata_map: dict[str, str]


@dataclass
class Step:
    """One operator of a program.

    Attributes:
        operator: function from ``OPERATORS``.
        attributes: attributes of the node.
        arguments: constants, names of computed values, or None for an argument that the node leaves out.
        results: names of the results.
        unused: names of values that no later step reads.
    """

    operator: Callable[..., Tensor | tuple[Tensor, ...]]
    attributes: dict[str, Any]
    arguments: list[Tensor | str | None]
    results: list[str]
    unused: list[str] = field(default_factory=list)

    def run(self, values: dict[str, Tensor]) -> None:
        """Add the results to ``values``."""
        arguments = [values[each] if isinstance(each, str) else each for each in self.arguments]
        found = self.operator(self.attributes, *arguments)
        values.update(zip(self.results, found if isinstance(found, tuple) else (found,), strict=False))
        for name in self.unused:
            del values[name]


class Program:
    """A graph for inputs of fixed sizes: what depends only on sizes and weights is computed once, the rest in each run.

    Args:
        session: session of the graph.
        given: inputs by name, on which the graph is run to find its steps.
    """

    def __init__(self, session: TorchSession, given: dict[str, Tensor]):
        self.steps: list[Step] = []
        self.inputs = {name: values.to(session.device, copy=True) for name, values in given.items()}
        fixed, values = dict(session.initial), dict(self.inputs)
        for node in session.nodes:
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            if attributes.get("to") == onnx.TensorProto.FLOAT16 and not session.half:
                attributes["to"] = onnx.TensorProto.FLOAT
            half = session.half and node.op_type == "Conv" and node.input[1] in fixed
            arguments: list[Tensor | str | None] = []
            for position, name in enumerate(node.input):
                # The inputs of a program have fixed sizes, so the result of "Shape" is a constant, although its
                # argument is a computed value.
                if name in values and node.op_type != "Shape":
                    arguments.append(name)
                elif name in values or not name:
                    arguments.append(values.get(name))
                elif position in HOST_ARGUMENTS.get(node.op_type, ()):
                    arguments.append(fixed[name])
                else:
                    arguments.append(fixed[name].to(session.device, torch.float16 if half else None))
            is_fixed = not any(isinstance(each, str) for each in arguments)
            if is_fixed:
                # Constants are computed on the host from the file's values, before these are moved to the device or
                # converted to 16 bits.
                arguments = [fixed.get(name, values.get(name)) for name in node.input]
            step = Step(OPERATORS[node.op_type], attributes, arguments, list(node.output))
            step.run(fixed if is_fixed else values)
            if not is_fixed:
                self.steps.append(step)
        outputs = {port.name for port in session.get_outputs()}
        self.outputs = {name: fixed[name].to(session.device) for name in outputs & fixed.keys()}
        for step in reversed(self.steps):
            named = [each for each in (*step.arguments, *step.results) if isinstance(each, str) and each]
            step.unused = [name for name in dict.fromkeys(named) if name not in outputs]
            outputs.update(named)
        self.captured = None

    def run(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run the steps on ``inputs`` and return the outputs by name, in 32 bits, on the device."""
        values = {**inputs, **self.outputs}
        for step in self.steps:
            step.run(values)
        return {name: each.float() if each.dtype == torch.float16 else each for name, each in values.items()}

    def capture(self) -> None:
        """Record the steps as one CUDA graph, which a single call starts."""
        # Before a capture, PyTorch requires a run on a different stream, in which libraries choose algorithms and
        # allocate memory.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.run(self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.captured):
            self._captured = self.run(self.inputs)

    def replay(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of ``run`` for inputs that are not on the device yet."""
        for name, values in given.items():
            # A captured graph reads its inputs from the memory that they had at the capture.
            self.inputs[name].copy_(values)
        if self.captured is None:
            return self.run(self.inputs)
        self.captured.replay()
        return self._captured


class TorchSession:
    """Runs a model file in PyTorch; safe to call from several threads, which take turns on an accelerator.

    On an accelerator, convolutions are computed in 16 bits and everything else in 32; algorithms are deterministic, so
    results on the same GPU are always the same.

    Args:
        path: path of the ONNX file.
        device: device that runs it.
        graph: graph derived from that of the file, to run instead; None to run the file's own graph.

    Raises:
        UnsupportedOperatorError: the graph has an operator that this runtime lacks.
        ValueError: the file is not ONNX.
    """

    def __init__(self, path: Path, device: torch.device, graph: bytes | None = None):
        try:
            model = onnx.load_model_from_string(graph) if graph else onnx.load(str(path))
        except Exception as error:  # errors of Protocol Buffers have no common base class
            raise ValueError("not an ONNX file") from error
        self.device, self.half = device, device.type != "cpu"
        self.device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self.nodes = list(model.graph.node)
        if missing := sorted({node.op_type for node in self.nodes} - OPERATORS.keys()):
            raise UnsupportedOperatorError(f"this runtime has no operator {', '.join(missing)}")
        self.initial = {each.name: self._to_tensor(each) for each in model.graph.initializer}
        self._metadata = {entry.key: entry.value for entry in model.metadata_props}
        self._inputs = [_port(port) for port in model.graph.input if port.name not in self.initial]
        self._outputs = [_port(port) for port in model.graph.output]
        self.programs: dict[tuple, Program] = {}
        self._lock = threading.Lock()
        if device.type == "cpu":
            torch.set_num_threads(1)  # several threads may call ``run``

    def _to_tensor(self, initializer: onnx.TensorProto) -> Tensor:
        tensor = torch.from_numpy(numpy_helper.to_array(initializer).copy())
        return tensor.float() if tensor.dtype == torch.float16 and not self.half else tensor  # CPUs use 32 bits

    def get_inputs(self) -> list[Port]:
        """Ports of the graph's inputs."""
        return self._inputs

    def get_outputs(self) -> list[Port]:
        """Ports of the graph's outputs."""
        return self._outputs

    def get_modelmeta(self) -> Metadata:
        """Metadata of the file."""
        return Metadata(self._metadata)

    def run(self, outputs: Sequence[str] | None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The named outputs, or all of them, for ``inputs`` by name."""
        names = outputs or [port.name for port in self._outputs]
        given = {name: torch.from_numpy(np.require(values, requirements="CW")) for name, values in inputs.items()}
        with torch.inference_mode(), torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            with self._lock:
                program = self._program(given)
                # On an accelerator, all calls share the inputs and outputs of a program, so the lock is held until the
                # outputs are copied.
                if self.device.type != "cpu":
                    found = program.replay(given)
                    return [found[name].cpu().numpy() for name in names]
            found = program.run(given)
            return [found[name].numpy() for name in names]

    def _program(self, given: dict[str, Tensor]) -> Program:
        key = tuple((name, tuple(values.shape)) for name, values in given.items())
        if key not in self.programs:
            if len(self.programs) >= KEPT_PROGRAMS:
                del self.programs[next(iter(self.programs))]
            program = self.programs[key] = Program(self, given)
            if self.device.type == "cuda":
                program.capture()
        return self.programs[key]


def _port(port: onnx.ValueInfoProto) -> Port:
    sizes = port.type.tensor_type.shape.dim
    return Port(port.name, [each.dim_value if each.HasField("dim_value") else each.dim_param for each in sizes])


def _conv(a: dict, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x = x.to(weight.dtype)
    pads = a.get("pads", [0] * 4)
    if pads[:2] != pads[2:]:
        x, pads = functional.pad(x, [pads[1], pads[3], pads[0], pads[2]]), [0] * 4
    return functional.conv2d(
        x, weight, bias, a.get("strides", 1), tuple(pads[:2]), a.get("dilations", 1), a.get("group", 1)
    )


def _pool(function: Callable, *switches: str) -> Callable:
    def pool(a: dict, x: Tensor) -> Tensor:
        pads = a.get("pads", [0] * 4)
        if pads[:2] != pads[2:] or a.get("ceil_mode") or any(step != 1 for step in a.get("dilations", [])):
            raise UnsupportedOperatorError("pooling with uneven padding, rounding up or dilation")
        chosen = {name: bool(a.get(name)) for name in switches}
        return function(x, a["kernel_shape"], a.get("strides", [1, 1]), tuple(pads[:2]), **chosen)

    return pool


def _resize(a: dict, x: Tensor, _roi: Any, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
    rule = a.get("mode", b"nearest"), a.get("coordinate_transformation_mode", b"half_pixel")
    modes = {
        (b"linear", b"half_pixel"): {"mode": "bilinear", "align_corners": False},
        (b"linear", b"align_corners"): {"mode": "bilinear", "align_corners": True},
        (b"cubic", b"half_pixel"): {"mode": "bicubic", "align_corners": False},
        (b"nearest", b"asymmetric"): {"mode": "nearest"},
        (b"nearest", b"half_pixel"): {"mode": "nearest-exact"},
    }
    if rule not in modes:
        raise UnsupportedOperatorError(f"Resize with mode {rule[0].decode()}, {rule[1].decode()}")
    if sizes is None:
        sizes = (torch.tensor(x.shape) * scales).floor().long()
    return functional.interpolate(x, tuple(sizes.tolist()[2:]), **modes[rule])


def _slice(
    _a: dict, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    count = len(starts)
    axes = range(count) if axes is None else axes.tolist()
    steps = [1] * count if steps is None else steps.tolist()
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _gather(a: dict, x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.ndim
    index = torch.where(index < 0, index + x.shape[axis], index)
    picked = x.index_select(axis, index.flatten())
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_nd(a: dict, x: Tensor, index: Tensor) -> Tensor:
    if a.get("batch_dims"):
        raise UnsupportedOperatorError("GatherND with batch_dims")
    return x[tuple(index.unbind(-1))]


def _reshape(a: dict, x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    if not a.get("allowzero"):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _squeeze(_a: dict, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze(tuple(axes.tolist())) if axes is not None else x.squeeze()


def _unsqueeze(_a: dict, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _reduce(function: Callable) -> Callable:
    def reduce(a: dict, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = a.get("axes") if axes is None else axes.tolist()
        return function(x, tuple(chosen) if chosen else tuple(range(x.ndim)), bool(a.get("keepdims", 1)))

    return reduce


def _top_k(a: dict, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The largest or smallest values, sorted stably: equal values keep their order, as ONNX requires."""
    axis = a.get("axis", -1)
    values, index = torch.sort(x, dim=axis, descending=bool(a.get("largest", 1)), stable=True)
    return values.narrow(axis, 0, int(k)), index.narrow(axis, 0, int(k))


def _divide(_a: dict, x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _pad(a: dict, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    if a.get("mode", b"constant") != b"constant":
        raise UnsupportedOperatorError(f"Pad with mode {a['mode'].decode()}")
    amounts = pads.tolist()
    axes = [axis % x.ndim for axis in (range(x.ndim) if axes is None else axes.tolist())]
    sides = {axis: pair for axis, *pair in zip(axes, amounts[: len(axes)], amounts[len(axes) :], strict=True)}
    flat = [each for axis in reversed(range(x.ndim)) for each in sides.get(axis, (0, 0))]
    return functional.pad(x, flat, value=0 if value is None else value.item())


def _clip(_a: dict, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x.clamp(None if low is None else low.item(), None if high is None else high.item())


def _shape(a: dict, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[a.get("start", 0) : a.get("end")], dtype=torch.int64)


def _layer_norm(a: dict, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = a.get("axis", -1) % x.ndim
    return functional.layer_norm(x, x.shape[axis:], scale, bias, a.get("epsilon", 1e-5))


def _split(a: dict, x: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
    return x.split(sizes.tolist(), a.get("axis", 0))


def _expand(_a: dict, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape.tolist())))


OPERATORS: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    **{
        name: lambda _a, *tensors, function=function: function(*tensors)
        for name, function in {
            "Abs": torch.abs,
            "Add": torch.add,
            "And": torch.logical_and,
            "Equal": torch.eq,
            "Erf": torch.erf,
            "Exp": torch.exp,
            "Floor": torch.floor,
            "Greater": torch.gt,
            "GreaterOrEqual": torch.ge,
            "Identity": lambda x: x,
            "Less": torch.lt,
            "LessOrEqual": torch.le,
            "Log": torch.log,
            "MatMul": lambda x, y: x.to(y.dtype) @ y if y.dtype.is_floating_point else x @ y,
            "Max": lambda *x: torch.stack(torch.broadcast_tensors(*x)).amax(0),
            "Min": lambda *x: torch.stack(torch.broadcast_tensors(*x)).amin(0),
            "Mul": torch.mul,
            "Neg": torch.neg,
            "Not": torch.logical_not,
            "Pow": torch.pow,
            "Reciprocal": torch.reciprocal,
            "Relu": torch.relu,
            "Sigmoid": torch.sigmoid,
            "Sqrt": torch.sqrt,
            "Sub": torch.sub,
            "Tanh": torch.tanh,
            "Where": torch.where,
        }.items()
    },
    "AveragePool": _pool(functional.avg_pool2d, "count_include_pad"),
    "Cast": lambda a, x: x.to(DTYPES[a["to"]]),
    "Clip": _clip,
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "Conv": _conv,
    "Div": _divide,
    "Expand": _expand,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gelu": lambda a, x: functional.gelu(x, approximate=a.get("approximate", b"none").decode()),
    "LayerNormalization": _layer_norm,
    "MaxPool": _pool(functional.max_pool2d),
    "Pad": _pad,
    "Range": lambda _a, start, end, step: torch.arange(start.item(), end.item(), step.item()).to(start.dtype),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
    "Split": _split,
    "Squeeze": _squeeze,
    "TopK": _top_k,
    "Transpose": lambda a, x: x.permute(a.get("perm", list(reversed(range(x.ndim))))),
    "Unsqueeze": _unsqueeze,
}
# Positions of arguments that are sizes or bounds and stay in host memory.
HOST_ARGUMENTS = {
    "Clip": (1, 2),
    "Expand": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceSum": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "TopK": (1,),
    "Unsqueeze": (1,),
}
