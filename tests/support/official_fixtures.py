"""The MUSE parity fixtures next to the checkout: how to generate weights, and the authors' results
with them.
"""

from __future__ import annotations

import csv
import functools
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone, Features, Lattice, interpolate_at
from muse_pipeline.models.weights import backbone_weights, load_weights

FOLDER = (
    Path(os.environ.get("MUSE_SHARED", Path(__file__).parents[3] / "shared")) / "reference/muse"
)
needs_fixtures = pytest.mark.skipif(
    not FOLDER.is_dir(),
    reason=f"no parity fixtures at {FOLDER}: set MUSE_SHARED to the folder that holds reference/",
)


@functools.lru_cache(maxsize=1)
def make_teacher(variant: str) -> dict[str, Tensor]:
    """Random weights with the names of a released file; each is seeded with its name and compared
    with a record.
    """
    teacher = {}
    with (FOLDER / f"keys_{variant}.tsv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            values = _draw(row["key"], row["shape"])
            assert np.isclose(values.flat[0], float(row["first_value"]), atol=1e-8), row["key"]
            assert np.isclose(values.sum(dtype=np.float64), float(row["sum_float64"]), atol=1e-4), (
                row["key"]
            )
            teacher[row["key"]] = torch.from_numpy(values)
    return teacher


def _draw(key: str, shape_text: str) -> np.ndarray:
    shape = () if shape_text == "scalar" else tuple(int(side) for side in shape_text.split("x"))
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("running_var"):
        noise = 1 + 0.1 * np.abs(noise)
    elif key.endswith(("pos_embed", "cls_token")):
        noise = 0.5 * noise
    elif len(shape) >= 2:
        noise = noise / np.sqrt(np.prod(shape[1:]))
    elif key.endswith(".weight"):
        noise = 1 + 0.1 * noise
    else:
        noise = 0.1 * noise
    return noise.astype(np.float32)


def load_official(variant: str, backbone: str, always_resample: bool = True) -> Backbone:
    """A registered backbone with the weights from ``make_teacher``, loaded as if from a released
    file.
    """
    path = Path(f"{variant}.pth")
    network = BACKBONES[backbone]().eval()
    load_weights(
        network, backbone_weights({"teacher": make_teacher(variant)}, path), path, always_resample
    )
    return network


def official_pixels(side: int) -> Tensor:
    """(1, 3, side, side) uint8: the pixels for which the fixtures contain results."""
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return torch.from_numpy(image).permute(2, 0, 1)[None]


@torch.inference_mode()
def run_backbone(network: Backbone, side: int) -> Features:
    return network(network.prepare(official_pixels(side), torch.eye(3, 4)))


def deviations(
    features: Features, expected: dict[str, np.ndarray], lattice: Lattice
) -> tuple[float, float]:
    """Largest differences in the map and in the nuclei's vectors, in standard deviations of the
    expected values.
    """
    step = int(expected["feature_map_step"])
    of_map = np.abs(features.dense[..., ::step, ::step].numpy() - expected["feature_map_sub"]).max()
    nuclei = interpolate_at(features.dense, torch.from_numpy(expected["coords_xy"])[None], lattice)[
        0
    ].numpy()
    of_nuclei = np.abs(nuclei - expected["nucleus_features"]).max()
    return of_map / float(expected["feature_map_std"]), of_nuclei / expected[
        "nucleus_features"
    ].std()


def load_expected(variant: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"expected_{variant}.npz") as arrays:
        return dict(arrays)
