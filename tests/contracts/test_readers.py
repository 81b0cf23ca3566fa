"""The contract of slide readers; a new reader is tested once it is added here."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from slide_files import shrink, spoil_tile, write_czi, write_pyramid

from muse_pipeline.core.errors import ConfigError, SlideError
from muse_pipeline.core.types import Slide
from muse_pipeline.slides.base import READERS, SlideReader, UnsuitedError, open_slide
from muse_pipeline.slides.packages import PackageReader


class OfAPackage(PackageReader):
    """A reader of another package, whose entry point returns OpenSlide's class."""

    name, load = "package", staticmethod(lambda: openslide.OpenSlide)


# For each reader, a suffix, and a function that writes an image which this reader opens.
WRITERS = {
    "openslide": (".tif", write_pyramid),
    "tiffslide": (".ome.tif", lambda path, image: write_pyramid(path, image, ome=True)),
    "image": (".png", lambda path, image: Image.fromarray(image).save(path)),
    "czi": (".czi", write_czi),
    OfAPackage.name: (".tif", write_pyramid),
}


@pytest.fixture(params=[*READERS.names(), OfAPackage.name])
def name(request) -> str:
    return request.param


@pytest.fixture
def path(name, tmp_path, gradient):
    suffix, write = WRITERS[name]
    write(tmp_path / f"slide{suffix}", gradient)
    return tmp_path / f"slide{suffix}"


@pytest.fixture
def slide(name, path):
    with OfAPackage(path) if name == OfAPackage.name else open_slide(path) as slide:
        assert slide.name == name
        yield slide


def test_is_a_slide_and_reports_its_levels(slide, path, gradient):
    assert isinstance(slide, SlideReader) and isinstance(slide, Slide) and slide.path == path
    sizes, downsamples = slide.properties.level_sizes_px, slide.properties.level_downsamples
    assert sizes[0] == (gradient.shape[1], gradient.shape[0])
    assert downsamples == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))[: len(sizes)]


@pytest.mark.parametrize("xy", [(0, 0), (37, 411), (700, 500)])
def test_level_0_is_exact(slide, gradient, xy):
    pixels = slide.read_region(xy, 0, (200, 100))
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    np.testing.assert_array_equal(pixels, gradient[xy[1] : xy[1] + 100, xy[0] : xy[0] + 200])


def test_a_level_is_read_from_its_nearest_pixel(slide, gradient):
    for level, (downsample, _) in enumerate(slide.properties.level_downsamples):
        expected = shrink(gradient, int(downsample))
        for k in (0, 55, 201):
            pixels = slide.read_region((round(k * downsample), 0), level, (20, 10))
            # OpenSlide's mean downsample is not an integer here, so pixels are interpolated, but
            # they must not drift.
            np.testing.assert_allclose(
                pixels[..., :2].astype(int), expected[:10, k : k + 20, :2], atol=1
            )


def test_outside_is_white(slide, gradient):
    height, width = gradient.shape[:2]
    assert (slide.read_region((-500, -500), 0, (100, 80)) == 255).all()
    assert (slide.read_region((width + 5, 0), 0, (100, 80)) == 255).all()
    corner = slide.read_region((width - 10, height - 20), 0, (50, 40))
    np.testing.assert_array_equal(corner[:20, :10], gradient[-20:, -10:])
    assert (corner[20:] == 255).all()
    assert (corner[:, 10:] == 255).all()
    start = slide.read_region((-7, -3), 0, (16, 16))
    np.testing.assert_array_equal(start[3:, 7:], gradient[:13, :9])
    assert (start[:3] == 255).all()
    assert (start[:, :7] == 255).all()


def test_the_last_level_ends_where_its_image_ends(slide):
    level = len(slide.properties.level_sizes_px) - 1
    width, height = slide.properties.level_sizes_px[level]
    pixels = slide.read_level((width - 4, height - 4), level, (8, 8))
    assert (pixels[5:] == 255).all()  # OpenSlide may blend the last pixel with the white beyond it
    assert (pixels[:, 5:] == 255).all()
    assert (pixels[:3, :3, 2] < 220).all()


def test_threads_share_a_slide(slide, gradient):
    positions = [(x, y) for x in range(0, 900, 90) for y in range(0, 700, 70)]

    def differs(xy):
        x, y = xy
        return (slide.read_region(xy, 0, (90, 70)) != gradient[y : y + 70, x : x + 90]).any()

    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(differs, positions))


def test_rejects_what_is_not_its_own(name, tmp_path):
    path = tmp_path / "noise.svs"
    path.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(UnsuitedError):
        (OfAPackage if name == OfAPackage.name else READERS[name])(path)


@pytest.mark.parametrize("name", ["openslide", "tiffslide"], indirect=True)
def test_a_corrupt_tile_costs_one_tile_and_fails_no_other_thread(slide, path, gradient):
    slide.close()
    spoil_tile(path, page=0, tile=1)
    positions = [(300, 10), (0, 0), (300, 300), (10, 520), (600, 300)] * 12

    def read(xy):
        x, y = xy
        try:
            pixels = slide.read_region(xy, 0, (50, 50))
        except SlideError as error:
            return "level 0" in str(error)
        return (pixels == gradient[y : y + 50, x : x + 50]).all() and xy != (300, 10)

    with open_slide(path) as slide, ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, positions))


def test_asked_for_by_name(pyramid_path):
    with open_slide(pyramid_path, "tiffslide") as slide:
        assert slide.name == "tiffslide"
    with pytest.raises(ConfigError, match="did you mean 'openslide'"):
        open_slide(pyramid_path, "open-slide")


def test_tiles_never_written_are_glass(tmp_path):
    path = tmp_path / "sparse.ome.tif"

    def tiles():
        yield np.full((256, 256, 3), 90, np.uint8)
        yield from [None] * 3

    how = {"shape": (512, 512, 3), "dtype": np.uint8, "tile": (256, 256)}
    tifffile.imwrite(path, tiles(), photometric="rgb", compression="deflate", **how)
    with open_slide(path) as slide:
        pixels = slide.read_region((0, 0), 0, (512, 512))
    assert (pixels[:256, :256] == 90).all()
    assert (pixels[256:] == 255).all()
