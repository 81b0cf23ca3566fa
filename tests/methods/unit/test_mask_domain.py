"""Windows of masks, their nuclei, and the instance guide whose gradients reach both networks."""

import numpy as np
import pytest

from muse_pipeline.methods.unit.data import MaskDomain, turn_picture, turn_xy
from muse_pipeline.methods.unit.synthesis_masks import (
    InstanceMask,
    TissueSettings,
    fills,
    synthesise_mask,
)
from muse_pipeline.nuclei.masks import label_image_to_nuclei

MPP, N_RAYS = 0.5, 16


@pytest.fixture(scope="module")
def domain():
    masks = [synthesise_mask(index, 0, 96, MPP, TissueSettings()) for index in range(6)]
    return MaskDomain(masks, mpp=MPP, window_px=64, n_rays=N_RAYS, seed=1)


def test_a_step_gives_one_batch_and_another_step_another(domain):
    first, again, other = domain(3, 4), domain(3, 4), domain(4, 4)
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one, two, equal_nan=True)
    pictures = first[0]
    assert not np.array_equal(pictures, other[0])
    assert pictures.shape == (4, 3, 64, 64) and pictures.dtype == np.float32
    assert pictures.min() == -1 and pictures.max() == 1


def test_padding_is_no_nucleus(domain):
    _, xy, rays, label = domain(0, 8)
    real = label >= 0
    inside = ((xy >= 0) & (xy <= 64)).all(2)
    assert ((xy >= -8) & (xy <= 64 + 8)).all(2)[real].all() and not inside[real].all()
    assert np.isfinite(rays[real]).all() and np.isnan(rays[~real]).all()
    assert (xy[~real] == -1e6).all() and real.any(1).all()


@pytest.mark.parametrize("turn", range(8))
def test_nuclei_turn_with_their_pixels(turn):
    mask = synthesise_mask(2, 0, 64, MPP, TissueSettings())
    domain = MaskDomain([mask], mpp=MPP, window_px=64, n_rays=N_RAYS, seed=0)
    turned = label_image_to_nuclei(fills(turn_picture(mask.instances, turn)), (MPP, MPP), N_RAYS)
    assert np.allclose(turn_xy(domain.nuclei(0).xy, turn, 64), turned.xy)
    found, wanted = domain.nuclei(0).rays[:, domain.turned[turn]], turned.rays
    both = np.isfinite(wanted[:, 0])
    assert np.allclose(found[both], wanted[both], atol=1e-4)


def test_an_empty_window_is_a_window():
    instances = np.zeros((64, 64), np.uint16)
    instances[:4, :4] = 1
    domain = MaskDomain(
        [InstanceMask(np.pad(instances, (0, 64)), np.zeros(1, np.uint8))],
        mpp=MPP,
        window_px=32,
        n_rays=8,
        seed=0,
    )
    labels = np.concatenate([domain(step, 4)[-1].max(1) for step in range(5)])
    assert (labels == -1).any()
