"""Tissue is found, even if it is faint or covers the whole slide; ink, dust, black areas and glass
are not.
"""

import re

import cv2
import numpy as np
import pytest
from drawn import ArraySlide
from PIL import Image
from shapely.geometry import box
from slide_files import spoil_tile, write_pyramid

from muse_pipeline.core.errors import SlideError
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.tissue.find import DOUBT, find_mask, find_tissue
from muse_pipeline.tissue.overview import BLOCK_PX, read_overview

PINK, PURPLE, FAINT = (225, 150, 190), (120, 70, 150), (236, 224, 232)
MPP = np.array([8.0, 8.0])


def slide_of(glass=(243, 243, 243), shape=(250, 300), seed=0):
    noise = np.random.default_rng(seed).integers(-2, 3, (*shape, 3))
    return (np.array(glass) + noise).clip(0, 255).astype(np.uint8)


def paint(pixels, colour, left, top, right, bottom):
    noise = np.random.default_rng(1).integers(-9, 10, (bottom - top, right - left, 1))
    pixels[top:bottom, left:right] = (np.array(colour) + noise).clip(0, 255)
    return pixels


@pytest.mark.parametrize(
    "glass", [(243, 243, 243), (255, 255, 255), (222, 222, 224), (240, 238, 218), (226, 222, 232)]
)
@pytest.mark.parametrize("colour", [PINK, PURPLE])
def test_a_crop_on_glass_is_found_to_the_pixel(glass, colour):
    mask, warnings = find_mask(paint(slide_of(glass), colour, 100, 80, 200, 180), MPP)
    expected = np.zeros(mask.shape, bool)
    expected[80:180, 100:200] = True
    assert (mask == expected).mean() > 0.999 and warnings == ()


def test_faint_tissue_is_found_when_some_of_it_is_certain():
    pixels = paint(slide_of(), FAINT, 50, 50, 200, 200)
    mask, _ = find_mask(paint(pixels, PURPLE, 90, 90, 100, 100), MPP)
    assert mask[55:195, 55:195].mean() > 0.97


@pytest.mark.parametrize("colour", [PINK, PURPLE, (205, 185, 205), (232, 205, 225)])
def test_wall_to_wall_tissue_is_whole(colour):
    mask, _ = find_mask(paint(slide_of(shape=(64, 64)), colour, 0, 0, 64, 64), MPP)
    assert mask.mean() > 0.99


@pytest.mark.parametrize(
    "ink",
    [(60, 150, 120), (40, 80, 190), (200, 40, 45), (25, 25, 28)],
)
def test_pen_is_left_out_and_reported(ink):
    pixels = paint(slide_of(), PINK, 20, 20, 120, 230)
    mask, warnings = find_mask(paint(pixels, ink, 180, 10, 200, 240), MPP)
    assert mask[25:225, 25:115].all() and not mask[:, 170:].any()
    assert "pen marks" in warnings[0]


def test_blood_is_no_pen():
    pixels = paint(slide_of(), PINK, 20, 20, 280, 230)
    mask, warnings = find_mask(paint(pixels, (156, 42, 47), 100, 80, 160, 140), MPP)
    assert mask[25:225, 25:275].all() and not any("pen" in warning for warning in warnings)


@pytest.mark.parametrize("glass", [(183, 201, 193), (158, 186, 199), (174, 193, 163)])
def test_glass_that_a_camera_has_tinted_is_no_pen(glass):
    """Photographs through a microscope have tinted glass; it is kept together with the tissue
    around it.
    """
    pixels = slide_of(glass, shape=(100, 100))
    mask, warnings = find_mask(paint(pixels, PURPLE, 30, 0, 100, 100), MPP)
    assert mask[:, 30:].all() and not any("pen" in warning for warning in warnings)


@pytest.mark.parametrize("grey", [200, 150, 90, 40, 0])
def test_dust_shadow_and_black_borders_are_no_tissue(grey):
    pixels = paint(slide_of(), (grey, grey, grey), 0, 0, 300, 12)
    pixels = paint(pixels, (grey, grey, grey), 30, 100, 36, 104)
    mask, _ = find_mask(pixels, MPP)
    assert not mask.any()


def test_specks_go_and_small_holes_close_but_large_ones_and_glass_at_the_border_stay():
    pixels = paint(slide_of(), PINK, 40, 40, 300, 200)
    pixels = paint(pixels, PINK, 10, 10, 14, 14)
    pixels[60:70, 60:70], pixels[100:160, 100:160], pixels[60:70, 290:] = 243, 243, 243
    mask, _ = find_mask(pixels, MPP)
    assert (
        not mask[:20, :20].any() and mask[60:70, 60:70].all() and not mask[105:155, 105:155].any()
    )
    assert not mask[62:68, 292:].any() and mask[80:190, 292:].all()


def test_no_tissue_is_a_warning():
    mask, warnings = find_mask(slide_of(), MPP)
    assert not mask.any() and warnings == ("no tissue found",)


