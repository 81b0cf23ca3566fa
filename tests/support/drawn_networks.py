"""Stand-ins for foreign networks: convolutions that find dark blobs, with outputs like StarDist,
HoVer-Net or U-Nets.

They expect 0.5 um/px and pixels from 0 to 1. Their second class of nuclei is the paler one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

RADIUS_PX, BLUR_PX = 6.6, 2.5
HALF = 10  # half the side of a kernel


class Drawing:
    """A graph built node by node; values are (B, C, H, W), but its inputs and outputs may have
    channels last.
    """

    def __init__(self, channels_first: bool, side: int | str = 256, valid: bool = False):
        shape = ["batch", 3, side, side] if channels_first else ["batch", side, side, 3]
        self.input = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
        self.nodes, self.weights, self.outputs, self.pad = [], [], [], 0 if valid else HALF
        self.channels_first = channels_first
        self.pixels = (
            "input" if channels_first else self.add("Transpose", ["input"], perm=[0, 3, 1, 2])
        )

    def add(self, operator: str, inputs: list, **attributes) -> str:
        name, names = f"v{len(self.nodes)}", []
        for each in inputs:
            names.append(each if isinstance(each, str) else f"w{len(self.weights)}")
            if not isinstance(each, str):
                weight = numpy_helper.from_array(np.asarray(each, np.float32), names[-1])
                self.weights.append(weight)
        self.nodes.append(helper.make_node(operator, names, [name], **attributes))
        return name

    def filter(self, kernel: np.ndarray, stride: int = 1) -> str:
        """Add a convolution of the darkness, which is the mean over channels of 1 - value."""
        weights = np.repeat(-kernel[None, None] / 3, 3, 1)
        how = {"pads": [self.pad] * 4, "strides": [stride] * 2}
        return self.add("Conv", [self.pixels, weights, [kernel.sum()]], **how)

    def linear(self, value: str, factor: float, offset: float) -> str:
        return self.add("Add", [self.add("Mul", [value, factor]), offset])

    def give(self, name: str, value: str) -> None:
        if not self.channels_first:
            value = self.add("Transpose", [value], perm=[0, 2, 3, 1])
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        sides = ["b", "c", "h", "w"]
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sides))

    def save(self, path: Path) -> Path:
        graph = helper.make_graph(self.nodes, "drawn", [self.input], self.outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


y, x = np.mgrid[-HALF : HALF + 1, -HALF : HALF + 1]
GAUSS = np.exp(-(x**2 + y**2) / (2 * BLUR_PX**2))
GAUSS /= GAUSS.sum()


def draw_stardist(
    path: Path, side: int | str = 256, classes: bool = True, radius_px: float = RADIUS_PX
) -> Path:
    """Write a StarDist network: channels last, maps at every second pixel, and round outlines."""
    net = Drawing(channels_first=False, side=side)
    dark = net.filter(GAUSS, stride=2)
    net.give("prob", net.add("Clip", [net.linear(dark, 1.2, 0.14), 0.0, 1.0]))
    rays = np.zeros((16, 1, 1, 1)), np.full(16, radius_px)
    net.give("dist", net.add("Conv", [dark, *rays]))
    if classes:  # read at nuclei's centres, the darkest part
        net.give("prob_class", classify(net, dark, level=0.52))
    return net.save(path)


def draw_hover(path: Path, names: tuple[str, str, str] = ("np", "hv", "tp")) -> Path:
    """Write a HoVer-Net: logits without the border of the window; positions are slopes of the
    blurred darkness.
    """
    net = Drawing(channels_first=True, valid=True)
    dark = net.filter(GAUSS)
    nucleus = net.linear(dark, 40, -12)
    net.give(names[2], net.add("Log", [classify(net, dark)]))
    net.give(names[0], net.add("Concat", [net.linear(nucleus, -1, 0), nucleus], axis=1))
    slopes = [net.filter(axis * GAUSS) for axis in (-x, -y)]
    slopes = net.linear(net.add("Concat", slopes, axis=1), 4, 0)
    net.give(names[1], net.add("Clip", [slopes, -1.0, 1.0]))
    return net.save(path)


def draw_cellvit(path: Path) -> Path:
    """Write a CellViT, whose maps are those of a HoVer-Net by other names."""
    return draw_hover(path, names=("nuclei_binary_map", "hv_map", "nuclei_type_map"))


def draw_hovernext(path: Path) -> Path:
    """Write a HoVer-NeXt, whose only output has positions, parts of nuclei and classes, as
    logits.
    """
    net = Drawing(channels_first=True)
    dark = net.filter(GAUSS)
    lines = [(0, 0), (0, 0), (-60, 18), (60, -22), (0, 0)]
    maps = [*(net.linear(dark, *line) for line in lines), net.add("Log", [classify(net, dark)])]
    net.give("output", net.add("Concat", maps, axis=1))
    return net.save(path)


def draw_cellpose(path: Path) -> Path:
    """Write a Cellpose network, whose flows are slopes of the blurred darkness."""
    net = Drawing(channels_first=True)
    flows = [
        net.add("Clip", [net.linear(net.filter(axis * GAUSS), 40, 0), -4.0, 4.0]) for axis in (y, x)
    ]
    net.give("output", net.add("Concat", [*flows, net.linear(net.filter(GAUSS), 40, -12)], axis=1))
    return net.save(path)


class TorchInstanSeg(torch.nn.Module):
    """The parts of InstanSeg's TorchScript file that are read: the network, and the classifier of
    pixels.
    """

    def __init__(self):
        super().__init__()
        self.fcn = torch.nn.Conv2d(3, 5, 2 * HALF + 1, padding=HALF)
        self.pixel_classifier = torch.nn.Sequential(
            torch.nn.Linear(4, 5), torch.nn.Linear(5, 5), torch.nn.Linear(5, 1)
        )
        kernels = np.stack([6 * x * GAUSS, 6 * y * GAUSS, 40 * GAUSS, 0 * GAUSS, 30 * GAUSS])
        first = ((1, 0, 0, 0), (-1, 0, 0, 0), (0, 1, 0, 0), (0, -1, 0, 0), (0, 0, -1, -1))
        values = (-np.repeat(kernels[:, None] / 3, 3, 1), kernels.sum((1, 2)) - (0, 0, 12, 0, 10))
        values += first, np.zeros(5), np.eye(5), np.zeros(5), [(-2, -2, -2, -2, -9)], [6]
        for parameter, value in zip(self.parameters(), values, strict=True):
            parameter.data = torch.tensor(np.asarray(value), dtype=torch.float32)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The maps, in place of the authors' search for nuclei."""
        return self.fcn(pixels)


