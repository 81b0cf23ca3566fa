"""The reader that is chosen for each file, and the one-sentence error for files that are not
slides.
"""

import io
import logging
from itertools import product

import cv2
import numpy as np
import pytest
import tifffile
from imagecodecs import jpeg2k_encode
from PIL import Image
from slide_files import draw_gradient, shrink, write_pyramid, write_ventana

from muse_pipeline.core.errors import SlideError
from muse_pipeline.slides import image
from muse_pipeline.slides.base import exact_downsamples, open_slide, used_bits
from muse_pipeline.slides.openslide import _read_downsamples


def require_pixels(path, expected):
    np.testing.assert_array_equal(read_whole(path)[1], expected)


def read_whole(path):
    with open_slide(path) as slide:
        return slide.name, slide.read_level((0, 0), 0, slide.properties.level_sizes_px[0])


def test_the_reader_that_has_the_levels_is_taken(tmp_path, gradient):
    paged, hidden = tmp_path / "paged.tif", tmp_path / "hidden.tif"
    write_pyramid(paged, gradient)
    with tifffile.TiffWriter(hidden) as tiff:  # level 1 is in a sub-directory, as in an OME-TIFF
        options = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
        tiff.write(gradient, subifds=1, **options)
        tiff.write(gradient[::2, ::2], subfiletype=1, **options)
    for path, name, n_levels in ((paged, "openslide", 3), (hidden, "tiffslide", 2)):
        with open_slide(path) as slide:
            assert slide.name == name
            assert len(slide.properties.level_sizes_px) == n_levels


def test_downsamples_forgive_the_pixel_that_was_cut_off():
    sizes = (1001, 803), (500, 401), (250, 201)
    assert exact_downsamples(sizes) == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))
    assert exact_downsamples([(1000, 1000), (400, 800)]) == ((1.0, 1.0), (2.5, 1.25))
    # the axes alone give 31 and 33
    assert exact_downsamples([(1473, 1503), (47, 46)])[1] == (32.0, 32.0)
    # 63 to 71 are possible, and 67 is nearest
    assert exact_downsamples([(1000, 600), (15, 9)])[1] == (64.0, 64.0)


def test_a_level_padded_to_whole_tiles_has_the_stated_downsample():
    # the last height is 11,200 px and 64 px of padding
    sizes = (102_400, 89_600), (51_200, 44_800), (12_800, 11_264)
    assert _read_downsamples((1.0, 2.0, 8.0), sizes)[1:] == ((2.0, 2.0), (8.0, 8.0))


@pytest.mark.parametrize(
    "mode, suffix, expected",
    [
        *product(["RGB", "P"], [".png", ".tif"], [(10, 120, 230)]),
        *product(["L", "I;16"], [".png", ".tif"], [(120, 120, 120)]),
        *product(["1"], [".png", ".tif"], [(255, 255, 255)]),
        *product(["RGBA"], [".png", ".tif"], [(132, 187, 242)]),
        ("LA", ".png", (187, 187, 187)),
        ("CMYK", ".tif", (10, 120, 230)),
    ],
)
def test_every_kind_of_picture_is_rgb_on_white(tmp_path, mode, suffix, expected):
    colours = {"1": 255, "L": 120, "LA": (120, 128), "RGBA": (10, 120, 230, 128), "I;16": 120 * 257}
    plain = Image.new("RGB", (30, 20), (10, 120, 230))
    converted = {"RGB": plain, "P": plain.quantize(4), "CMYK": plain.convert("CMYK")}
    picture = converted[mode] if mode in converted else Image.new(mode, (30, 20), colours[mode])
    if mode.endswith("A"):  # a constant opacity would not count
        picture.putpixel((0, 0), (*picture.getpixel((0, 0))[:-1], 127))
    path = tmp_path / f"picture{suffix}"
    picture.save(path)
    _, pixels = read_whole(path)
    assert pixels.shape == (20, 30, 3)
    np.testing.assert_allclose(pixels.astype(int), np.broadcast_to(expected, (20, 30, 3)), atol=1)


