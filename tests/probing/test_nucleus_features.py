import math

import numpy as np
import pytest
import torch

from muse_pipeline.data.nucleus_images import NucleusIndex, NucleusPicture
from muse_pipeline.models.base import Backbone, Features, optical_density
from muse_pipeline.probing.compare_tissue import Variation, choose_nuclei, nucleus_features, stain_change
from muse_pipeline.probing.neighbours import recognised, stability
from muse_pipeline.tissue.stain import IDENTITY, ROUNDED_TEXTBOOK

SIDE, CPU = 480, torch.device("cpu")


class PositionByColour(Backbone):
    """Reads the position of a pixel from its colour: red as an angle, and green."""

    channels, image_channels, stride_px = 4, 1, 4

    def prepare(self, pixels, colour):
        return pixels

    def forward(self, image):
        angle = torch.nn.functional.avg_pool2d(image[:, :2], 4) / 255 * (math.pi / 2)
        return Features(torch.cat([angle.cos(), angle.sin()], 1), angle.mean((2, 3)))


@pytest.fixture(scope="module")
def picture():
    """Red is x and green is y, over two; nuclei at least 24 px apart, some at the border."""
    y, x = np.mgrid[:SIDE, :SIDE]
    pixels = np.stack([x // 2, y // 2, np.zeros_like(x)], -1).astype(np.uint8)
    at = np.stack(np.meshgrid(np.arange(8, SIDE, 32), np.arange(8, SIDE, 32)), -1).reshape(-1, 2).astype(float)
    at += np.random.default_rng(0).uniform(-4, 4, at.shape)
    index = NucleusIndex.build(at, (SIDE, SIDE), 0.5)
    return NucleusPicture("position", "p", 0.5, (SIDE, SIDE), None, 1.0, pixels, index)


@pytest.mark.parametrize(
    "variation",
    [
        Variation(0.5),
        Variation(1.0),
        Variation(0.7),
        Variation(0.5, mirror=True),
        Variation(0.5, turns=1),
        Variation(0.5, mirror=True, turns=3),
    ],
    ids=str,
)
def test_every_view_is_at_the_same_nuclei(picture, variation):
    xy = np.asarray(picture.nuclei.xy, float)
    plain, seen = (
        nucleus_features(PositionByColour(), picture, xy, one, IDENTITY, 96, CPU) for one in (Variation(0.5), variation)
    )
    angle = torch.atan2(seen[:, 2:], seen[:, :2]).numpy() / (math.pi / 2) * 255 * 2
    inside = ((xy > 12) & (xy < SIDE - 12)).all(1)
    assert np.abs(angle - (xy - 0.5))[inside].max() < 2.5  # px of the picture; a level of colour is two
    assert (recognised(plain, seen) == 100).all()
    assert (stability(plain, seen)[0] == 100).all()


def test_nuclei_are_chosen_field_by_field(picture):
    few = choose_nuclei(picture.nuclei, 96.0, 1000, np.random.default_rng(0))
    assert len(few) == 15**2
    chosen = choose_nuclei(picture.nuclei, 96.0, 40, np.random.default_rng(0))
    assert len(chosen) == 40
    assert len(np.unique(chosen, axis=0)) == 40
    assert len(np.unique(np.floor(chosen / 96), axis=0)) <= 6  # 9 lie in a whole field
    again = choose_nuclei(picture.nuclei, 96.0, 40, np.random.default_rng(0))
    assert np.array_equal(chosen, again)


def test_a_change_of_stain_is_one_in_optical_density():
    change = stain_change((1.3, 0.8))
    haematoxylin, eosin = map(np.array, ROUNDED_TEXTBOOK)
    assert np.allclose(change @ haematoxylin, 1.3 * haematoxylin)
    assert np.allclose(change @ (haematoxylin + 2 * eosin), 1.3 * haematoxylin + 1.6 * eosin)

    class Density(PositionByColour):
        def prepare(self, pixels, colour):
            return optical_density(pixels, colour)

        def forward(self, image):
            return Features(torch.nn.functional.avg_pool2d(image, 4), image.mean((2, 3)))

    stained = (
        np.broadcast_to(256 * np.exp(-(0.5 * haematoxylin + 0.4 * eosin)) - 1, (96, 96, 3)).round().astype(np.uint8)
    )
    index = NucleusIndex.build(np.array([[40.0, 50.0]]), (96, 96), 0.5)
    image = NucleusPicture("even", "p", 0.5, (96, 96), None, 1.0, stained, index)
    read = nucleus_features(
        Density(), image, np.array([[40.0, 50.0]]), Variation(0.5, stain=(1.3, 0.8)), IDENTITY, 96, CPU
    )
    assert np.allclose(read.numpy(), 0.65 * haematoxylin + 0.32 * eosin, atol=0.02)
