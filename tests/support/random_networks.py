"""Small networks with random weights and the outputs of third-party networks of a kind, for three
classes.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

OUTPUTS = {  # number of channels of each output
    "stardist": {"prob": 1, "dist": 32, "prob_class": 4},
    "hover": {"np": 2, "hv": 2, "tp": 4},
    "cellvit": {"nuclei_binary_map": 2, "hv_map": 2, "nuclei_type_map": 4},
    "hovernext": {"output": 9},
    "distance": {"classes": 4, "distance": 1},
    "boundary": {"maps": 5},
}


class RandomNetwork(torch.nn.Module):
    """Two layers; each map has a mean of 0 and a deviation of 2 in a window, and rays have a mean
    of 12.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.channels = list(OUTPUTS[kind].values())
        self.first = torch.nn.Conv2d(3, 16, 15, padding=7, padding_mode="replicate")
        n_maps = sum(self.channels)
        self.second = torch.nn.Conv2d(16, n_maps, 9, padding=4, padding_mode="replicate")
        self.means = [12.0 if name == "dist" else 0.0 for name in OUTPUTS[kind]]

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The maps of windows (B, 3, h, w)."""
        maps = self.second(torch.relu(self.first(pixels)))
        maps = 2 * (maps - maps.mean((2, 3), keepdim=True)) / maps.std((2, 3), keepdim=True)
        parts = zip(maps.split(self.channels, 1), self.means, strict=True)
        return [part + mean for part, mean in parts]


def write_random_network(kind: str, path: Path) -> Path:
    """Write a network as ONNX."""
    torch.manual_seed(0)
    network, pixels = RandomNetwork(kind).eval(), torch.rand(1, 3, 256, 256)
    how = {"output_names": list(OUTPUTS[kind]), "dynamo": False}
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        torch.onnx.export(network, (pixels,), str(path), **how)
    return path
