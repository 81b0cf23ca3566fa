"""Several detectors as one."""

import pytest
import torch

from muse_pipeline.models.detector import DetectionGraph, NucleusDetector
from muse_pipeline.models.ensemble import average_detectors

N_CLASSES, N_RAYS = 3, 8
THRESHOLD = 0.01


def detector(seed: int, head: str = "dense") -> NucleusDetector:
    torch.manual_seed(seed)
    made = NucleusDetector("muse_compact_16", head, N_CLASSES, N_RAYS).eval()
    torch.nn.init.normal_(made.head.out.weight, std=0.5)  # so that nuclei are found
    return made


@pytest.fixture(scope="module")
def window():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8), torch.eye(3, 4)


@torch.inference_mode()
def test_what_an_ensemble_says_is_the_mean(window):
    members = [detector(seed) for seed in range(3)]
    together = average_detectors(members)(*window)
    for name in together._fields:
        mean = torch.stack([getattr(member(*window), name) for member in members]).mean(0)
        torch.testing.assert_close(getattr(together, name), mean)


@torch.inference_mode()
def test_an_ensemble_of_one_network_twice_finds_what_it_finds(window):
    one = detector(0)
    alone = DetectionGraph(one, THRESHOLD, 5, embed=True)(*window)
    twice = DetectionGraph(average_detectors([one, one]), THRESHOLD, 5, embed=True)(*window)
    assert (alone[1] > THRESHOLD).all()
    for expected, found in zip(alone[:4], twice[:4], strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(twice[4], torch.cat([alone[4], alone[4]], 2))
