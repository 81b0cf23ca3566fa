"""The activation map of a network with two channels, compared with values computed by hand."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from muse_pipeline.methods.psm.activation_map import ActivationMap, ActivationNetwork


class Toy(nn.Module):
    """A network with two channels, the mean red and green of cells of 4 x 4 px, and a known
    output.
    """

    class backbone:
        stride_px = 4

    def read_activations(self, pixels):
        cells = nn.functional.avg_pool2d(pixels[:, :2] / 255, 4).requires_grad_()
        red, green = cells.mean((2, 3)).unbind(1)
        return 2 * red - green**2, [cells]


def picture(red, green):
    """(8, 8, 3) uint8 picture of 2 x 2 cells with the given red and green."""
    cells = np.stack([red, green, np.zeros((2, 2))], -1)
    return np.rint(np.kron(cells, np.ones((4, 4, 1))) * 255).astype(np.uint8)


def test_equals_the_hand_computed_map():
    red, green = np.array([[1.0, 0.2], [0.4, 0.0]]), np.array([[0.0, 1.0], [0.2, 0.4]])
    fitted = ActivationMap(Toy(), [picture(red, green)])
    # d/d red of each of four cells is 2 / 4; d/d green is -2 * mean(green) / 4 = -2 * 0.4 / 4
    assert np.allclose(fitted.weights[0], [0.5, -0.2], atol=1e-6)
    cells = 0.5 * red - 0.2 * green  # 0.5, -0.1, 0.16, -0.08
    assert np.allclose(fitted.ranges[0], [-0.1, 0.5], atol=1e-6)
    stretched = (cells + 0.1) / 0.6  # 1, 0, 0.4333, 0.0333
    found = fitted(picture(red, green))
    assert found.shape == (8, 8) and found.dtype == np.float32
    corners = found[[0, 0, -1, -1], [0, -1, 0, -1]]  # bilinear enlargement keeps them
    assert np.allclose(corners, stretched.ravel(), atol=1e-6)
    # the centre of pixel 2 is at x = 2.5: 0.5 px, or 1/8 of the distance between cells, from the
    # first cell's centre
    assert found[0, 2] == pytest.approx(1 - 0.125, abs=1e-6)


def test_another_picture_of_the_slide_keeps_weights_and_range():
    red, green = np.array([[1.0, 0.2], [0.4, 0.0]]), np.array([[0.0, 1.0], [0.2, 0.4]])
    fitted = ActivationMap(Toy(), [picture(red, green)])
    flat = fitted(picture(np.full((2, 2), 0.4), np.full((2, 2), 0.2)))
    assert np.allclose(flat, 0.26 / 0.6, atol=1e-6)
    assert fitted(picture(np.ones((2, 2)), np.zeros((2, 2)))).max() == 1
    assert fitted(picture(np.zeros((2, 2)), np.ones((2, 2)))).min() == 0


def test_a_block_below_its_range_lowers_no_other():
    """The blocks are red and green; their ranges in the sample are 0.2 to 0.6."""

    class TwoBlocks(Toy):
        def read_activations(self, pixels):
            cells = nn.functional.avg_pool2d(pixels[:, :2] / 255, 4)
            blocks = [cells[:, :1].requires_grad_(), cells[:, 1:].requires_grad_()]
            return sum(block.mean((1, 2, 3)) for block in blocks), blocks

    ramp, same = np.array([[0.2, 0.6], [0.2, 0.6]]), np.ones((2, 2))
    fitted = ActivationMap(TwoBlocks(), [picture(ramp, ramp)])
    assert np.allclose(fitted(picture(0 * same, 0.6 * same)), (0 + 1) / 2, atol=1e-6)


def test_several_pictures_share_their_mean_weights():
    one, other = (picture(np.zeros((2, 2)), np.full((2, 2), level)) for level in (0.2, 0.6))
    assert np.allclose(ActivationMap(Toy(), [one, other]).weights[0], [0.5, -0.2], atol=1e-6)


def test_any_size_of_picture_has_its_map():
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 45, 3)).astype(np.uint8)
    fitted = ActivationMap(ActivationNetwork("shallow_cnn").eval(), [pixels])
    found = fitted(pixels)
    assert found.shape == (70, 45) and found.min() >= 0 and found.max() == 1
    assert (found == fitted(pixels)).all()


def test_a_map_states_the_same_of_a_position_whatever_lies_far_from_it():
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (320, 320, 3)).astype(np.uint8)
    fitted = ActivationMap(ActivationNetwork("shallow_cnn").eval(), [pixels])
    assert np.allclose(
        fitted(pixels)[128:192, 128:192], fitted(pixels[64:256, 64:256])[64:128, 64:128], atol=1e-4
    )


def test_maps_of_pictures_side_by_side_are_those_of_one_after_another():
    torch.manual_seed(0)
    pictures = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3)).astype(np.uint8)
    fitted = ActivationMap(ActivationNetwork("shallow_cnn").eval(), pictures[:2])
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(fitted, pictures))
    assert all(
        (one == fitted(pixels)).all() for one, pixels in zip(together, pictures, strict=True)
    )
