"""Small pictures, with their nuclei and outlines, are continued by mirror images."""

import numpy as np

from muse_pipeline.data.windows import continue_mirrored
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.nuclei.masks import label_image_to_nuclei

MPP = 0.5


def picture():
    """A picture with a bright ellipse, off-centre and oblique, labelled as a nucleus with the
    outline of its mask.
    """
    y, x = np.mgrid[:60, :40] + 0.5
    mask = ((x - 17 + 0.5 * (y - 25)) / 5) ** 2 + ((y - 25) / 10) ** 2 <= 1
    pixels = np.where(mask[..., None], 200, 50).astype(np.uint8).repeat(3, 2)
    nuclei = label_image_to_nuclei(mask.astype(np.int32), (MPP, MPP), 32)
    return LabelledImage(name="A", pixels=pixels, nuclei=nuclei, stain=None, weight=1.0)


def test_nuclei_lie_on_their_mirror_images_with_mirrored_outlines():
    small = picture()
    large = continue_mirrored(small, 100, MPP)
    assert large.pixels.shape == (120, 120, 3)
    assert len(large.nuclei) == 6
    again = label_image_to_nuclei(
        # each copy is a separate nucleus, numbered by the tile of the mosaic in which it lies
        (large.pixels[..., 0] > 100)
        * (1 + np.add.outer(3 * (np.arange(120) // 60), np.arange(120) // 40)),
        (MPP, MPP),
        32,
    )
    np.testing.assert_allclose(large.nuclei.xy, again.xy, atol=0.05)
    np.testing.assert_allclose(large.nuclei.rays, again.rays, atol=0.35)
    assert (large.nuclei.label == small.nuclei.label[0]).all()


def test_seams_are_not_annotated_and_large_pictures_stay():
    small = picture()
    region = continue_mirrored(small, 100, MPP).region
    for at in (40, 80):
        assert not region[:, at - 6 : at + 6].any()
    assert region[10, 10] and not region[:6].any() and not region[54:66].any()
    assert continue_mirrored(small, 41, MPP).pixels.shape == (60, 80, 3)
    assert continue_mirrored(small, 40, MPP) is small
