"""Registration of synthetic pairs between which the map is known, and of partners that do not
fit.
"""

import numpy as np
import pytest
from drawn_pair import Warp, draw_partner, draw_section, errors_um, open_drawn, stain_he, stain_ihc

from muse_pipeline.core.errors import MisfitError, RegistrationError
from muse_pipeline.core.files import write_json
from muse_pipeline.registration.partner import open_pair_of_files
from muse_pipeline.registration.record import describe, read_registered
from muse_pipeline.registration.register import (
    ABOVE_LIMIT,
    KEPT,
    NO_MATCH,
    OUTSIDE,
    open_pair,
    register_partner,
)
from muse_pipeline.registration.transform import Transform
from muse_pipeline.slides.inspect import inspect_slide

SIZE_UM, MPP, PARTNER_MPP = (1600.0, 1400.0), 0.8, 0.9
TURNED = Warp(degrees=7, scale=1.05, shift_um=(180, 90))


@pytest.fixture(scope="module")
def section():
    return draw_section(SIZE_UM, MPP)


@pytest.fixture(scope="module")
def he(section):
    return stain_he(section.amounts)


def pair_of(he, partner, partner_mpp=PARTNER_MPP):
    return open_pair(
        *open_drawn(he, MPP, "he"), *open_drawn(partner, partner_mpp, "partner"), threads=2
    )


@pytest.mark.parametrize(
    "warp",
    [
        TURNED,
        pytest.param(Warp(degrees=183, scale=0.95), marks=pytest.mark.slow),
        pytest.param(Warp(degrees=90, shift_um=(0, 300)), marks=pytest.mark.slow),
        pytest.param(Warp(degrees=180, mirrored=True), marks=pytest.mark.slow),
    ],
    ids=["turned", "upside down", "turned by 90", "mirrored"],
)
def test_a_restained_partner_is_found_to_a_fraction_of_a_nucleus(section, he, warp):
    found = register_partner(pair_of(he, draw_partner(section, warp, PARTNER_MPP)))
    final = errors_um(found.transform, section, warp)
    assert np.median(final) <= 1 and np.percentile(final, 95) <= 2
    assert found.transform.is_mirrored == warp.mirrored
    assert abs((found.transform.degrees - warp.degrees + 180) % 360 - 180) < 1
    kept = found.tiles.residual_um[found.tiles.is_kept & found.tiles.is_measured]
    assert (
        len(kept) > 20 and abs(np.median(kept) - np.median(final)) < 1
    )  # residuals estimate the errors well


@pytest.mark.slow
def test_threads_change_nothing(section, he):
    partner = draw_partner(section, TURNED, PARTNER_MPP)
    both = []
    for threads in (1, 3):
        pair = open_pair(
            *open_drawn(he, MPP, "he"),
            *open_drawn(partner, PARTNER_MPP, "partner"),
            threads=threads,
        )
        both.append(register_partner(pair).transform)
    assert both[0].matrix.tobytes() == both[1].matrix.tobytes()


def test_tiles_that_reach_beyond_the_slide_are_compared_as_far_as_they_lie_on_it(tmp_path):
    whole = stain_he(draw_section((1024.0, 768.0), MPP, margin_um=0.0).amounts)
    he = whole[
        : round(650 / MPP), : round(870 / MPP)
    ]  # a rest of 102 um at the right, and 138 um of a tile below
    for partner in (he, whole):
        found = register_partner(pair_of(he, partner, MPP), Transform(np.eye(2, 3)))
        assert found.tiles.is_kept.all() and len(found.tiles.is_kept) == 3 * 3
    write_json(tmp_path / "transform.json", describe(found))
    at_edge = np.array([[869.0, 10.0], [869.0, 649.0], [10.0, 649.0], [871.0, 10.0], [10.0, 651.0]])
    assert read_registered(tmp_path / "transform.json").is_kept(at_edge).tolist() == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_uniform_tile_has_the_largest_residual_of_its_neighbours():
    whole = stain_he(draw_section(SIZE_UM, MPP, margin_um=0.0).amounts)
    he = whole.copy()
    he[590:1040, 590:1040] = np.median(whole, (0, 1))  # more than the tile from 512 to 768 um
    tiles = register_partner(pair_of(he, whole, MPP), Transform(np.eye(2, 3))).tiles
    distance = np.abs(tiles.centre_um - 640).max(1)
    (middle,) = np.flatnonzero(~tiles.is_measured)
    assert distance[middle] == 0
    assert tiles.residual_um[middle] == tiles.residual_um[(distance > 0) & (distance < 300)].max()