def test_little_tissue_is_doubted_where_much_else_is_dark():
    """YCbCr read as RGB, a grey picture and a white picture are doubted, but not a shadow on
    glass.
    """
    pixels = paint(slide_of(), PURPLE, 20, 20, 280, 230)
    ycbcr = np.array(Image.fromarray(pixels).convert("YCbCr"))
    grey = np.repeat(paint(slide_of(), PINK, 20, 20, 280, 230)[..., 1:2], 3, -1)
    for wrong, words in (
        (ycbcr, "colour of a pen; are its colours right?"),
        (grey, "the picture is grey, and tissue is found by the colours of its stains"),
        (np.full_like(pixels, 255), "all of the slide has one colour"),
    ):
        (doubt,) = (one for one in find_mask(wrong, MPP)[1] if one.startswith(DOUBT))
        assert words in doubt
    shadow = paint(slide_of(), (200,) * 3, 0, 0, 300, 30)
    assert not any(one.startswith(DOUBT) for one in find_mask(shadow, MPP)[1])


def test_fluorescence_is_a_warning():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[30:60, 30:60, 2] = 180
    mask, warnings = find_mask(pixels, MPP)
    assert not mask.any() and "fluorescence" in warnings[0]


def test_one_level_and_a_pyramid_give_the_same_mask():
    image = paint(slide_of(shape=(120, 150)), PINK, 30, 30, 90, 90).repeat(16, 0).repeat(16, 1)
    single, pyramid = ArraySlide([image]), ArraySlide([image, image[::4, ::4]])
    masks = [find_tissue(slide, slide.info((0.5, 0.5))).tissue for slide in (single, pyramid)]
    np.testing.assert_array_equal(masks[0].mask, masks[1].mask)
    assert masks[0].area_mm2 == pytest.approx(60 * 60 * 64e-6, rel=0.01)


def test_the_mask_covers_level_0_whole_at_its_exact_mpp():
    slide = ArraySlide([np.full((1001, 1505, 3), PINK, np.uint8)])
    tissue = find_tissue(slide, slide.info((0.499, 0.502))).tissue
    assert tissue.mask.shape == (63, 95) and tissue.mask.all()
    np.testing.assert_allclose(tissue.mask_mpp, [16 * 0.499, 16 * 0.502])


def test_reading_is_bounded_and_a_corrupt_block_is_reported():
    image = np.full((2 * BLOCK_PX + 300, 2 * BLOCK_PX + 300, 3), PINK, np.uint8)
    slide = ArraySlide([image], corrupt=[(BLOCK_PX + 10, BLOCK_PX + 10, 5, 5)])
    overview = read_overview(slide, slide.info((0.5, 0.5)))
    assert re.search(r"0\.\d% of level 0 cannot be decoded", overview.warnings[0])
    white = (overview.pixels == 255).all(-1)
    assert white[128:132, 128:132].all() and white.sum() < 20 * 20
    ruined = ArraySlide([image[:100, :100]], corrupt=[(0, 0, 100, 100)])
    with pytest.raises(SlideError):
        read_overview(ruined, ruined.info((0.5, 0.5)))


def damaged_pyramid(path, pages):
    """Find the tissue of a slide of 1,024 x 1,024 px with two levels, where the left half of
    ``pages`` is damaged.
    """
    image = paint(slide_of(shape=(128, 128)), PINK, 20, 10, 100, 110).repeat(8, 0).repeat(8, 1)
    write_pyramid(path, image, factors=(2,))
    for page in pages:
        for tile in (0, 2) if page else (0, 1, 4, 5, 8, 9, 12, 13):
            spoil_tile(path, page, tile)
    info = inspect_slide(path, "damaged", 1.0)
    with open_slide(path, info.reader) as slide:
        return find_tissue(slide, info)


def test_tissue_that_one_level_lost_is_found_at_a_finer_one(tmp_path):
    """If the tissue were taken for glass, it would be skipped without a warning."""
    whole = damaged_pyramid(tmp_path / "a.tif", [])
    damaged = damaged_pyramid(tmp_path / "b.tif", [1])
    [warning] = damaged.warnings
    assert not whole.warnings and "50.0% of level 1 cannot be decoded" in warning
    np.testing.assert_array_equal(whole.tissue.mask, damaged.tissue.mask)


def test_a_slide_that_is_damaged_throughout_is_given_up_soon():
    """Each failing read takes milliseconds, so there are only few reads, none of them larger than a
    block.
    """
    image = np.full((16384, 16384, 3), 255, np.uint8)
    slide = ArraySlide([image, image[::16, ::16]], corrupt=[(0, 0, 16384, 16384)])
    sizes, read_region = [], slide.read_region
    slide.read_region = lambda xy, level, size: (
        sizes.append(size[0] * size[1]) or read_region(xy, level, size)
    )
    with pytest.raises(SlideError):
        read_overview(slide, slide.info((0.25, 0.25)))
    assert len(sizes) < 200 and max(sizes) <= BLOCK_PX**2


