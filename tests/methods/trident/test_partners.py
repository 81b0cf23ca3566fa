"""Partners: which views are drawn, which views a partner covers, and the geometry that a pair
shares.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from paired import draw_paired_slide

from muse_pipeline.data.augment import Augmentation
from muse_pipeline.data.nucleus_images import NucleusImage, NucleusIndex
from muse_pipeline.data.unlabelled import Picture
from muse_pipeline.data.views import View, ViewBatches, ViewSettings
from muse_pipeline.methods.trident.partners import DrawnNuclei, PairBatches
from muse_pipeline.store.store import open_store

SIDE = 200


def make_picture(seed: int = 0) -> NucleusImage:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(100, 250, (SIDE, SIDE, 3), np.uint8)
    index = NucleusIndex.build(generator.uniform(0, SIDE, (60, 2)), (SIDE, SIDE), 0.5)[0]
    return NucleusImage(f"P{seed}", f"P{seed}", 0.5, None, 1.0, Picture(pixels), index)


def make_batches(images, partners, **settings) -> PairBatches:
    still = Augmentation(stain_gain=0, stain_mix=0, shift=0, blur=0, noise=0)
    views = {"global_px": 48, "n_local": 0, "mpp": (0.5, 1.0), "min_matches": 1, **settings}
    config = SimpleNamespace(
        views=ViewSettings(**views), batch=8, augmentation=still, seed=3, balance=0.5, grey=0.1
    )
    colours = np.tile(np.eye(3, 4), (len(images), 1, 1))
    return PairBatches(ViewBatches(images, colours, np.eye(3)[:2], config), images, partners)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_positions_go_to_a_view_and_back(mirror, turns):
    view = View((30, 40), 96, 48, mirror, turns, 0.5)
    xy = np.random.default_rng(0).uniform(30, 126, (20, 2))
    np.testing.assert_allclose(view.source_xy(view.view_xy(xy)), xy)


def test_a_picture_has_the_geometry_of_the_first_view():
    """The partner is the H&E picture itself, so the pixels of both must be equal."""
    image = make_picture()
    batch = make_batches([image], [Picture(image.image.pixels)])(0)
    he = batch.views.global_views.pixels[:8]
    assert batch.partner.image_known.all() and torch.equal(batch.partner.image, he)
    assert not torch.equal(batch.partner.image, batch.views.global_views.pixels[8:])
    assert torch.equal(batch.partner.nuclei_known, batch.views.shared[0])


def test_a_number_gives_one_batch_and_images_may_have_no_partner():
    images = [make_picture(seed) for seed in range(3)]
    batches = make_batches(images, [Picture(images[0].image.pixels), None, None])
    one, again = batches(4), batches(4)
    assert torch.equal(one.partner.image, again.partner.image)
    assert (
        0 < one.partner.image_known.sum() < 8
        and len(one.partner.image) == one.partner.image_known.sum()
    )
    assert not one.partner.nuclei_known[~one.partner.image_known].any()


class LeftHalf(Picture):
    def in_tissue(self, xy):
        return xy[:, 0] < SIDE / 2


def test_views_beyond_the_partner_have_none():
    image = make_picture()
    batches = make_batches([image], [LeftHalf(image.image.pixels)])
    known = torch.cat([batches(number).partner.image_known for number in range(6)])
    assert 0 < known.sum() < len(known)
    for number in range(6):
        batch, sets = batches(number), batches.views.draw(number)[1]
        right = torch.tensor([one.views[0].corner[0] + one.views[0].side_px for one in sets])
        assert not batch.partner.image_known[right > 1.2 * SIDE / 2].any()


def test_nuclei_are_drawn_where_they_lie(tmp_path):
    xy, rays = (
        np.array([[150.0, 60], [50, 60], [-5, 3]]),
        np.full((3, 16), 5.0),
    )  # not in the order of the index
    rays[0] = np.nan
    DrawnNuclei.save(tmp_path / "drawn", xy, rays, (SIDE, SIDE), 0.5)
    drawn = DrawnNuclei(tmp_path / "drawn", (SIDE, SIDE), 0.5)
    canvas = drawn.read((0, 0), (SIDE, SIDE))
    inside = (canvas != 255).any(2)
    rows, columns = np.nonzero(inside[:, :100])
    assert columns.mean() + 0.5 == pytest.approx(
        50, abs=0.3
    ) and rows.mean() + 0.5 == pytest.approx(60, abs=0.3)
    assert inside[:, :100].sum() == pytest.approx(np.pi * 10**2, rel=0.15)
    assert inside[:, 100:].sum() == pytest.approx(np.pi * 6**2, rel=0.25)
    np.testing.assert_array_equal(drawn.read((40, 50), (30, 30)), canvas[50:80, 40:70])


def test_a_store_covers_its_tissue(tmp_path):
    draw_paired_slide(tmp_path / "S1")
    partner = open_store(tmp_path / "S1/partner.zarr")
    mask, side = partner.tissue
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    xy = (np.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * side
    np.testing.assert_array_equal(partner.in_tissue(xy), mask.ravel())
    assert not partner.in_tissue(np.array([[-1.0, 5], [1e6, 5]])).any()
