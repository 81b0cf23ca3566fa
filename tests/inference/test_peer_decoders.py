"""Maps of third-party networks are decoded as the authors' own programs decode them
(`experiments/peer_decoders`).
"""

import numpy as np
import pytest

from experiments.peer_decoders.authors import FAMILIES
from experiments.peer_decoders.run import COUNTED, FIXTURES, compare
from muse_pipeline.inference.families.instanseg import _join_similar, _paint


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_nuclei_and_classes_as_the_authors_find(family):
    """The windows have seams within the picture, and at least a quarter of its nuclei touch another
    one.
    """
    found = compare(family, dict(np.load(FIXTURES / f"{family}.npz")))
    assert len(found["iou"]) >= 10 and min(found["iou"]) >= 0.9
    assert found["same"] == 1 and not any(found[name] for name in COUNTED)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_pixel_that_two_seeds_claim_belongs_to_the_more_probable_one(order):
    prob = np.zeros((2, 4, 4))
    prob[0, :, :3], prob[1, :, 2:] = 0.9, 0.6
    pixels = tuple(np.indices((4, 4))[:, None].repeat(2, 1))
    labels, best = _paint(prob[order], pixels, (4, 4))
    assert (labels == np.add(order, 1)[[0, 0, 0, 1]]).all() and (best == [0.9, 0.9, 0.9, 0.6]).all()


@pytest.mark.parametrize(("n_shared", "n_nuclei"), [(11, 1), (8, 2)])
def test_seeds_of_instanseg_are_joined_by_the_union_of_their_masks(n_shared, n_nuclei):
    """Two masks of 20 px: with 11 common px their IoU is 0.38, with 8 it is 0.25."""
    place = np.concatenate([np.arange(20), np.arange(20 - n_shared, 40 - n_shared)])
    nucleus = _join_similar(np.repeat([0, 1], 20), place, 2, 60)
    assert len(set(nucleus)) == n_nuclei
