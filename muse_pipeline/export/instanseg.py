"""Conversion of InstanSeg's TorchScript file to an ONNX file and the weights of its pixel
classifier.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from muse_pipeline.core.errors import ModelError

INPUT_PX = 512


def convert_instanseg(
    source: Path, target: Path, input_px: int | None
) -> tuple[tuple[float, ...], ...]:
    """Write the network in a TorchScript file as ONNX, and return the weights and biases of the
    pixel classifier.

    The file also contains the search for nuclei in the network's maps, which ONNX cannot express;
    ``inference.families.instanseg`` does it instead.
    """
    side = input_px or INPUT_PX
    with warnings.catch_warnings():
        # PyTorch calls TorchScript, and the exporter that reads it, outdated
        warnings.simplefilter("ignore")
        try:
            parts = torch.jit.load(str(source), map_location="cpu").eval()
            network, classifier = parts.fcn, parts.pixel_classifier
        except (RuntimeError, AttributeError, ValueError) as error:
            raise ModelError(
                f"{source}: cannot be read as InstanSeg; give the path of `instanseg.pt`"
            ) from error
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, side, side),),
            str(target),
            output_names=["maps"],
            dynamo=False,
        )
    return tuple(tuple(part.flatten().tolist()) for part in classifier.parameters())
