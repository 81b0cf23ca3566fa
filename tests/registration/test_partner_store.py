"""The partner's store is in the slide's frame, and has no tissue where the partner has no image."""

from dataclasses import replace

import numpy as np
import pytest
from drawn_pair import Warp, draw_partner, draw_section, open_drawn, stain_he

from muse_pipeline.core.errors import RegistrationError
from muse_pipeline.core.files import write_json
from muse_pipeline.inference.stains import split_stains
from muse_pipeline.registration.partner import write_partner_store
from muse_pipeline.registration.record import describe, read_registered
from muse_pipeline.registration.register import open_pair, register_partner
from muse_pipeline.registration.transform import Transform
from muse_pipeline.store.store import open_store
from muse_pipeline.store.write import write_store
from muse_pipeline.tissue.find import find_tissue

WARP = Warp(degrees=173, scale=1.03, shift_um=(60, 200))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A synthetic section, a partner of its left half only, their registration, and the stores of
    both slides.
    """
    folder = tmp_path_factory.mktemp("stores")
    section = draw_section((1300.0, 1100.0), 0.5)
    he = stain_he(section.amounts)
    partner = draw_partner(section, WARP, 0.7)
    middle = partner.shape[1] // 2
    partner = partner[:, middle:]  # turned: the slide's left is the partner's right
    slide, info = open_drawn(he, 0.5, "he")
    other, other_info = open_drawn(partner, 0.7, "partner")
    pair = open_pair(slide, info, other, other_info, 2)
    points_um = np.array([[300.0, 300.0], [1000.0, 400.0], [600.0, 800.0]])
    slide_um = np.column_stack([WARP.to_slide(points_um, section.size_um), np.ones(3)])
    start = Transform(
        np.linalg.solve(slide_um, points_um - [middle * 0.7, 0]).T
    )  # no search: takes half as long
    found = register_partner(pair, start)
    write_json(folder / "transform.json", describe(found))
    registered = read_registered(folder / "transform.json")
    tissue = find_tissue(slide, info).tissue
    write_store(slide, info, tissue, folder / "he.zarr")
    write_partner_store(pair, registered, tissue, folder / "partner.zarr")
    return (
        section,
        registered,
        pair,
        found,
        open_store(folder / "he.zarr"),
        open_store(folder / "partner.zarr"),
    )


def test_the_marker_is_brown_at_the_nuclei_that_carry_it(made):
    section, _, _, _, he, partner = made
    assert (partner.size_px, partner.mpp, partner.fingerprint) == (
        he.size_px,
        he.mpp,
        he.fingerprint,
    )
    tissue, tissue_px = partner.tissue
    at = np.floor(section.xy_um / 0.5).astype(int)
    column, row = (at // int(tissue_px)).T
    at, marked = at[tissue[row, column]], section.has_marker[tissue[row, column]]
    pixels = partner.read((0, 0), partner.size_px)
    alone = [
        np.sort(np.linalg.norm(at - one, axis=1))[1] > 24 for one in at
    ]  # overlapping nuclei mix colours
    dab = split_stains(pixels)[..., 1][at[:, 1], at[:, 0]]
    assert sum(alone) > 150
    assert np.mean((dab[alone] > 0.3) == marked[alone]) >= 0.98


def test_what_the_partner_does_not_show_is_no_tissue(made):
    _, registered, _, found, he, partner = made
    tissue, tissue_px = partner.tissue
    assert not (tissue & ~he.tissue[0]).any()
    share = tissue.sum() / he.tissue[0].sum()
    assert 0.3 < share < 0.6
    rows, columns = np.nonzero(tissue)
    side_um = tissue_px * 0.5
    for corner in ((0.01, 0.01), (0.99, 0.99), (0.01, 0.99), (0.99, 0.01)):
        um = (np.column_stack([columns, rows]) + corner) * side_um
        assert registered.is_kept(um).all()
    left_out = found.tiles.centre_um[~found.tiles.is_kept]
    column, row = (left_out // side_um).astype(int).T
    assert len(left_out) and not tissue[row, column].any()
    assert partner.attributes["partner"]["partner"]["slide_id"] == "partner"


def test_a_transform_of_other_slides_is_rejected(made, tmp_path):
    _, registered, pair, _, _, _ = made
    other = replace(pair, info=replace(pair.info, fingerprint="1" * 16))
    with pytest.raises(RegistrationError, match="run `muse register`"):
        write_partner_store(
            other, registered, find_tissue(pair.slide, pair.info).tissue, tmp_path / "x.zarr"
        )
    assert not (tmp_path / "x.zarr").exists()
