"""CZI slides: their pixels, and files that are rejected."""

import numpy as np
import pytest
from pylibCZIrw.czi import create_czi
from slide_files import draw_gradient, write_czi

from muse_pipeline.core.errors import SlideError
from muse_pipeline.slides.base import open_slide


def write_planes(path, image, **planes):
    """Write a CZI file as fluorescence scanners do, with the given number of grey planes in each
    dimension.
    """
    with create_czi(str(path)) as document:
        for name, n in planes.items():
            for number in range(n):
                document.write(image[..., :1].copy(), plane={name: number})
        document.write_metadata("slide")
    return path


def test_scenes_are_one_picture(tmp_path, gradient):
    write_czi(tmp_path / "slide.czi", gradient, pixel_um=0.25, scenes=2)
    with open_slide(tmp_path / "slide.czi") as slide:
        (candidate,) = slide.properties.mpp_candidates
        assert candidate.mpp == pytest.approx((0.25, 0.25))
        assert "2 scenes" in slide.properties.warnings[0]
        height = len(gradient)
        pixels = slide.read_region((0, height), 0, (60, 120))
        assert (pixels[:100] == 255).all()
        np.testing.assert_array_equal(pixels[100:], gradient[:20, :60])


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_cameras_use_some_of_16_bits(tmp_path, bits):
    picture = draw_gradient(700, 600)
    deep = picture.astype(np.uint16) << (bits - 8) | (picture >> (16 - bits))
    write_czi(tmp_path / "slide.czi", deep)
    with open_slide(tmp_path / "slide.czi") as slide:
        assert len(slide.properties.level_sizes_px) > 1
        np.testing.assert_array_equal(slide.read_region((0, 0), 0, picture.shape[1::-1]), picture)


@pytest.mark.parametrize(
    "planes, message", [({"C": 2}, "2 channels of Gray8"), ({"C": 1}, "1 channels of Gray8")]
)
def test_fluorescence_is_rejected(tmp_path, gradient, planes, message):
    path = write_planes(tmp_path / "slide.czi", gradient, **planes)
    with pytest.raises(SlideError, match=message):
        open_slide(path)


def test_a_damaged_file_is_rejected(tmp_path, gradient):
    path = tmp_path / "slide.czi"
    write_czi(path, gradient)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SlideError, match="begins like"):
        open_slide(path)
