"""Nuclei are found by position, whether their index is in memory or in a memory-mapped file."""

import numpy as np
import pytest

from muse_pipeline.data.nucleus_images import NucleusIndex

SIZE_PX, MPP = (1000, 700), 0.5


@pytest.fixture(scope="module")
def index():
    return NucleusIndex.build(
        np.random.default_rng(0).uniform(0, SIZE_PX, (5000, 2)), SIZE_PX, MPP
    )[0]


def test_a_box_holds_what_a_view_at_all_of_them_finds(index, tmp_path):
    index.save(tmp_path / "index")
    mapped = NucleusIndex.open(tmp_path / "index", SIZE_PX, MPP)
    rng = np.random.default_rng(1)
    for _ in range(200):
        left, top = rng.uniform(0, SIZE_PX)
        right, bottom = np.array([left, top]) + rng.uniform(
            0, 600, 2
        )  # the box may reach beyond the image
        xy = index.xy.astype(float)
        expected = np.flatnonzero(((xy >= (left, top)) & (xy < (right, bottom))).all(1))
        for one in (index, mapped):
            numbers, found = one.inside(left, top, right, bottom)
            assert np.array_equal(np.sort(numbers), expected)
            assert np.array_equal(found, xy[numbers])


def test_what_lies_outside_is_dropped_and_borders_are_kept():
    edge = np.nextafter(1000.0, 0)  # rounds to 1000 as float32
    xy = [[0, 0], [edge, 0], [-0.1, 5], [1000, 5], [5, 700], [999, 699]]
    index = NucleusIndex.build(np.array(xy), SIZE_PX, MPP)[0]
    assert len(index.xy) == 3
    assert len(index.inside(990, 690, 1010, 710)[0]) == 1
    assert len(index.inside(0, 0, 1001, 701)[0]) == 3


def test_no_nuclei_are_an_index_too(tmp_path):
    NucleusIndex.build(np.zeros((0, 2)), SIZE_PX, MPP)[0].save(tmp_path / "none")
    index = NucleusIndex.open(tmp_path / "none", SIZE_PX, MPP)
    assert len(index.xy) == 0 and len(index.inside(0, 0, 1000, 700)[0]) == 0


def test_occupied_cells_are_drawn_alike():
    """A thousand nuclei in one corner are together drawn as often as a single nucleus in another
    corner.
    """
    rng = np.random.default_rng(0)
    index = NucleusIndex.build(
        np.concatenate([rng.uniform(0, 20, (1000, 2)), [[900, 600]]]), SIZE_PX, MPP
    )[0]
    drawn = np.array([index.draw(rng) for _ in range(400)])
    assert np.mean(drawn[:, 0] > 500) == pytest.approx(0.5, abs=0.08)


def test_saving_again_replaces(index, tmp_path):
    index.save(tmp_path / "index")
    NucleusIndex.build(np.array([[5.0, 5.0]]), SIZE_PX, MPP)[0].save(tmp_path / "index")
    assert len(NucleusIndex.open(tmp_path / "index", SIZE_PX, MPP).xy) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
