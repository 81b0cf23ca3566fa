"""Pixels, centres and rays are transformed alike: synthetic discs and ellipses lie where their
labels are.
"""

import math

import numpy as np
import pytest
import torch

from muse_pipeline.data.augment import (
    Augmentation,
    move_nuclei,
    part_way,
    random_linear,
    sample_windows,
    vary_colour,
    vary_sharpness,
    vary_view_sharpness,
)

N_RAYS = 32


def ellipse_picture(size, centre, axes, angle):
    """A white picture with a black ellipse, and the rays of the ellipse in um, at 1 um/px."""
    y, x = np.mgrid[:size, :size] + 0.5
    u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    v = -(x - centre[0]) * np.sin(angle) + (y - centre[1]) * np.cos(angle)
    inside = (u / axes[0]) ** 2 + (v / axes[1]) ** 2 < 1
    theta = 2 * np.pi * np.arange(N_RAYS) / N_RAYS - angle
    rays = 1 / np.sqrt((np.cos(theta) / axes[0]) ** 2 + (np.sin(theta) / axes[1]) ** 2)
    return torch.tensor(np.where(inside, 0.0, 255.0), dtype=torch.float32).expand(
        1, 3, -1, -1
    ), torch.tensor(rays).float()


@pytest.mark.parametrize("seed", range(12))
def test_a_moved_ellipse_is_where_its_moved_label_states(seed):
    generator = torch.Generator().manual_seed(seed)
    picture, rays = ellipse_picture(128, (70.3, 58.6), (22, 11), 0.6)
    linear = random_linear(1, Augmentation(free_rotation=1.0), generator)
    centre = torch.tensor([[64.0, 62.0]])
    window = sample_windows(picture, centre, torch.linalg.inv(linear), 128)[0, 0]
    xy, moved = move_nuclei(torch.tensor([[[70.3, 58.6]]]), rays[None, None], centre, linear, 128)
    weight = 255 - window
    y, x = torch.meshgrid(torch.arange(128) + 0.5, torch.arange(128) + 0.5, indexing="ij")
    found = torch.stack([(x * weight).sum(), (y * weight).sum()]) / weight.sum()
    assert torch.allclose(found, xy[0, 0], atol=0.1)
    for k in range(0, N_RAYS, 4):
        direction = torch.tensor(
            [math.cos(2 * math.pi * k / N_RAYS), math.sin(2 * math.pi * k / N_RAYS)]
        )
        for factor, expected in ((0.85, 255), (1.18, 0)):
            point = (xy[0, 0] + factor * moved[0, 0, k] * direction).floor().long()
            assert abs(float(weight[point[1], point[0]]) - expected) < 128


def test_half_of_all_windows_are_mirrored_whether_they_are_rotated_freely_or_not():
    augmentation = Augmentation(free_rotation=0.5)
    linear = random_linear(2000, augmentation, torch.Generator().manual_seed(0))
    is_free = linear.abs().amin((1, 2)) > 1e-3
    for chosen in (is_free, ~is_free):
        assert 0.4 < (torch.linalg.det(linear[chosen]) < 0).float().mean() < 0.6


def test_unknown_rays_stay_unknown():
    linear = random_linear(1, Augmentation(), torch.Generator().manual_seed(1))
    _, rays = move_nuclei(
        torch.zeros(1, 2, 2), torch.full((1, 2, 8), math.nan), torch.zeros(1, 2), linear, 64
    )
    assert rays.isnan().all()


def test_outside_of_a_picture_is_white():
    window = sample_windows(
        torch.zeros(1, 3, 32, 32), torch.tensor([[16.0, 16.0]]), torch.eye(2)[None], 64
    )
    assert (window[..., :14, :] == 255).all()
    assert (window[..., 20:44, 20:44] == 0).all()


def test_colour_without_variation_is_left_alone():
    still = Augmentation(stain_gain=0, stain_mix=0, shift=0)
    colour = torch.randn(3, 3, 4)
    stains = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    assert torch.allclose(
        vary_colour(colour, stains, still, torch.Generator().manual_seed(0)), colour, atol=1e-5
    )


def test_a_part_of_the_way_to_a_colour_map_lies_on_the_line_to_it():
    colour, identity = torch.randn(3, 3, 4), torch.eye(3, 4)
    moved = part_way(colour, torch.tensor([0.0, 0.3, 1.0]))
    assert torch.allclose(moved[0], identity)
    assert torch.allclose(moved[1], identity + 0.3 * (colour[1] - identity), atol=1e-6)
    assert torch.allclose(moved[2], colour[2])


