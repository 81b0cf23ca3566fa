"""The controls of the pretraining experiment break what they are meant to break, and nothing else."""

import numpy as np
import torch

from experiments.common.training import shuffle_identities
from experiments.muse_proof.controls import EncoderAlone, EndsSampler, RandomPointsImage
from muse_pipeline.data.augment import Augmentation
from muse_pipeline.data.nucleus_images import NucleusIndex, NucleusPicture
from muse_pipeline.data.views import ViewBatches, ViewSettings


def draw_batch(image):
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    settings = ViewSettings(global_px=64, local_px=32, n_local=2, mpp=(0.5, 1.0))
    options = {"augmentation": Augmentation(), "seed": 7, "batch": 3}
    return ViewBatches([image], np.eye(3, 4)[None], stains, settings=settings, **options)(0)


def make_image():
    rng = np.random.default_rng(0)
    pixels = rng.integers(90, 250, (400, 400, 3)).astype(np.uint8)
    index = NucleusIndex.build(rng.uniform(0, 400, (400, 2)), (400, 400), 0.5)[0]
    return NucleusPicture("A", "P", 0.5, (400, 400), None, 1.0, pixels, index)


def test_shuffled_identities_mix_the_nuclei_that_both_views_show():
    plain = draw_batch(make_image())
    shuffled = shuffle_identities(plain, seed=1)
    assert torch.equal(plain.teacher_xy, shuffled.teacher_xy)
    assert not torch.equal(plain.student_xy, shuffled.student_xy)
    assert torch.equal(plain.student_xy.sort(2).values, shuffled.student_xy.sort(2).values)
    assert (shuffled.student_xy[~plain.shared] == plain.student_xy[~plain.shared]).all()


def test_random_points_are_shared_by_views_and_are_no_nuclei():
    image = make_image()
    other = RandomPointsImage.of(image)
    box = (100.0, 100.0, 300.0, 300.0)
    numbers, xy = other.nuclei.inside(*box)
    assert np.array_equal(numbers, image.nuclei.inside(*box)[0])
    assert ((xy >= 100) & (xy < 300)).all() and not np.isin(xy, image.nuclei.xy).any()
    assert np.array_equal(xy, other.nuclei.inside(*box)[1])
    batch = draw_batch(other)
    assert batch.shared.any()
    assert not torch.equal(batch.teacher_xy, draw_batch(image).teacher_xy)


def test_global_views_lie_at_either_end_of_the_scales():
    sample = EndsSampler([make_image()], ViewSettings(global_px=64, local_px=32, n_local=2, mpp=(0.5, 1.0)))
    generator = np.random.default_rng(0)
    mpps = np.array([[view.mpp for view in sample(generator).views] for _ in range(200)])
    fine, coarse = np.isclose(mpps, 0.5), np.isclose(mpps, 1.0)
    assert (fine | coarse).all()
    assert (fine[:, 0] != fine[:, 1]).all()
    np.testing.assert_allclose(fine.mean(0), 0.5, atol=0.15)


def test_the_encoder_alone_reads_the_deepest_stage_at_every_cell():
    torch.manual_seed(0)
    backbone = EncoderAlone((16, 16, 32), (1, 1, 1)).eval()
    with torch.no_grad():
        found = backbone(torch.rand(2, 3, 96, 64))
    assert found.dense.shape == (2, backbone.channels, 24, 16)
    torch.testing.assert_close(found.dense.mean((2, 3)), found.image)
    assert not any(name.startswith("decoder") for name, _ in backbone.named_parameters())
