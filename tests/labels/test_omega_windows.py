"""Annotated regions in windows: a region may lie anywhere in a window, and covers the right
cells.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from scipy.stats import kstest

from muse_pipeline.core.types import Frame
from muse_pipeline.data.augment import Augmentation
from muse_pipeline.data.windows import LabelledWindows, cut_windows, draw_centres
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.nuclei.table import Nuclei

MPP = 0.5
STILL = Augmentation(
    1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0
)  # only quarter turns and mirroring


def labelled(side=400, region=None, n=300, name="A"):
    generator = np.random.default_rng(0)
    xy = generator.random((n, 2)) * side
    pixels = np.full((side, side, 3), 200, np.uint8)
    if region is not None:
        pixels[region] = 50
    nuclei = Nuclei(
        xy, Frame.WINDOW, rays=np.ones((n, 8), np.float32), label=np.arange(n, dtype=np.int32) % 3
    )
    return LabelledImage(
        name=name, pixels=pixels, nuclei=nuclei, stain=None, weight=1.0, region=region
    )


def square(left, top, side, picture=400):
    region = np.zeros((picture, picture), bool)
    region[top : top + side, left : left + side] = True
    return region


def windows_of(images, window_px, augmentation=STILL, batch=16, **more):
    colours = np.tile(np.eye(3, 4), (len(images), 1, 1))
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    settings = SimpleNamespace(
        mpp=MPP, window_px=window_px, batch=batch, augmentation=augmentation, seed=0
    )
    return LabelledWindows(images, colours, stains, settings, torch.device("cpu"), **more)


def test_the_region_lies_anywhere_in_a_window_with_equal_chance():
    windows = windows_of([labelled(region=square(160, 150, 64))], 192)
    corners = []
    for step in range(40):
        inside = windows(step).region > 0
        for window in inside:
            rows, columns = window.any(1).nonzero(), window.any(0).nonzero()
            assert len(rows) == len(columns) == 64 // 4
            corners.append((int(columns[0]), int(rows[0])))
    jitter = np.random.default_rng(0).random(
        (len(corners), 2)
    )  # corners are only accurate to a cell
    for axis in (0, 1):
        offset = (np.array(corners)[:, axis] + jitter[:, axis]) / ((192 - 64) / 4 + 1)
        assert kstest(offset, "uniform").pvalue > 0.01


def test_a_window_keeps_to_the_picture_where_it_can():
    n, generator = 500, torch.Generator().manual_seed(0)
    size, region = (
        torch.full((n, 2), 491.0),
        torch.tensor([[0.0, 200.0, 224.0, 424.0]]).expand(n, 4),
    )
    centre = draw_centres(size, region, torch.full((n, 1), 224.0), generator)
    assert centre.min() >= 224
    assert centre.max() <= 491 - 224
    assert torch.allclose(
        draw_centres(size, region, torch.full((n, 1), 300.0), generator), size / 2
    )


def test_a_region_that_is_larger_than_the_window_holds_it():
    n, generator = 500, torch.Generator().manual_seed(0)
    region = torch.tensor([[100.0, 100.0, 900.0, 700.0]]).expand(n, 4)
    centre = draw_centres(torch.full((n, 2), 1000.0), region, torch.full((n, 1), 128.0), generator)
    assert (centre >= 228).all()
    assert (centre <= torch.tensor([772.0, 572.0])).all()
    assert centre[:, 0].max() - centre[:, 0].min() > 500


def test_windows_may_reach_over_the_border_of_a_larger_region():
    n, generator = 500, torch.Generator().manual_seed(0)
    region = torch.tensor([[400.0, 400.0, 1400.0, 1000.0]]).expand(n, 4)
    centre = draw_centres(
        torch.full((n, 2), 1800.0), region, torch.full((n, 1), 192.0), generator, around=True
    )
    assert (centre >= 400).all()
    assert (centre <= torch.tensor([1400.0, 1000.0])).all()
    assert (
        centre[:, 0].min() < 450 and centre[:, 0].max() > 1350
    )  # there, a third or more of the window lies outside


def test_other_regions_are_neither_this_one_nor_unannotated():
    here, there = square(40, 40, 120), square(240, 40, 120)
    image = replace(labelled(region=here), annotated=here | there)
    depth = windows_of([image], 400)(0).region
    assert (depth > 0).sum() == (depth < 0).sum() == 16 * 30 * 30
    assert (depth == 0).sum() == 16 * (100 * 100 - 2 * 30 * 30)


def test_cells_of_the_region_are_where_its_pixels_are():
    """The region is dark: at any rotation and scale, cells inside it are dark and cells outside it
    are not.
    """
    windows = windows_of(
        [labelled(region=square(120, 140, 130))], 256, Augmentation(noise=0, blur=0, shift=0)
    )
    for step in range(3):
        batch = windows(step)
        grey = torch.nn.functional.avg_pool2d(batch.pixels.mean(1, keepdim=True), 4)[:, 0]
        assert (grey[batch.region > 2.0] < 60).all()
        assert (grey[(batch.region == 0)] > 60).float().mean() > 0.97


def test_depth_is_in_um_of_the_picture():
    region = windows_of([labelled(region=square(100, 100, 200))], 400, batch=1)(0).region
    assert region[region > 0].min() < 2.0
    assert abs(float(region.max()) - 100 * MPP) < 2.0


def test_pictures_without_regions_have_none():
    assert windows_of([labelled()], 128)(0).region is None
    mixed = windows_of([labelled(), labelled(region=square(100, 100, 64))], 128)
    assert (mixed(0).region > 0).flatten(1).all(1).any()


def test_the_weak_view_has_the_same_geometry_and_its_own_colour():
    strong = Augmentation(stain_gain=0.5, noise=20.0)
    batch = windows_of([labelled(region=square(100, 100, 64))], 128, strong, weak_view=True)(0)
    assert torch.equal(batch.weak.colour, torch.eye(3, 4).expand(16, 3, 4))
    assert not torch.allclose(batch.colour, batch.weak.colour, atol=0.05)
    assert ((batch.weak.pixels < 125) == (batch.pixels < 125)).float().mean() > 0.99


def test_a_narrow_crop_gives_the_same_window_as_the_whole_picture():
    from muse_pipeline.data.augment import random_linear, sample_windows

    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (6, 3, 150, 190), generator=generator, dtype=torch.uint8)
    linear = random_linear(6, Augmentation(), generator)
    centre = torch.tensor(
        [[95.0, 75.0], [3.0, 140.0], [189.0, 2.0], [60.3, 70.7], [-300.0, 9.0], [95.0, 75.0]]
    )
    whole = sample_windows(pictures.float(), centre, torch.linalg.inv(linear), 96)
    assert torch.allclose(cut_windows(list(pictures), centre, linear, 96), whole, atol=0.05)
    assert (whole[4] == 255).all()