@pytest.mark.parametrize("pyramid", [False, True])
@pytest.mark.parametrize(
    "kind, expected",
    [
        ("UNSPECIFIED", (200, 120, 170)),
        ("ASSOCALPHA", (227, 187, 212)),
        ("UNASSALPHA", (227, 187, 212)),
    ],
)
def test_a_fourth_sample_is_what_the_file_states_it_is(tmp_path, kind, expected, pyramid):
    """The colour is (200, 120, 170), with a fourth sample of 128 that is unspecified or an opacity
    of either kind.
    """
    colour = np.array([200, 120, 170], float) * (128 / 255 if kind == "ASSOCALPHA" else 1)
    pixels = np.full((300, 400, 4), [*colour.round().astype(int), 128], np.uint8)
    pixels[150, 200:, 3] = 129
    how = {
        "photometric": "rgb",
        "extrasamples": [kind],
        "resolution": (40_000, 40_000),
        "resolutionunit": "CENTIMETER",
    }
    tifffile.imwrite(tmp_path / "a.tif", pixels, **how, **({"tile": (128, 128)} if pyramid else {}))
    _, found = read_whole(tmp_path / "a.tif")
    np.testing.assert_allclose(found[5, 5].astype(int), expected, atol=1)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_cameras_use_some_of_16_bits(tmp_path, bits):
    """All values are in the lower bits; without a rule for these, pictures of 12 bits would be
    black.
    """
    picture = draw_gradient(300, 200)
    deep = picture.astype(np.uint16) << (bits - 8) | (picture >> (16 - bits))
    hot = deep.copy()
    hot[3, 4] = 65_535
    files = {"hot.tif": hot, "contig.tif": deep, "separate.tif": np.moveaxis(deep, -1, 0)}
    for name, stored in files.items():
        planar = {"planarconfig": "separate"} if name == "separate.tif" else {}
        tifffile.imwrite(tmp_path / name, stored, photometric="rgb", **planar)
    how = {"photometric": "rgb", "tile": (128, 128)}
    tifffile.imwrite(
        tmp_path / "tiled.ome.tif", deep, **how, metadata={"axes": "YXS", "SignificantBits": bits}
    )
    tifffile.imwrite(tmp_path / "coded.tif", deep, **how, compression="jpeg2000")
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    (tmp_path / "a.jp2").write_bytes(
        jpeg2k_encode(deep, level=0, codecformat="jp2", bitspersample=max(bits, 9))
    )
    for name in (*files, "tiled.ome.tif", "coded.tif", "a.png", "a.jp2"):
        _, pixels = read_whole(tmp_path / name)
        pixels[3, 4] = picture[3, 4]
        np.testing.assert_array_equal(pixels, picture, name)


def test_a_stated_number_of_bits_is_believed(tmp_path):
    # of 11 bits
    faint = draw_gradient(300, 200).astype(np.uint16) * 4 + 800
    assert [used_bits(faint, stated) for stated in (10, 12, 14)] == [12, 12, 14]
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        faint,
        photometric="rgb",
        metadata={"axes": "YXS", "SignificantBits": 12},
    )
    highest = [(281, "H", 3, (4095,) * 3, True)]  # MaxSampleValue
    tifffile.imwrite(tmp_path / "b.tif", faint, photometric="rgb", extratags=highest)
    for name in ("a.ome.tif", "b.tif"):
        require_pixels(tmp_path / name, faint >> 4)


@pytest.mark.parametrize("bits", [12, 16])
def test_white_may_be_0(tmp_path, bits):
    grey = draw_gradient(300, 200)[..., 0]
    faint = ((255 - grey).astype(np.uint16) << (bits - 8)) // 8
    highest = [(281, "H", 1, (1 << bits) - 1, True)]  # MaxSampleValue
    tifffile.imwrite(tmp_path / "a.tif", faint, photometric="miniswhite", extratags=highest)
    np.testing.assert_array_equal(
        read_whole(tmp_path / "a.tif")[1][..., 0], 255 - (255 - grey) // 8
    )


def test_dark_pixels_of_16_bits_are_one_sentence(tmp_path):
    deep = draw_gradient(300, 200).astype(np.uint16) << 4
    deep[1:3] = 65_535  # 1 % of the pixels, too many to be faults of the camera
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="rgb")
    assert "16-bit pixels are dark (98 % are below 16 of 256)" in sentence(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "suffix, options",
    [
        (".bmp", {}),
        (".webp", {"lossless": True}),
        (".WEBP", {"quality": 95}),
        (".jpg", {"quality": 95}),
    ],
)
def test_bmp_webp_and_jpeg(tmp_path, gradient, suffix, options):
    Image.fromarray(gradient).save(tmp_path / f"a{suffix}", **options)
    name, pixels = read_whole(tmp_path / f"a{suffix}")
    assert name == "image" and abs(pixels.astype(int) - gradient).mean() < (
        3 if "quality" in options else 0.001
    )
    (tmp_path / f"a{suffix}").rename(tmp_path / "b.svs")
    assert f"rename it to b{suffix.lower()}, and give --mpp" in sentence(tmp_path / "b.svs")