def draw_instanseg(path: Path) -> Path:
    """Write InstanSeg's TorchScript file, with offsets that are slopes of the blurred darkness."""
    torch.jit.script(TorchInstanSeg()).save(str(path))
    return path


def draw_distance(path: Path) -> Path:
    """Write a U-Net whose distance map is the blurred darkness."""
    net = Drawing(channels_first=True)
    dark = net.filter(GAUSS)
    net.give("distance", dark)
    net.give("classes", classify(net, dark))
    return net.save(path)


def draw_boundary(path: Path) -> Path:
    """Write a U-Net whose boundary map is high where the darkness is between that of nuclei and of
    the background.
    """
    net = Drawing(channels_first=True)
    dark = net.filter(GAUSS)
    boundary = net.add("Abs", [net.linear(dark, 25, -8.5)])
    edge = net.add("Clip", [net.linear(boundary, -1, 1), 0.0, 1.0])
    net.give("maps", net.add("Concat", [classify(net, dark), edge], axis=1))
    return net.save(path)


def classify(net: Drawing, dark: str, level: float = 0.405) -> str:
    """(B, 3, h, w) probabilities of background, nuclei darker than ``level``, and paler nuclei."""
    background, very = net.linear(dark, -60, 18), net.linear(dark, 60, -60 * level)
    maps = net.add("Concat", [background, very, net.linear(dark, 0, 0)], axis=1)
    return net.add("Softmax", [maps], axis=1)


def draw_random(path: Path, outputs: dict[str, int]) -> Path:
    """Write a network with random weights, whose ``outputs`` have this number of channels each:
    rays around 12, and other maps around 0.
    """
    net, rng = Drawing(channels_first=True), np.random.default_rng(0)
    for name, n in outputs.items():
        weights = rng.normal(size=(n, 3, *x.shape))
        weights -= weights.mean((2, 3), keepdims=True)
        maps = [net.pixels, weights, np.full(n, 12.0 if name == "dist" else 0.0)]
        net.give(name, net.add("Conv", maps, pads=[HALF] * 4))
    return net.save(path)
