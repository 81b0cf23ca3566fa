"""Pseudo-masks: nuclei are found, areas below a size in um2 are removed, and implausible masks are
rejected.
"""

import numpy as np
import torch
from PIL import Image

from muse_pipeline.methods.psm.activation_map import (
    ActivationNetwork,
    PseudoMasker,
    clean,
)


def draw_discs(radius=8, seed=0):
    """(160, 160, 3) uint8: purple discs on pink; and (160, 160) bool: the mask of the discs."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:160, :160]
    truth = np.zeros((160, 160), bool)
    for row, column in generator.integers(12, 148, (12, 2)):
        truth |= (y - row) ** 2 + (x - column) ** 2 <= radius**2
    pixels = np.where(truth[..., None], (95, 60, 140), (225, 160, 190)) + generator.integers(
        -9, 10, (160, 160, 3)
    )
    return pixels.clip(0, 255).astype(np.uint8), truth


def network():
    torch.manual_seed(0)
    return ActivationNetwork("shallow_cnn").eval()


def test_discs_are_found_in_pictures_that_the_fit_did_not_see():
    masker = PseudoMasker(network(), [draw_discs(seed=0)[0], draw_discs(seed=1)[0]], 0.5)
    pixels, truth = draw_discs(seed=2)
    mask = masker(pixels)
    assert mask.dtype == bool and 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.9


def test_cleaning_is_in_square_micrometres():
    mask = np.zeros((60, 60), bool)
    mask[5:12, 5:12] = True  # 49 px: 12.25 um2 at 0.5 um/px, 49 um2 at 1 um/px
    mask[20:50, 20:50] = True
    mask[30:33, 30:35] = False  # 15 px: 3.75 um2
    mask[40:45, 40:45] = False  # 25 px: 6.25 um2
    cleaned = clean(mask, 0.5)
    assert not cleaned[8, 8] and cleaned[31, 31] and not cleaned[42, 42] and cleaned[22, 22]
    assert (clean(mask, 1.0) == mask).all()


def test_background_in_one_crop_is_no_hole():
    assert not clean(np.zeros((10, 10), bool), 0.01).any()


def test_masks_that_cannot_be_nuclei_are_rejected():
    discs, full = draw_discs()[0], np.full((64, 64, 3), (95, 60, 140), np.uint8)
    masker = PseudoMasker(network(), [discs], 0.5)
    assert not masker(full).any()
    assert masker(discs).any()
    pale = np.random.default_rng(0).normal(235, 4, (128, 128, 3)).clip(0, 255).astype(np.uint8)
    assert not PseudoMasker(network(), [pale], 0.5)(pale).any()


def test_real_nuclei_without_a_label(shared_data):
    folder = shared_data / "nucls-cc0"
    shared = true = found = 0
    for name in ("train_1", "train_2", "train_3"):
        with (
            Image.open(folder / f"images/{name}.png") as picture,
            Image.open(folder / f"instances/{name}.png") as mask,
        ):
            pixels, truth = (
                np.asarray(picture.convert("RGB"))[::2, ::2],
                np.asarray(mask)[::2, ::2] > 0,
            )
        mask = PseudoMasker(network(), [pixels], 0.5)(pixels)
        shared, true, found = shared + (mask & truth).sum(), true + truth.sum(), found + mask.sum()
    assert 2 * shared / (true + found) > 0.75