def test_a_large_tiff_in_strips_is_not_held_in_memory(tmp_path, gradient, monkeypatch):
    monkeypatch.setattr(image, "MAX_PIXELS", 1000)
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, gradient, rowsperstrip=16, compression="deflate", photometric="rgb")
    assert read_whole(path)[0] == "tiffslide"


def spoilt(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def sentence(path) -> str:
    with pytest.raises(SlideError) as raised:
        open_slide(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_names_that_do_not_suit_the_content(tmp_path):
    for name, kind, right in (
        ("a.svs", "png", "a.png"),
        ("b.ndpi", "jpeg", "b.jpg"),
        ("c.svs", "jpeg2000", "c.jp2"),
    ):
        Image.new("RGB", (40, 30)).save(tmp_path / name, kind)
        assert sentence(tmp_path / name).endswith(
            f"picture with the suffix of a slide; rename it to {right}, and give --mpp"
        )
    Image.new("RGB", (40, 30)).save(tmp_path / "d.mrxs", "jpeg")
    (tmp_path / "d").mkdir()
    spoilt(tmp_path, "d/Slidedat.ini", b"broken")
    assert "(OpenSlide: Can't load Slidedat.ini file" in sentence(tmp_path / "d.mrxs")
    assert "is a Philips iSyntax slide, which no reader" in sentence(
        spoilt(tmp_path, "stub.isyntax", b"stub")
    )
    overview = bytes(128) + b"DICM\x08\0\x08\0CS\x1e\0DERIVED\\PRIMARY\\OVERVIEW\\NONE"
    assert "is the overview of a DICOM slide; give" in sentence(spoilt(tmp_path, "o.dcm", overview))
    assert "not a PNG" not in sentence(spoilt(tmp_path, "a.dcm", bytes(128) + b"DICM" + bytes(100)))


def test_a_slide_that_the_reader_of_its_vendor_refuses_is_not_read_as_a_plain_tiff(tmp_path):
    write_ventana(tmp_path / "a.bif", draw_gradient(640, 512))
    assert "is a ventana slide that OpenSlide cannot open (Unexpected tile join: UP" in sentence(
        tmp_path / "a.bif"
    )


def test_mirax_without_its_folder_is_not_taken_for_a_thumbnail(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "thumbnail.jpg")
    path = spoilt(tmp_path, "slide.mrxs", (tmp_path / "thumbnail.jpg").read_bytes())
    assert "without its folder 'slide'" in sentence(path)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_picture(tmp_path, gradient, suffix):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(gradient).save(whole)
    content = whole.read_bytes()
    assert "cannot be decoded" in sentence(
        spoilt(tmp_path, f"half.{suffix}", content[: len(content) // 2])
    )


@pytest.mark.parametrize("ome", [False, True])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.95])
def test_truncated_tiff(tmp_path, gradient, ome, kept, caplog):
    whole = tmp_path / "whole.tif"
    write_pyramid(whole, gradient, ome=ome)
    content = whole.read_bytes()
    path = spoilt(tmp_path, "cut.tif", content[: int(len(content) * kept)])
    with caplog.at_level(logging.WARNING):
        assert "truncated" in sentence(path)
    assert not caplog.records  # nothing is logged in addition to the sentence


TILES = {"tile": (64, 64), "photometric": "rgb"}
REDUCED = TILES | {"subfiletype": 1}


def pages_of(path, *pages):
    """Write a TIFF with one page for each (pixels, options)."""
    with tifffile.TiffWriter(path, ome=".ome." in path.name) as tiff:
        for pixels, options in pages:
            tiff.write(pixels, **{"photometric": "rgb", "metadata": None} | options)


SMALL, LABEL = draw_gradient(60, 40), np.full((300, 500, 3), 240, np.uint8)
SLIDE, LEVEL = draw_gradient(256, 240), shrink(draw_gradient(256, 240), 2)


@pytest.mark.parametrize(
    "pages",
    [
        [(SMALL, {"subfiletype": 1}), (SLIDE, {"rowsperstrip": 16})],
        [(SMALL, {}), (SLIDE, TILES), (LEVEL, REDUCED)],
        [(SMALL, TILES), (SLIDE, TILES), (LEVEL, REDUCED)],  # OpenSlide reads the second level
        [(SMALL, {}), (SLIDE.astype(np.uint16) * 257, {})],
        [(SMALL, {"subifds": 1}), (SLIDE, TILES)],
        [(LABEL, {}), (SLIDE, {**TILES, "subifds": 1}), (LEVEL, REDUCED)],
        [
            (SLIDE, TILES),
            (LEVEL, REDUCED),
            (LABEL[:100, :90], REDUCED),
        ],  # OpenSlide mistakes the label for a level
        [(SLIDE, TILES), (LEVEL[:, :128] * 0 + 30, {})],  # tifffile mistakes the label for a level
    ],
)
def test_the_slide_is_taken_and_not_its_thumbnail_or_label(tmp_path, pages):
    pages_of(tmp_path / "a.tif", *pages)
    with open_slide(tmp_path / "a.tif") as slide:
        sizes = slide.properties.level_sizes_px
        assert sizes[0] == (256, 240)
        for level, expected in enumerate((SLIDE, LEVEL)[: len(sizes)]):
            np.testing.assert_array_equal(slide.read_level((0, 0), level, sizes[level]), expected)


def test_the_pixel_size_and_the_name_of_pictures_of_ome_tiff(tmp_path):
    of_label = {"metadata": {"axes": "YXS", "PhysicalSizeX": 8.0, "PhysicalSizeY": 8.0}}
    of_slide = {"metadata": {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}}
    pages_of(tmp_path / "a.ome.tif", (LABEL, of_label), (SLIDE, of_slide))
    pages_of(
        tmp_path / "b.ome.tif",
        (LABEL, {"metadata": {"axes": "YXS", "Name": "macro image"}}),
        (SLIDE, of_slide),
    )
    pages_of(tmp_path / "c.ome.tif", (LABEL, of_slide), (SLIDE, {**of_slide, **TILES}))
    for name, n_warnings in (("a", 0), ("b", 0), ("c", 1)):
        with open_slide(tmp_path / f"{name}.ome.tif") as slide:
            assert slide.properties.level_sizes_px[0] == (256, 240)
            assert slide.properties.mpp_candidates[0].mpp == (0.5, 0.5)
            assert len(slide.properties.warnings) == n_warnings


PLANES, LEVELS = (pixels.transpose(2, 0, 1) for pixels in (SLIDE, LEVEL))
GREY, APART = {"photometric": "minisblack"}, {"planarconfig": "separate"}


@pytest.mark.parametrize(
    "pages",
    [
        [(plane, GREY) for plane in PLANES],
        [
            (plane, GREY | {"metadata": {}}) for plane in PLANES
        ],  # three pictures, described by tifffile
        [
            *((one, TILES | GREY) for one in PLANES),
            *((one, REDUCED | GREY) for one in LEVELS),
        ],  # OpenSlide reads red
        [(PLANES, {**TILES, **APART, "subifds": 1}), (LEVELS, {**REDUCED, **APART})],
    ],
)
def test_colours_in_planes(tmp_path, pages):
    pages_of(tmp_path / "a.tif", *pages)
    require_pixels(tmp_path / "a.tif", SLIDE)
    for axes, options in (("CYX", GREY), ("SYX", APART)):
        known = {"axes": axes, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        pages_of(tmp_path / f"{axes}.ome.tif", (PLANES, {"metadata": known, **TILES, **options}))
        with open_slide(tmp_path / f"{axes}.ome.tif") as slide:
            np.testing.assert_array_equal(slide.read_level((0, 0), 0, (256, 240)), SLIDE)
            assert slide.properties.mpp_candidates[0].mpp == (0.5, 0.5)
            assert slide.properties.warnings == (
                "its three planes are read as red, green and blue",
            ) * (axes == "CYX")


def test_channels_are_not_colours(tmp_path):
    for name, planes in (("dark", PLANES // 8), ("grey", np.stack([PLANES[0]] * 3))):
        tifffile.imwrite(
            tmp_path / f"{name}.ome.tif", planes, photometric="minisblack", metadata={"axes": "CYX"}
        )
        assert "3 planes (channels, depths, times or colours in planes)" in sentence(
            tmp_path / f"{name}.ome.tif"
        )
    depths = np.stack([draw_gradient(64, 64)] * 4)
    tifffile.imwrite(tmp_path / "depths.tif", depths, tile=(16, 16), photometric="rgb")
    assert "4 planes (channels" in sentence(tmp_path / "depths.tif")


@pytest.mark.parametrize("suffix", ["svs", "tif"])
def test_focal_planes(tmp_path, suffix):
    made_by = {"description": "Aperio Image Library v12\n256x240|AppMag = 20|MPP = 0.5|OffsetZ = 1"}
    levels = [(SLIDE, TILES | made_by), (SMALL, {}), (LEVEL, TILES | made_by)]
    pages_of(tmp_path / "one.svs", *levels)
    require_pixels(tmp_path / "one.svs", SLIDE)
    pages_of(tmp_path / f"a.{suffix}", *levels, *levels)
    assert "has 2 focal planes" in sentence(tmp_path / f"a.{suffix}")


def test_focal_planes_of_dicom(shared_data, tmp_path):
    """The error comes from OpenSlide, not from a reader of pictures."""
    content = (shared_data / "wsi-dicom-camelyon/camelyon_jpeg_tiled_full.dcm").read_bytes()
    last = content.index(
        b"\x48\x00\x08\x01SQ"
    )  # a sequence of 66 bytes; TotalPixelMatrixFocalPlanes comes next
    end = last + 12 + content[last + 8]
    path = spoilt(
        tmp_path, "two.dcm", content[:end] + b"\x48\x00\x03\x03UL\x04\x00\x02\0\0\0" + content[end:]
    )
    assert "has 2 focal planes; export one of them" in sentence(path)
    cut = spoilt(tmp_path, "cut.dcm", content[:2000])
    assert "begins like a DICOM file but cannot be opened (OpenSlide: " in sentence(cut)


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("is_jfif", [True, False])
@pytest.mark.parametrize("n_levels", [1, 2])
def test_jpeg_data_whose_colours_are_not_those_of_the_tag(tmp_path, subsampling, is_jfif, n_levels):
    """YCbCr that is tagged as RGB is recognised by a JFIF marker or by chrominance of half the
    size.
    """
    path = tmp_path / "a.tif"

    def encoded(pixels):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "jpeg", quality=95, subsampling=subsampling)
        return stream.getvalue() if is_jfif else stream.getvalue()[:2] + stream.getvalue()[20:]

    with tifffile.TiffWriter(path) as tiff:
        for level, pixels in enumerate((SLIDE[:128, :256], LEVEL[:64, :128])[:n_levels]):
            halves = [half for part in np.split(pixels, 2) for half in np.split(part, 2, 1)]
            tiff.write(
                map(encoded, halves),
                shape=pixels.shape,
                dtype=np.uint8,
                tile=halves[0].shape[:2],
                compression="jpeg",
                photometric="rgb",
                subfiletype=level,
                metadata=None,
            )
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        for page in tiff.pages:
            content[page.tags["PhotometricInterpretation"].valueoffset] = (
                2  # 2 is RGB; tifffile wrote YCbCr
            )
    path.write_bytes(content)
    is_right = abs(read_whole(path)[1].astype(int) - SLIDE[:128, :256]).mean() < 6
    assert is_right == (is_jfif or subsampling > 0)  # no other sign exists


@pytest.mark.parametrize("opacity", [0, 128, 255])
@pytest.mark.parametrize("n_levels", [1, 2])
def test_a_constant_fourth_sample_hides_nothing(tmp_path, opacity, n_levels):
    pages = [
        np.dstack([one, np.full(one.shape[:2], opacity, np.uint8)])
        for one in (SLIDE, LEVEL)[:n_levels]
    ]
    for kind in ("UNASSALPHA", "UNSPECIFIED"):
        pages_of(tmp_path / "a.tif", *((one, TILES | {"extrasamples": [kind]}) for one in pages))
        require_pixels(tmp_path / "a.tif", SLIDE)
    # WebP does not keep the colours of what is transparent
    for suffix in (".png", ".bmp", ".webp")[: 3 if opacity else 2]:
        Image.fromarray(pages[0]).save(tmp_path / f"d{suffix}", lossless=True)
        require_pixels(tmp_path / f"d{suffix}", SLIDE)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        for page in tiff.pages:
            content[page.tags["ExtraSamples"].offset + 1] = 0x9D  # now a private tag
    require_pixels(spoilt(tmp_path, "b.tif", bytes(content)), SLIDE)


@pytest.mark.parametrize("tag", ["PhotometricInterpretation", "Compression", "PlanarConfiguration"])
def test_a_number_that_tiff_does_not_define(tmp_path, gradient, tag):
    path = tmp_path / "spoilt.tif"
    write_pyramid(path, gradient)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            page.tags[tag].overwrite(999)
    with pytest.raises(SlideError, match=r"spoilt\.tif"):
        read_whole(path)


def test_colours_stored_as_luminance_and_chrominance(tmp_path, gradient):
    for name, options in (
        ("lzw", {"compression": "tiff_lzw"}),
        ("jpeg", {"compression": "jpeg", "quality": 95}),
    ):
        path = tmp_path / f"{name}.tif"
        Image.fromarray(gradient).convert("YCbCr").save(path, **options)
        assert abs(read_whole(path)[1].astype(int) - gradient).mean() < 2
