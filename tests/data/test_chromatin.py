"""Pale chromatin: the inside of large nuclei, and nothing else."""

import pytest
import torch

from muse_pipeline.data.chromatin import MIN_RADIUS_UM, pale_chromatin

MPP, SIDE, TISSUE, DARK = 0.5, 96, 200.0, 60.0
XY = torch.tensor([[[30.3, 40.6], [70.0, 40.0], [50.0, 80.0], [2.0, 2.0]]])
RADIUS_UM = torch.tensor([6.0, MIN_RADIUS_UM - 0.5, torch.nan, 8.0])  # large, small, unknown, cut by the border


def window():
    """One window of grey tissue with four round dark nuclei; the outline of the third is unknown."""
    axis = torch.arange(SIDE) + 0.5
    x, y = XY[0].T[..., None, None]
    distance_um = MPP * torch.hypot(axis - x, axis[:, None] - y)  # (4, S, S)
    inside = distance_um < RADIUS_UM.nan_to_num(5.0)[:, None, None]
    pixels = torch.where(inside.any(0), DARK, TISSUE).expand(1, 3, -1, -1).contiguous()
    return pixels, distance_um, RADIUS_UM[None, :, None].expand(-1, -1, 32)


def paint(share=1.0, seed=0):
    pixels, _, rays = window()
    return pale_chromatin(pixels, XY, rays, MPP, share, torch.Generator().manual_seed(seed))


def painted_somewhere():
    """The brightest of 20 draws at each pixel: not every nucleus is painted in each."""
    return torch.stack([paint(seed=seed)[0, 0] for seed in range(20)]).amax(0)


def test_the_inside_of_a_large_nucleus_becomes_paler_and_its_rim_stays():
    _, distance_um, _ = window()
    brightest = painted_somewhere()
    for nucleus in (0, 3):
        assert brightest[distance_um[nucleus] < RADIUS_UM[nucleus] - 2].median() > DARK + 40
    rim = (distance_um[0] < RADIUS_UM[0]) & (distance_um[0] > RADIUS_UM[0] - MPP)
    assert brightest[rim].median() < brightest[distance_um[0] < RADIUS_UM[0] - 2].median()


def test_small_nuclei_and_those_without_an_outline_stay():
    pixels, distance_um, _ = window()
    brightest = painted_somewhere()
    for nucleus in (1, 2):
        inside = distance_um[nucleus] < 3
        assert (brightest[inside] == pixels[0, 0][inside]).all()


def test_tissue_beyond_the_outlines_stays():
    pixels, distance_um, _ = window()
    outside = (distance_um > 9).all(0)
    assert (painted_somewhere()[outside] == pixels[0, 0][outside]).all()


def test_grey_levels_stay_within_those_of_the_window():
    painted = torch.stack([paint(seed=seed) for seed in range(20)])
    assert painted.min() >= 0 and painted.max() <= TISSUE


@pytest.mark.parametrize("share, changed", [(0.0, 0), (1.0, 1)])
def test_the_share_of_windows_and_the_seed_decide(share, changed):
    pixels = window()[0]
    assert int(any(not torch.equal(paint(share, seed), pixels) for seed in range(5))) == changed
    assert torch.equal(paint(share, 3), paint(share, 3))


def test_windows_without_nuclei_stay():
    pixels = window()[0]
    empty = torch.zeros(1, 0, 2), torch.zeros(1, 0, 32)
    assert torch.equal(pale_chromatin(pixels, *empty, MPP, 1.0, torch.Generator()), pixels)
