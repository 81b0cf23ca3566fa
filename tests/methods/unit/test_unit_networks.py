"""Discriminators and the reader: shapes, patches, gradients, and the detector that is made from the
reader.
"""

import torch

from muse_pipeline.methods.unit.translation import MaskReader, PatchDiscriminator

EYE = torch.eye(3, 4)


def test_four_strided_convolutions_see_patches_of_94_px():
    torch.manual_seed(0)
    picture = torch.randn(1, 3, 256, 256, requires_grad=True)
    PatchDiscriminator((4, 4, 4, 4), False)(picture)[0, 0, 8, 8].backward()
    seen = picture.grad.abs().sum((0, 1)).nonzero()
    assert (seen.amax(0) - seen.amin(0) + 1).tolist() == [94, 94]


def test_the_detector_reads_what_the_reader_reads():
    torch.manual_seed(0)
    reader = MaskReader("muse_compact_16", 8, (6, 5)).eval()
    pixels = 255 * torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours, its = reader(pixels, EYE).nuclei, reader.detector()(pixels, EYE)
    for first, second in zip(ours, its, strict=True):
        assert torch.equal(first, second)