def test_what_no_level_has_is_no_glass(tmp_path):
    found = damaged_pyramid(tmp_path / "a.tif", [0, 1])
    assert (
        "50.0% of the slide cannot be decoded at any level and counts as tissue" in found.warnings
    )
    mask = found.tissue.mask
    assert mask[:, : mask.shape[1] // 2].all() and not mask[:10, -50:].any()


def test_a_roi_limits_mask_and_area():
    slide = ArraySlide([np.full((1600, 1600, 3), PINK, np.uint8)])
    info = slide.info((0.5, 0.5))
    tissue = find_tissue(slide, info, box(100, 200, 900, 1000)).tissue
    assert tissue.area_mm2 == pytest.approx(400 * 400e-6, rel=1e-3)
    xy = np.array([[101, 201], [99, 500], [899, 999], [901, 500]])
    assert tissue.kept.contains(xy, info.mpp).tolist() == [1, 0, 1, 0]
    missed = find_tissue(slide, info, box(2000, 2000, 2100, 2100))
    assert missed.tissue.is_empty and missed.warnings == (
        "no tissue within the region of interest",
    )


@pytest.mark.parametrize("side", [513, 1000, 1024])
@pytest.mark.parametrize("roi", [None, box(-500, -500, 5000, 5000)])
def test_tissue_wall_to_wall_is_no_larger_than_the_slide(side, roi):
    """Only the parts of mask pixels that lie on the slide count, and a region of interest is
    clipped to the slide.
    """
    slide = ArraySlide([np.full((side, side, 3), PINK, np.uint8)])
    info = slide.info((0.25, 0.25))
    assert find_tissue(slide, info, roi).tissue.area_mm2 == pytest.approx(
        (side * 0.25e-3) ** 2, rel=1e-5
    )


@pytest.mark.parametrize(
    "name, mpp, low, high",
    [
        ("artefact-tiles/almost-white-2.png", 0.5, 0.02, 0.12),
        ("artefact-tiles/high-nuclei-score-level0.png", 0.5, 0.99, 1),
        ("artefact-tiles/low-nuclei-score-level0.png", 0.5, 0.7, 1),
        ("artefact-tiles/no-tissue.png", 0.5, 0, 0),
        ("artefact-tiles/no-tissue-green-pen.png", 0.5, 0, 0),
        ("artefact-tiles/tcga-green-pen.png", 4.0, 0.7, 0.85),
        ("artefact-tiles/wsi-blue-pen.png", 4.0, 0.35, 0.5),
        ("wsi-cmu-small-region/CMU-1-Small-Region.svs", None, 0.35, 0.45),
        ("wsi-openslide-crops/OS-1-detail.ome.tif", None, 0.99, 1),
        ("wsi-openslide-crops/OS-2-ndpi.ome.tif", None, 0.8, 0.95),
        ("wsi-dicom-camelyon/camelyon_jpeg_tiled_full.dcm", None, 0.25, 0.4),
        ("wsi-ndpi-fluorescence/test3-DAPI-2-(387).ndpi", None, 0, 0),
    ],
)
def test_real_slides(shared_data, name, mpp, low, high):
    info = inspect_slide(shared_data / name, "real", mpp)
    with open_slide(shared_data / name) as slide:
        assert low <= find_tissue(slide, info).tissue.mask.mean() <= high


def pale_field(share, density=0.3):
    """A field of 0.2 x 0.2 mm at 0.5 um/px: pale tissue in its left ``share``, otherwise glass."""
    random = np.random.default_rng(0)
    nuclei = np.zeros((400, 400), np.float32)
    for xy in random.integers(0, 400, (300, 2)).tolist():
        cv2.circle(nuclei, xy, 7, 1.0, -1)
    nuclei[:, int(400 * share) :] = 0
    tissue = (np.arange(400) < 400 * share)[:, None] * np.array([0.03, 0.22, 0.06])
    haematoxylin = cv2.GaussianBlur(nuclei, (0, 0), 1)[..., None] * np.array([0.65, 0.7, 0.29])
    texture = cv2.GaussianBlur(random.normal(0, 1, (400, 400)).astype(np.float32), (0, 0), 3)
    pixels = 245 * np.exp(-density * (tissue * (1 + texture[..., None]) + haematoxylin))
    return (pixels + random.normal(0, 1, pixels.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("density", [0.3, 0.6])
def test_a_pale_field_without_glass_is_all_tissue(density):
    found = find_field(pale_field(1, density))
    assert found.tissue.mask.all() and found.warnings == ()


@pytest.mark.parametrize("share", [0, 0.5])
def test_glass_of_a_pale_field_is_no_tissue(share):
    assert find_field(pale_field(share)).tissue.mask.mean() <= share + 0.03


def find_field(pixels):
    slide = ArraySlide([pixels])
    return find_tissue(slide, slide.info((0.5, 0.5)))