def test_sharpness_keeps_flat_pictures_flat_and_in_range():
    flat = torch.full((4, 3, 32, 32), 200.0)
    quiet = Augmentation(blur=1.0, noise=0.0)
    assert torch.allclose(
        vary_sharpness(flat, 0.5, quiet, torch.Generator().manual_seed(0)), flat, atol=1e-3
    )
    noisy = vary_sharpness(flat, 0.5, Augmentation(noise=500.0), torch.Generator().manual_seed(0))
    assert noisy.min() >= 0
    assert noisy.max() <= 255


@pytest.mark.parametrize("mpp", [0.5, 0.25, 0.125])
def test_windows_are_blurred_by_the_sigma_that_is_drawn(mpp):
    dot = torch.zeros(20, 3, 65, 65)
    dot[..., 32, 32] = 255.0
    blurred = vary_sharpness(
        dot, mpp, Augmentation(blur=1.0, noise=0.0), torch.Generator().manual_seed(3)
    )[:, 0]
    distance = torch.arange(65) - 32.0
    found = ((blurred.sum(1) * distance**2).sum(1) / blurred.sum((1, 2))).sqrt()
    drawn = torch.rand(2, 20, generator=torch.Generator().manual_seed(3))[1] * 0.6 / mpp
    wide = drawn > 0.6  # narrower blurs cannot be measured
    assert drawn[wide].max() > 0.8 * 0.6 / mpp
    assert found[wide] == pytest.approx(drawn[wide], rel=0.04)


GREY = np.full((65, 65, 3), 128, np.uint8)


@pytest.mark.parametrize("noise", [6.0, 30.0])
def test_noise_of_views_has_the_level_that_is_drawn(noise):
    noisy = Augmentation(blur=0.0, noise=noise)
    for seed in range(5):
        _, level = np.random.default_rng(seed).random(2)
        one, again = (
            vary_view_sharpness(GREY, 0.5, noisy, np.random.default_rng(seed)) for _ in range(2)
        )
        assert np.array_equal(one, again) and one.dtype == np.uint8
        expected = math.hypot(level * noise, 12**-0.5)  # noise, and rounding to integers
        assert one.std() == pytest.approx(expected, rel=0.03)
        assert one.mean() == pytest.approx(128, abs=0.03 * noise)
        planes = one.reshape(-1, 3).T.astype(float)
        assert np.abs(np.corrcoef(planes) - np.eye(3)).max() < 0.06  # channels are independent
    other = vary_view_sharpness(GREY, 0.5, noisy, np.random.default_rng(seed + 1))
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.04


@pytest.mark.parametrize("mpp", [0.5, 0.25, 0.125])
def test_views_are_blurred_by_the_sigma_that_is_drawn(mpp):
    dot = np.zeros((65, 65, 3), np.uint8)
    dot[28:37, 28:37] = 255
    distance, found, drawn = np.arange(65) - 32.0, [], []
    for seed in range(20):
        blurred = vary_view_sharpness(
            dot, mpp, Augmentation(blur=1.0, noise=0.0), np.random.default_rng(seed)
        )[..., 0]
        variance = (blurred.sum(0) * distance**2).sum() / blurred.sum() - (9**2 - 1) / 12
        found.append(math.sqrt(max(variance, 0)))
        drawn.append(np.random.default_rng(seed).random(2)[1] * 0.6 / mpp)
    wide = np.array(drawn) > 0.6
    assert max(drawn) > 0.8 * 0.6 / mpp
    assert np.array(found)[wide] == pytest.approx(np.array(drawn)[wide], rel=0.06)
    small = vary_view_sharpness(
        GREY[:16, :16],
        0.5,
        Augmentation(blur=1.0, blur_um=50.0, noise=0.0),
        np.random.default_rng(0),
    )
    assert (small == 128).all()  # a blur wider than the view is truncated


def test_a_blur_wider_than_the_window_is_cut_off_at_it():
    flat = torch.full((2, 3, 16, 16), 200.0)
    wide = Augmentation(blur=1.0, blur_um=50.0, noise=0.0)
    assert torch.allclose(
        vary_sharpness(flat, 0.5, wide, torch.Generator().manual_seed(0)), flat, atol=1e-3
    )