@pytest.mark.slow
def test_half_a_partner_is_registered_and_the_rest_counted_as_outside(section, he):
    partner = draw_partner(section, TURNED, PARTNER_MPP)
    found = register_partner(pair_of(he, partner[:, : partner.shape[1] // 2]))
    status = found.tiles.status
    assert (status == KEPT).sum() > 8 and (status == OUTSIDE).sum() > 8
    middle_um = partner.shape[1] / 2 * PARTNER_MPP
    on_partner = found.transform.to_partner(found.tiles.centre_um)[:, 0]
    assert (on_partner[status == KEPT] < middle_um).all()
    assert (
        np.median(errors_um(found.transform, section, TURNED)) < 30
    )  # extrapolated where the partner has no image
    assert np.median(found.tiles.residual_um[found.tiles.is_measured]) <= 2


@pytest.mark.slow
def test_lost_and_displaced_tissue_is_left_out_and_counted(section, he):
    partner = draw_partner(section, TURNED, PARTNER_MPP)
    torn = partner.copy()
    torn[:600] = 250  # lost tissue
    top, left, side = 1000, 900, round(500 / PARTNER_MPP)
    torn[top : top + side, left : left + side] = partner[
        top + 50 : top + 50 + side, left : left + side
    ]  # displaced by 45 um
    found = register_partner(pair_of(he, torn))
    at = found.transform.to_partner(found.tiles.centre_um) / PARTNER_MPP
    lost = at[:, 1] < 600 - 150
    moved = ((at > [left + 120, top + 120]) & (at < [left + side - 120, top + side - 120])).all(1)
    assert lost.any() and set(found.tiles.status[lost]) <= {OUTSIDE, NO_MATCH}
    assert moved.any() and set(found.tiles.status[moved]) <= {NO_MATCH, ABOVE_LIMIT}
    elsewhere = (at[:, 1] > 600 + 200) & (
        (at < [left - 250, top - 250]) | (at > [left + side + 250, top + side + 250])
    ).any(1)
    assert (found.tiles.status[elsewhere] == KEPT).mean() > 0.8


@pytest.mark.parametrize("partner", ["small_he.jpg", "small_padded.jpg"])
def test_a_picture_fits_itself_up_to_its_edges(trials, partner):
    folder = trials / "3-edge-tiles-called-outside"
    info, partner_info = (
        inspect_slide(folder / name, name, 0.499) for name in ("small_he.jpg", partner)
    )
    with open_pair_of_files(folder / "small_he.jpg", info, folder / partner, partner_info) as pair:
        found = register_partner(pair)
    assert found.tiles.status.tolist() == [KEPT] * 4


@pytest.mark.parametrize(
    "what",
    [
        # tests/cli/test_register.py is fast and has a partner that does not fit.
        pytest.param("another slide", marks=pytest.mark.slow),
        pytest.param("no overlap", marks=pytest.mark.slow),
        pytest.param("half the um per pixel", marks=pytest.mark.slow),
    ],
)
def test_a_partner_that_does_not_fit_is_one_sentence(section, he, what):
    if what == "another slide":
        pair = pair_of(he, draw_partner(draw_section(SIZE_UM, MPP, seed=7), TURNED, PARTNER_MPP))
    elif what == "no overlap":
        partner = draw_partner(section, Warp(), MPP)
        width = he.shape[1]
        pair = pair_of(he[:, : width // 2], partner[:, width // 2 :], MPP)
    else:
        pair = pair_of(he, draw_partner(section, TURNED, PARTNER_MPP), PARTNER_MPP / 2)
    with pytest.raises(RegistrationError, match="fit slide 'he'") as error:
        register_partner(pair)
    assert "\n" not in str(error.value)


def test_a_partner_without_tissue_is_one_sentence(he):
    with pytest.raises(RegistrationError, match="no tissue"):
        pair_of(he, np.full((600, 700, 3), 245, np.uint8))


@pytest.mark.slow
def test_a_given_start_replaces_the_search(section, he):
    warp = Warp(degrees=40)
    pair = pair_of(he, draw_partner(section, warp, PARTNER_MPP))
    points = np.array([[400.0, 400.0], [1200.0, 500.0], [700.0, 1100.0]])
    source = np.column_stack([warp.to_slide(points, section.size_um), np.ones(3)])
    by_hand = Transform(
        np.linalg.solve(source, points + np.array([20, -15])).T
    )  # as inaccurate as if set by hand
    found = register_partner(pair, by_hand)
    assert np.median(errors_um(found.transform, section, warp)) <= 2
    with pytest.raises(RegistrationError, match="fit slide 'he'"):
        register_partner(pair, Transform(np.array([[1.0, 0, 500], [0, 1, 0]])))


@pytest.mark.slow
def test_a_serial_section_is_not_taken_for_the_same_one(section, he):
    other = draw_section(SIZE_UM, MPP, seed=3)
    amounts = section.amounts.copy()
    amounts[..., :2] = other.amounts[..., :2]  # the outline of this section, but other nuclei
    with pytest.raises(MisfitError, match="nuclei agree in"):
        register_partner(pair_of(he, stain_ihc(amounts), MPP))
