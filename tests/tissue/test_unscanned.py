"""Black at the border of a slide, where nothing was scanned, counts as glass."""

import cv2
import numpy as np
import pytest
from drawn import ArraySlide, discs, draw

from muse_pipeline.inference.artefacts import find_masks
from muse_pipeline.store.store import open_store
from muse_pipeline.store.write import write_store
from muse_pipeline.tissue.background import find_unscanned
from muse_pipeline.tissue.colour import measure_colour
from muse_pipeline.tissue.find import find_tissue

MPP = 0.5, 0.5
PINK = (225, 150, 190)


def scan_with(level, jpeg_quality=None):
    """An L-shaped scan of tissue, 700 x 600 px, on a slide of 1,200 x 1,000 px that is otherwise of
    one grey level.
    """
    xy = np.random.default_rng(0).uniform((300, 250), (640, 540), (400, 2))
    pixels = draw(discs(xy / 2, 3.0, background=PINK), (1200, 1000), MPP).levels[0]
    grain = np.random.default_rng(1).normal(0, 4, pixels.shape[:2])[..., None]
    pixels = (pixels + grain).clip(0, 240).astype(np.uint8)
    scanned = np.zeros(pixels.shape[:2], bool)
    scanned[203:803, 251:951], scanned[203:500, 700:] = True, False
    pixels[~scanned] = level
    if jpeg_quality:
        pixels = cv2.imdecode(
            cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])[1], 1
        )
    return ArraySlide([pixels])


def results_of(slide, folder):
    """Tissue, colour, pixels of the store, and artefacts of a slide."""
    info = slide.info(MPP)
    found = find_tissue(slide, info)
    colour = measure_colour(slide, info, found.tissue, warnings=found.warnings)
    write_store(slide, info, found.tissue, folder / "image.zarr")
    store = open_store(folder / "image.zarr")
    pixels = store.read((0, 0), store.size_px)
    return found.tissue, colour, pixels, find_masks(store, colour.macenko)


def test_black_that_was_not_scanned_is_like_white_in_every_step(tmp_path):
    (black, *colours), (white, *others) = (
        results_of(scan_with(level), tmp_path / f"{level}") for level in (0, 255)
    )
    assert (black.mask == white.mask).all() and black.area_mm2 == white.area_mm2 == pytest.approx(
        0.0864, rel=0.1
    )
    assert colours[0].appearance == others[0].appearance and (colours[1] == others[1]).all()
    assert all((one == other).all() for one, other in zip(colours[2], others[2], strict=True))
    (warning,) = colours[0].warnings
    assert warning == "69% of the slide is black and was not scanned" and not others[0].warnings
    assert black.sha256 != white.sha256 and white.unscanned is None


def test_black_blurred_by_jpeg_is_white_up_to_the_edge_of_the_scan():
    slide = scan_with(0, jpeg_quality=80)
    info = slide.info(MPP)
    tissue = find_tissue(slide, info).tissue
    pixels = tissue.scanned(slide, info).read_region((0, 0), 0, (1200, 1000))
    assert (
        (pixels[:195] == 255).all()
        and (pixels[:, :243] == 255).all()
        and (pixels[210:490, 708:] == 255).all()
    )
    inside = np.s_[215:790, 265:690]
    assert (pixels[inside] == slide.levels[0][inside]).all()


def field(level=240, shape=(60, 80)):
    return np.full((*shape, 3), level, np.uint8)


def test_only_black_at_the_border_with_a_sharp_edge_was_not_scanned():
    assert find_unscanned(field()) is None
    within, faded, pen = field(), field(0), field()
    within[20:30, 20:30] = 0
    assert find_unscanned(within) is None
    faded[20:40, 20:40] = 0, 20, 60  # fluorescence
    assert find_unscanned(faded) is None
    pen[:, 10:14] = (25, 25, 28)
    assert find_unscanned(pen) is None
    border = field()
    border[:12], border[:, 70:] = 0, (3, 2, 5)
    assert (find_unscanned(border) == (border.max(-1) < 10)).all()
