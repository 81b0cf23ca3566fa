"""Tiles that are decoded without OpenSlide have exactly its pixels and give its errors."""

import random

import imagecodecs
import numpy as np
import openslide
import psutil
import pytest
import tifffile
from slide_files import shrink, write_pyramid

from muse_pipeline.core.errors import SlideError
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.direct_tiles import DirectTiles

SIZE, TILE = (700, 520), 240  # in px; the size is not a multiple of the tile
REGIONS = [
    ((0, 0), (TILE, TILE)),
    ((TILE, TILE), (TILE, TILE)),
    ((37, 101), (301, 233)),
    ((TILE - 1, TILE - 1), (2, 2)),
    ((-20, -30), (100, 90)),
    ((600, 400), (200, 200)),
    ((-5, -5), (800, 600)),
    ((5000, 0), (10, 20)),
]
KINDS = ["444", "422", "420", "411", "440", "rgb", "tables", "rgb tables"]
APERIO = "Aperio Image Library v0\r\n700x520 (240x240) {}|AppMag = 20|MPP = 0.5"


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """(h, w, 3) uint8: squares of any colour, in which any difference in upsampling is visible."""
    squares = np.random.default_rng(0).integers(0, 256, (SIZE[1] // 5, SIZE[0] // 5, 3), np.uint8)
    return squares.repeat(5, 0).repeat(5, 1)


def write_jpeg_slide(path, picture, kind="420", factors=(1, 2, 4), description=None):
    """Write a pyramid of JPEG tiles; ``kind`` states the colour encoding, and whether a tag has the
    JPEG tables.
    """
    rgb, subsampling = "rgb" in kind, kind if kind.isdigit() else "420"
    colours = {"outcolorspace": "RGB"} if rgb else {"subsampling": subsampling}
    with tifffile.TiffWriter(path) as tiff:
        for factor in factors:
            image = shrink(picture, factor)
            height, width = (-(-side // TILE) * TILE for side in image.shape[:2])
            image = np.pad(
                image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), "edge"
            )
            streams = [
                imagecodecs.jpeg8_encode(
                    np.ascontiguousarray(image[y : y + TILE, x : x + TILE]), 80, **colours
                )
                for y in range(0, height, TILE)
                for x in range(0, width, TILE)
            ]
            tables = None
            if "tables" in kind:
                parts = [part_tables(stream) for stream in streams]
                tables, streams = parts[0][0], [stream for _, stream in parts]
            tiff.write(
                iter(streams),
                shape=shrink(picture, factor).shape,
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                compression="jpeg",
                jpegtables=tables,
                description=description if factor == 1 else None,
                subfiletype=int(factor > 1),
                metadata=None,
            )
    if rgb:  # tifffile cannot write such files
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            for page in tiff.pages:
                page.tags["PhotometricInterpretation"].overwrite(tifffile.PHOTOMETRIC.RGB)


def part_tables(stream):
    """The tables of a JPEG stream, and the stream without its tables and without the markers that
    state its colours.
    """
    tables, rest, at = b"", b"", 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if stream[at + 1] in (0xDB, 0xC4):
            tables += stream[at:end]
        elif not 0xE0 <= stream[at + 1] <= 0xEF:
            rest += stream[at:end]
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + stream[at:]


def painter(path):
    """A function that reads a slide only with OpenSlide, and the sizes of its levels."""
    handle = openslide.OpenSlide(path)

    def paint(xy_px, level, size):
        corner = [round(at * handle.level_downsamples[level]) for at in xy_px]
        pixels = np.array(handle.read_region(corner, level, size))
        return np.where(pixels[..., 3:] == 255, pixels[..., :3], 255).astype(np.uint8)

    return paint, dict(enumerate(handle.level_dimensions))


def outcome(slide, *region):
    """The pixels of a region as bytes, or the text of the error."""
    try:
        return slide.read_level(*region).tobytes()
    except SlideError as error:
        return str(error)


def assert_reads_as_openslide(path):
    """Assert that each of the three levels of a slide has OpenSlide's pixels in all ``REGIONS``."""
    paint, sizes = painter(path)
    tiles = DirectTiles(path, sizes)
    assert len(sizes) == 3
    for level in sizes:
        for xy, size in REGIONS:
            pixels = tiles.read(xy, level, size, paint)
            np.testing.assert_array_equal(pixels, paint(xy, level, size))
            assert pixels.flags.c_contiguous
            assert pixels.flags.writeable


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_openslides_own(tmp_path, picture, kind):
    path = tmp_path / "slide.tif"
    write_jpeg_slide(path, picture, kind)
    assert_reads_as_openslide(path)


def test_levels_between_pixels_are_left_to_openslide(tmp_path, picture):
    path = tmp_path / "slide.tif"
    write_jpeg_slide(path, picture, factors=(1, 3))
    with open_slide(path) as slide:
        painted = slide._paint((50, 60), 1, (100, 90))
        assert slide.properties.level_downsamples[1] == (3.0, 3.0)
        np.testing.assert_array_equal(slide.read_level((50, 60), 1, (100, 90)), painted)
        assert slide._direct_tiles._sizes.keys() == {0}
        assert slide.name == "openslide"
    assert not [file for file in psutil.Process().open_files() if file.path == str(path)]


def test_a_level_on_which_openslide_disagrees_is_never_read(tmp_path, picture):
    path = tmp_path / "slide.tif"
    write_jpeg_slide(path, picture)
    paint, sizes = painter(path)
    tiles = DirectTiles(path, sizes)

    def one_bit_off(*region):
        pixels = paint(*region)
        if region[0] == (0, 0):  # one of the tiles that are compared
            pixels[-1, 0, 2] ^= 1
        return pixels

    assert tiles.read((0, 0), 0, (10, 10), one_bit_off) is None
    assert tiles.read((0, 0), 0, (10, 10), paint) is None
    assert tiles.read((0, 0), 1, (10, 10), paint) is not None


@pytest.mark.parametrize("kind", ["deflate", "jpeg2000", "strips", "noise"])
def test_what_is_no_jpeg_tile_is_left_to_openslide(tmp_path, picture, caplog, kind):
    path = tmp_path / "slide.tif"
    if kind in {"deflate", "jpeg2000"}:
        write_pyramid(path, picture, compression=kind)
    else:
        tifffile.imwrite(path, picture, compression="jpeg", rowsperstrip=16, photometric="ycbcr")
    if kind == "noise":
        path.write_bytes(path.read_bytes()[:8] + bytes(range(256)) * 8)
    tiles = DirectTiles(path, {0: SIZE})
    assert tiles.read((0, 0), 0, (10, 10), lambda *_: pytest.fail("nothing to compare")) is None
    assert not caplog.records


@pytest.mark.parametrize("kind", ["jpeg", "aperio jpeg"])
def test_tiles_that_are_not_in_the_file(tmp_path, picture, kind):
    path = tmp_path / "slide.tif"
    description = APERIO.format("JPEG/RGB Q=80") if "aperio" in kind else None
    write_jpeg_slide(path, picture, description=description)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = tiff.pages[0].tags["TileByteCounts"]
        counts.overwrite([0 if tile == 4 else n_bytes for tile, n_bytes in enumerate(counts.value)])
    paint, sizes = painter(path)
    tiles = DirectTiles(path, sizes)
    assert tiles.read((TILE, TILE), 0, (TILE, TILE), paint) is None
    assert tiles.read((0, 0), 0, (TILE, TILE), paint) is not None
    with open_slide(path) as slide:
        assert slide.properties.vendor == ("aperio" if "aperio" in kind else "generic-tiff")
        for xy, size in REGIONS:
            np.testing.assert_array_equal(slide.read_level(xy, 0, size), paint(xy, 0, size))


MORE_KINDS = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("444", "rgb tables")]


@pytest.mark.parametrize("kind", ["420", *MORE_KINDS])
def test_damage_ends_as_it_does_in_openslide(tmp_path, picture, kind):
    path, spoilt = tmp_path / "slide.tif", tmp_path / "spoilt.tif"
    write_jpeg_slide(path, picture, kind)
    with tifffile.TiffFile(path) as tiff:
        offset, n_bytes = tiff.pages[0].dataoffsets[4], tiff.pages[0].databytecounts[4]
    whole, draw, header_bytes = path.read_bytes(), random.Random(0), 700
    ends = set()
    for number in range(16):
        content = bytearray(whole)
        at = offset + draw.randrange(n_bytes if number % 3 else header_bytes)
        n = min((1, 16, 400, n_bytes)[number % 4], offset + n_bytes - at)
        content[at : at + n] = bytes(n) if number % 2 else draw.randbytes(n)
        spoilt.write_bytes(content)
        with open_slide(spoilt) as slide:
            slide.read_level((0, 0), 0, (10, 10))
            assert slide._direct_tiles._agrees == {0: True}
            ended = outcome(slide, (TILE, TILE), 0, (TILE, TILE))
            slide._direct_tiles = None
            assert ended == outcome(slide, (TILE, TILE), 0, (TILE, TILE))
        ends.add(type(ended))
    assert ends == {str, bytes}


def test_a_stream_larger_than_its_tile_is_damage(tmp_path, picture):
    path = tmp_path / "slide.tif"
    write_jpeg_slide(path, picture)
    stream = imagecodecs.jpeg8_encode(np.full((640, 640, 3), 90, np.uint8), 20)
    with tifffile.TiffFile(path) as tiff:
        offset, n_bytes = tiff.pages[0].dataoffsets[4], tiff.pages[0].databytecounts[4]
    assert len(stream) <= n_bytes
    content = bytearray(path.read_bytes())
    content[offset : offset + len(stream)] = stream
    path.write_bytes(content)
    with open_slide(path) as slide, pytest.raises(SlideError, match="cannot be read"):
        slide.read_level((TILE, TILE), 0, (10, 10))
