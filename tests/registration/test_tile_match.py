"""Tiles are placed on the tissue, and the shift of each is measured."""

import numpy as np
from drawn_pair import Warp, draw_partner, draw_section, stain_he

from muse_pipeline.registration.match import (
    Power,
    SlidePicture,
    lattice,
    match_tiles,
    tiles_on_tissue,
)
from muse_pipeline.registration.transform import Transform

POWER = Power(2.0, 256.0, 16.0)
IDENTITY = Transform(np.eye(2, 3))


def test_a_tile_is_found_to_a_tenth_of_a_pixel_where_it_is():
    section = draw_section((900.0, 800.0), 1.0, margin_um=0.0)
    warp = Warp(shift_um=(7.4, 3.3))
    he, partner = (
        SlidePicture(pixels, np.array([1.0, 1.0])).shrunk(2.0)
        for pixels in (stain_he(section.amounts), draw_partner(section, warp, 1.0))
    )
    centre = np.array([[300.0, 300.0], [600.0, 500.0], [-900.0, 200.0]])
    found = match_tiles(he, partner, IDENTITY, centre, POWER, threads=2)
    assert found.is_clear.tolist() == [True, True, False] and found.is_seen.tolist() == [
        True,
        True,
        False,
    ]
    np.testing.assert_allclose(found.shift_um[:2], [warp.shift_um] * 2, atol=0.2)
    np.testing.assert_allclose(found.partner_um(IDENTITY)[:2], centre[:2] + warp.shift_um, atol=0.2)


def test_tiles_that_differ_are_not_alike_and_even_ones_are():
    section, other = (draw_section((900.0, 800.0), 1.0, seed, margin_um=0.0) for seed in (0, 1))
    he = SlidePicture(stain_he(section.amounts), np.array([1.0, 1.0])).shrunk(2.0)
    foreign = SlidePicture(draw_partner(other, Warp(), 1.0), np.array([1.0, 1.0])).shrunk(2.0)
    even = SlidePicture(np.full((400, 450, 3), 200, np.uint8), np.array([2.0, 2.0]))
    centre = np.array([[450.0, 400.0]])
    assert not match_tiles(he, foreign, IDENTITY, centre, POWER).is_alike.any()
    found = match_tiles(even, he, IDENTITY, centre, POWER)
    assert found.is_alike.all() and not found.is_clear.any()
    assert not match_tiles(he, even, IDENTITY, centre, POWER).is_seen.any()


def test_tiles_cover_the_tissue_and_no_more_than_asked_for():
    mask = np.zeros((100, 200), bool)
    mask[20:80, 50:150] = True
    mpp = np.array([8.0, 8.0])
    side_by_side = tiles_on_tissue(mask, mpp, 160.0, 160.0, 0.02)
    low, high = side_by_side.min(0) - 80, side_by_side.max(0) + 80
    assert (low <= [400, 160]).all() and (high >= [1200, 640]).all()
    assert (np.diff(np.unique(side_by_side[:, 0])) == 160).all()
    assert len(lattice(mask, mpp, 160.0, 1, 8)) <= 8
    assert len(lattice(mask, mpp, 160.0, 60, 100)) >= 60
