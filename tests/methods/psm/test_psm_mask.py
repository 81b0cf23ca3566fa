"""The network that learns from masks: its loss by hand, and that it denoises."""

import numpy as np
import pytest
import torch

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.data.augment import Augmentation
from muse_pipeline.losses.psm import partial_nll
from muse_pipeline.methods.psm.mask_network import MaskBatch, MaskedPicture, MaskNetwork, MaskTraining, MaskWindows

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])


def test_only_labelled_pixels_are_judged():
    logit = torch.tensor([[[2.0, -1.0, 0.5]]])
    target = torch.tensor([[[1.0, 0.0, -1.0]]])
    expected = (np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2
    assert float(partial_nll(logit, target)) == pytest.approx(expected, rel=1e-6)
    logit.requires_grad_()
    partial_nll(logit, -torch.ones_like(target)).backward()
    assert float(logit.grad.abs().sum()) == 0


def batch_of(mask, voronoi):
    pixels = torch.full((1, 3, 32, 32), 200.0)
    full = (torch.as_tensor(label, dtype=torch.float32).expand(1, 32, 32) for label in (mask, voronoi))
    return MaskBatch(pixels, torch.eye(3, 4)[None], *full)


def test_the_terms_add_up_and_foreground_may_be_ignored():
    torch.manual_seed(0)
    network = MaskNetwork("muse_compact_16").eval()
    batch = batch_of(1.0, 0.0)
    terms = MaskTraining(network).losses(batch, "model", 0.0)
    assert terms["loss"].item() == pytest.approx((terms["mask"] + 1.5 * terms["voronoi"]).item())
    assert terms["mask"].item() > 1  # a mask that is all nucleus, and probabilities that start at 0.2
    ignoring = MaskTraining(network, "ignore")
    assert ignoring.losses(batch, "model", 0.0)["mask"].item() == 0
    alone = ignoring.losses(batch._replace(voronoi=None), 0, 0.0)
    assert alone["mask"].item() == terms["mask"].item()  # without points the mask is all there is
    with pytest.raises(ConfigError, match="mask_fg"):
        MaskTraining(network, "neither")


def masked_picture(generator, noise=0.0):
    """A dark square on pink whose mask is turned over at ``noise`` of its pixels."""
    truth = np.zeros((96, 96), np.uint8)
    truth[24:56, 40:72] = 1
    pixels = np.where(truth[..., None] > 0, (90, 60, 130), (235, 190, 215)).astype(np.uint8)
    mask = np.where(generator.random(truth.shape) < noise, 1 - truth, truth).astype(np.uint8)
    return truth, MaskedPicture(pixels, mask, None, np.eye(3, 4))


def test_windows_take_masks_along_and_have_nothing_beyond_the_picture():
    _, picture = masked_picture(np.random.default_rng(0))
    still = Augmentation(stain_gain=0, stain_mix=0, shift=0, blur=0, noise=0)
    windows = MaskWindows(
        [picture],
        STAINS,
        mpp=0.5,
        window_px=128,
        batch=4,
        augmentation=still,
        seed=0,
        device=torch.device("cpu"),
    )
    batch = windows(3)
    dark = batch.pixels[:, 1] < 125
    known = batch.mask >= 0
    assert not known.all()
    agree = (dark == (batch.mask == 1))[known].float().mean()
    assert agree > 0.98
    assert batch.voronoi is None
    assert torch.equal(batch.mask, windows(3).mask)


def test_windows_are_seen_in_the_colour_of_their_picture():
    """Where colour is not varied; the losses are those of the network with that colour."""
    _, picture = masked_picture(np.random.default_rng(0))
    voronoi = np.where(picture.mask == 1, 1, 255).astype(np.uint8)
    pictures = [MaskedPicture(picture.pixels, picture.mask, voronoi, scale * np.eye(3, 4)) for scale in (0.5, 2.0)]
    still = Augmentation(stain_gain=0, stain_mix=0, shift=0, blur=0, noise=0, partial_colour=1)
    options = {"mpp": 0.5, "window_px": 64, "batch": 4, "augmentation": still, "device": torch.device("cpu")}
    batch = MaskWindows(pictures, STAINS, seed=0, **options)(0)
    assert {round(one, 4) for one in batch.colour[:, 0, 0].tolist()} == {0.5, 2.0}
    assert torch.equal(batch.voronoi == 1, batch.mask == 1) and not (batch.voronoi == 0).any()
    torch.manual_seed(0)
    network = MaskNetwork("muse_compact_16").eval()
    torch.nn.init.normal_(network.head[2].weight)
    logit = network(batch.pixels, batch.colour)
    known, positive = batch.mask >= 0, batch.mask == 1
    expected = -torch.where(positive, logit.sigmoid(), 1 - logit.sigmoid()).log()
    found = MaskTraining(network, voronoi_weight=0.7).losses(batch, "model", 0.0)
    torch.testing.assert_close(found["mask"], expected[known].mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["loss"], found["mask"] + 0.7 * expected[positive].mean(), rtol=1e-4, atol=1e-5)


def test_training_removes_noise_from_masks():
    truth, picture = masked_picture(np.random.default_rng(0), noise=0.2)
    windows = MaskWindows(
        [picture],
        STAINS,
        mpp=0.5,
        window_px=64,
        batch=4,
        augmentation=Augmentation(),
        seed=0,
        device=torch.device("cpu"),
    )
    torch.manual_seed(0)
    method = MaskTraining(MaskNetwork("muse_compact_16")).train()
    optimiser = torch.optim.AdamW(method.network.parameters(), 5e-3)
    for step in range(40):
        method.losses(windows(step), step, 0.0)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        method.after_step(0.0)
    pixels = torch.from_numpy(picture.pixels).permute(2, 0, 1)
    found = method.trained().probability(pixels, torch.eye(3, 4)).numpy() > 0.5
    assert (found == truth).mean() > 0.95 > (picture.mask == truth).mean()


def test_a_picture_of_any_size_has_a_probability_at_every_pixel():
    network = MaskNetwork("muse_compact_16").eval()
    probability = network.probability(torch.full((3, 37, 51), 230, dtype=torch.uint8), torch.eye(3, 4))
    assert probability.shape == (37, 51)
    assert 0.1 < float(probability.mean()) < 0.3
