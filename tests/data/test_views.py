"""Views show nuclei where they state them to be, and a nucleus that views share is the same nucleus
in each.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from muse_pipeline.data.augment import Augmentation
from muse_pipeline.data.nucleus_images import NucleusImage, NucleusIndex
from muse_pipeline.data.unlabelled import Picture
from muse_pipeline.data.views import Cuts, View, ViewSampler, ViewSet, ViewSettings

MPP, SIDE_PX, RADIUS_PX = 0.25, 2048, 8.0
GROUND = 250.0
LEVELS = np.arange(0, 200, 20)  # values of each channel, which give a thousand colours
SETTINGS = ViewSettings(n_local=2)
N_SETS = 250


def tissue(xy, pixels=None):
    size_px = (SIDE_PX, SIDE_PX)
    pixels = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8) if pixels is None else pixels
    index = NucleusIndex.build(xy, size_px, MPP)[0]
    return NucleusImage("P", "P", MPP, None, 1.0, Picture(pixels), index)


@pytest.fixture(scope="module")
def discs():
    """A picture with a disc at every nucleus of its index, and the (N, 3) colours of the discs in
    the same order.
    """
    step = 64.0  # 16 um: 3,900 nuclei per mm2
    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid(*[np.arange(step / 2, SIDE_PX, step)] * 2), -1).reshape(-1, 2)
    xy = tissue(lattice + rng.uniform(-8, 8, lattice.shape)).nuclei.xy.astype(float)
    colours = np.stack(np.meshgrid(*[LEVELS] * 3), -1).reshape(-1, 3)[np.arange(len(xy)) % 1000]
    picture = np.full((SIDE_PX, SIDE_PX, 3), GROUND)
    for (x, y), colour in zip(xy, colours, strict=True):
        left, top = int(x) - 12, int(y) - 12
        rows, columns = slice(max(top, 0), top + 25), slice(max(left, 0), left + 25)
        grid = (
            np.mgrid[
                rows.start : min(rows.stop, SIDE_PX), columns.start : min(columns.stop, SIDE_PX)
            ]
            + 0.5
        )
        share = np.clip(RADIUS_PX + 0.5 - np.hypot(grid[1] - x, grid[0] - y), 0, 1)[..., None]
        picture[rows, columns] += share * (colour - picture[rows, columns])
    image = tissue(xy, picture.round().astype(np.uint8))
    assert np.array_equal(image.nuclei.xy, xy.astype(np.float32))
    return image, colours


def around(pixels, placed, reach):
    """(n, 2 reach + 1, 2 reach + 1, 3) crops of a view, and the (..., 2) centres of their
    pixels.
    """
    corner = np.floor(placed).astype(int) - reach
    offset = np.arange(2 * reach + 1)
    rows, columns = corner[:, 1, None] + offset, corner[:, 0, None] + offset
    crops = pixels[rows[:, :, None], columns[:, None]].astype(float)
    x, y = np.broadcast_arrays(columns[:, None] + 0.5, rows[:, :, None] + 0.5)
    return crops, np.stack([x, y], -1)


def test_discs_are_where_views_position_them_and_shared_ones_are_the_same(discs):
    """A nucleus has the same index in every view: the disc at its position has its colour."""
    image, colours = discs
    sample, generator = ViewSampler([image], SETTINGS), np.random.default_rng(1)
    errors, turned, n_shared = [], set(), 0
    for _ in range(N_SETS):
        drawn = sample(generator)
        found = ViewSet.index(
            image, drawn.views, image.nuclei.xy.astype(float)
        )  # in the order of ``colours``
        assert [len(found.shared(0, other)) for other in (1, 2)] == [
            len(drawn.shared(0, other)) for other in (1, 2)
        ]
        n_shared += len(drawn.shared(0, 1))
        for view, placed, seen in zip(found.views, found.placed, found.seen, strict=True):
            turned.add((view.mirror, view.turns))
            pixels = view.cut(image)
            assert pixels.shape == (view.size_px, view.size_px, 3)
            radius = RADIUS_PX * view.size_px / view.side_px
            reach = int(np.ceil(radius)) + 1
            whole = seen & ((placed > reach + 1) & (placed < view.size_px - reach - 1)).all(1)
            crops, middles = around(pixels, placed[whole], reach)
            contrast = (colours[whole] - GROUND)[:, None, None]
            share = ((crops - GROUND) * contrast).sum(-1) / (contrast**2).sum(-1)
            assert (
                np.abs(crops - GROUND - share[..., None] * contrast).max(initial=0) < 9
            )  # no other colour
            centroid = (middles * share[..., None]).sum((1, 2)) / share.sum((1, 2))[:, None]
            errors.append(np.linalg.norm(centroid - placed[whole], axis=1))
    errors = np.concatenate(errors)
    assert len(errors) > 20 * N_SETS
    assert n_shared > 8 * N_SETS
    assert errors.mean() <= 0.3
    assert errors.max() <= 1
    assert len(turned) == 8


@pytest.mark.parametrize("side_px, size_px", [(7, 7), (12, 24), (40, 20)])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_a_spot_is_placed_where_it_is_cut(side_px, size_px, mirror, turns):
    """The spot is placed to the pixel, even in views that are finer or coarser than their image."""
    pixels = np.zeros((60, 70, 3), np.uint8)
    view = View((11, 23), side_px, size_px, mirror, turns, MPP)
    column, row = side_px // 4 // 2 * 2, side_px // 3 // 2 * 2
    pixels[23 + row : 25 + row, 11 + column : 13 + column] = 200
    index = NucleusIndex.build(np.zeros((1, 2)), (70, 60), MPP)[0]
    image = NucleusImage("P", "P", MPP, None, 1.0, Picture(pixels), index)
    window = torch.tensor(image.read((0, 0), (70, 70)))  # the view may extend beyond the image
    place = torch.tensor([[0, 70, *view.corner, side_px, mirror, turns]])
    cuts = Cuts(size_px, side_px + 3, 0, (view.mpp,), place)
    of_batch = cuts.cut(window.view(-1, 3), Augmentation(blur=0, noise=0))[0, 0].numpy()
    for weight in (view.cut(image)[..., 0].astype(float), of_batch.astype(float)):
        y, x = (np.indices(weight.shape) + 0.5) * weight / weight.sum()
        found = np.array([x.sum(), y.sum()])
        np.testing.assert_allclose(found, view.view_xy([12 + column, 24 + row]), atol=0.02)
    assert view.mpp == pytest.approx(MPP * side_px / size_px)


def test_nearly_all_global_pairs_share_four_nuclei_at_4000_per_mm2():
    xy = np.random.default_rng(0).uniform(
        0, SIDE_PX, (round(4000 * (SIDE_PX * MPP / 1000) ** 2), 2)
    )
    sample, generator = ViewSampler([tissue(xy)], SETTINGS), np.random.default_rng(0)
    sets = [sample(generator) for _ in range(N_SETS)]
    assert np.mean([len(one.shared(0, 1)) >= SETTINGS.min_matches for one in sets]) >= 0.95
    mpps = np.array([[view.mpp for view in one.views] for one in sets])
    assert 0.25 <= mpps.min() < 0.255 and 0.495 < mpps.max() <= 0.501
    with_global = [one.seen[2] & one.seen[:2].any(0) for one in sets]
    assert np.mean([shared.any() for shared in with_global]) > 0.9


@pytest.mark.parametrize("n, size_px", [(3, (2048, 2048)), (200, (300, 90)), (40, (60, 60))])
def test_sparse_and_small_images_give_views_too(n, size_px):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (size_px[1], size_px[0], 3)).astype(np.uint8)
    index = NucleusIndex.build(rng.uniform(0, size_px, (n, 2)), size_px, MPP)[0]
    image = NucleusImage("P", "P", MPP, None, 1.0, Picture(pixels), index)
    sample = ViewSampler([image], SETTINGS)
    for _ in range(20):
        found = sample(rng)
        assert [view.cut(found.image).shape[0] for view in found.views] == [224, 224, 96, 96]
        assert len(found.shared(0, 1)) == 0 or len(found.shared(0, 1)) >= SETTINGS.min_matches
        placed = found.placed[found.seen]
        assert ((placed >= 0) & (placed <= 224)).all()


def test_every_view_of_a_set_draws_an_mpp_of_its_own():
    """The mpp is uniform within an octave, so that the mean |log2 ratio| of two views is 3 / ln 2 -
    4 = 0.328.
    """
    xy = np.random.default_rng(0).uniform(0, SIDE_PX, (1000, 2))
    sample, generator = ViewSampler([tissue(xy)], SETTINGS), np.random.default_rng(0)
    mpps = np.array([[view.mpp for view in sample(generator).views] for _ in range(1500)])
    np.testing.assert_allclose(mpps.mean(0), 0.375, rtol=0.02)
    octaves = np.abs(np.log2(mpps[:, :, None] / mpps[:, None]))
    for one, other in itertools.combinations(
        range(2 + SETTINGS.n_local), 2
    ):  # 0 and 1 are the global views
        assert octaves[:, one, other].mean() == pytest.approx(3 / math.log(2) - 4, rel=0.05), (
            one,
            other,
        )


def test_local_views_lie_around_nuclei_that_a_global_view_sees():
    """The centre of each view is within 10 px (a quarter of its side) of a nucleus; all nuclei are
    equally frequent.
    """
    xy = np.array([(1000.0, 1000), (1040, 1010), (990, 1060), (1080, 1080)])
    settings = ViewSettings(global_px=400, local_px=40, n_local=8, mpp=(0.25, 0.25), min_matches=1)
    sample, generator = ViewSampler([tissue(xy)], settings), np.random.default_rng(0)
    counts, offsets, n_alike = np.zeros(4), [], 0
    for _ in range(60):
        views = sample(generator).views
        placed = np.stack([view.view_xy(xy) for view in views[:2]])
        seen = np.flatnonzero(((placed >= 2) & (placed < 398)).all(2).any(0))
        around = []
        for view in views[2:]:
            offset = np.array(view.corner) + 20 - xy
            nearest = np.abs(offset).max(1).argmin()
            around.append(nearest)
            offsets.append(offset[nearest])
        assert set(around) <= set(seen)
        n_alike += len(set(around)) == 1
        counts += np.bincount(around, minlength=4)
    assert np.abs(offsets).max() <= 11 and np.ptp(offsets, 0).min() > 18
    assert n_alike == 0
    np.testing.assert_allclose(counts / counts.sum(), 0.25, atol=0.08)


def test_global_views_hold_a_nucleus_anywhere_but_at_their_border():
    """The nucleus is at least a tenth of the side from the border; all eight orientations are
    equally frequent.
    """
    xy = np.array([[1000.0, 1000]])
    sample = ViewSampler([tissue(xy)], ViewSettings(n_local=0, min_matches=1))
    generator = np.random.default_rng(0)
    views = [view for _ in range(200) for view in sample(generator).views]
    at = np.array([(xy[0] - view.corner) / view.side_px for view in views])
    np.testing.assert_allclose(at.min(0), 0.1, atol=0.02)
    np.testing.assert_allclose(at.max(0), 0.9, atol=0.02)
    np.testing.assert_allclose(at.mean(0), 0.5, atol=0.05)
    turned = [2 * view.turns + view.mirror for view in views]
    np.testing.assert_allclose(np.bincount(turned) / 400, 1 / 8, atol=0.05)


def test_images_are_drawn_by_weight_and_area():
    rng = np.random.default_rng(0)
    small, large = tissue(rng.uniform(0, 512, (900, 2))), tissue(rng.uniform(0, SIDE_PX, (900, 2)))
    small = replace(small, weight=4.0)
    for balance, share in ((0.0, 1 / 5), (1.0, 16 / 20)):
        sample = ViewSampler([small, large], ViewSettings(n_local=0), balance)
        drawn = [sample(rng).image is large for _ in range(400)]
        assert np.mean(drawn) == pytest.approx(share, abs=0.08)
