"""Discriminators and the reader: shapes, patches, gradients, and the detector that is made from the
reader.
"""

import pytest
import torch

from muse_pipeline.methods.unit.translation import MaskReader, PatchDiscriminator

EYE = torch.eye(3, 4)


@pytest.mark.parametrize("norm", [False, True])
def test_scores_are_a_map_at_the_total_stride(norm):
    assert PatchDiscriminator((4, 8, 8), norm)(torch.zeros(2, 3, 64, 48)).shape == (2, 1, 8, 6)


def test_four_strided_convolutions_see_patches_of_94_px():
    torch.manual_seed(0)
    picture = torch.randn(1, 3, 256, 256, requires_grad=True)
    PatchDiscriminator((4, 4, 4, 4), False)(picture)[0, 0, 8, 8].backward()
    seen = picture.grad.abs().sum((0, 1)).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [94, 94]


@pytest.mark.parametrize("backbone", ["muse_compact_16", "shallow_cnn"])
def test_a_reader_gives_masks_of_the_pictures_size_and_nuclei_at_stride_four(backbone):
    torch.manual_seed(0)
    reader = MaskReader(backbone, 8, (6, 5))
    pixels = (255 * torch.rand(2, 3, 64, 96)).requires_grad_()
    reading = reader(pixels, EYE)
    assert reading.mask.shape == (2, 3, 64, 96)
    assert [values.shape[1] for values in reading.nuclei] == [1, 2, 1, 8]
    assert reading.nuclei.centre.shape[-2:] == (16, 24)
    for output in (reading.mask, reading.nuclei.centre):
        (gradient,) = torch.autograd.grad(output.sum(), pixels, retain_graph=True)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_the_detector_reads_what_the_reader_reads():
    torch.manual_seed(0)
    reader = MaskReader("muse_compact_16", 8, (6, 5)).eval()
    pixels = 255 * torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours, its = reader(pixels, EYE).nuclei, reader.detector()(pixels, EYE)
    for first, second in zip(ours, its, strict=True):
        assert torch.equal(first, second)
