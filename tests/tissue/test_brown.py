"""Immunohistochemistry is recognised by brown nuclei or cells, and no H&E is, whatever its
colours.
"""

import cv2
import numpy as np
import pytest
from drawn import paint
from drawn_ihc import add_ink, add_pigment, draw_ihc, turn_collagen_brown

from muse_pipeline.core.pictures import read_rgb, resize_picture
from muse_pipeline.inference.doubts import BROWN as BROWN_SHARE
from muse_pipeline.inference.doubts import judge_appearance
from muse_pipeline.inference.model import find_model, read_card
from muse_pipeline.inference.stains import DAB
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.tissue.colour import (
    AppearanceSample,
    SlideColour,
    cut_fields,
    find_spots,
    measure_picture,
)
from muse_pipeline.tissue.stain import TEXTBOOK

MPP = 0.5
HAEMATOXYLIN, EOSIN, BROWN = (stain / np.linalg.norm(stain) for stain in (*TEXTBOOK, DAB))
MELANIN = np.array([0.9, 1.0, 1.25]) / np.linalg.norm([0.9, 1.0, 1.25])


def is_ihc(pixels, mpp=MPP):
    sample = AppearanceSample(MPP)
    for field in cut_fields(resize_picture(pixels, mpp / MPP), MPP):
        sample.add(np.ascontiguousarray(field), np.ones(field.shape[:2], bool))
    return sample.brown.is_ihc


def draw_cells(share, of_cells, stain, background, pitch_px=26, reach_px=12):
    """Tissue with blue nuclei; a share of the cells, or of their nuclei, also has a second
    stain.
    """
    random = np.random.default_rng(0)
    blue, other = np.zeros((2, 600, 600), np.float32)
    for x, y in np.stack(np.meshgrid(*[np.arange(20, 600, pitch_px)] * 2), -1).reshape(-1, 2):
        middle = np.array([x, y]) + random.integers(-3, 4, 2)
        has_other = random.uniform() < share
        cv2.circle(blue, middle.tolist(), 7, 0.3 if has_other and not of_cells else 1.0, -1)
        if has_other:
            cv2.circle(other, middle.tolist(), reach_px if of_cells else 7, 1.0, -1)
            cv2.circle(other, middle.tolist(), 8, 0.0 if of_cells else 1.0, -1)
    blue, other = (cv2.GaussianBlur(each, (0, 0), 0.8)[..., None] for each in (blue, other))
    density = 0.6 * blue * HAEMATOXYLIN + 0.9 * other * stain + background
    return paint(np.maximum(density + random.normal(0, 0.02, density.shape), 0))


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 0.8, 1.0])
def test_brown_nuclei_are_recognised_from_a_share_of_one_in_twenty(share):
    assert is_ihc(draw_ihc(MPP, (300, 300), share)[0])
    # DAB over haematoxylin absorbs hardly more blue than green, as no brown of H&E does.
    assert is_ihc(draw_cells(share, False, BROWN, 0.35 * HAEMATOXYLIN))


def test_nuclei_without_brown_are_not_enough():
    assert not is_ihc(draw_ihc(MPP, (300, 300), 0)[0])


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_brown_cells_with_blue_nuclei_are_recognised(share):
    pixels = draw_cells(share, True, BROWN, 0.1 * HAEMATOXYLIN)
    spots, brown = find_spots(pixels, np.ones(pixels.shape[:2], bool), MPP)
    assert brown.sum() < 0.025 * spots.sum() and is_ihc(pixels)


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_brown_membranes_around_blue_nuclei_are_recognised(share):
    pixels = draw_cells(share, True, BROWN, 0.1 * HAEMATOXYLIN, pitch_px=40, reach_px=10)
    assert is_ihc(pixels)


@pytest.mark.parametrize("disturb", [turn_collagen_brown, add_pigment, add_ink])
def test_h_and_e_with_brown_between_the_nuclei_is_not_immunohistochemistry(disturb):
    nuclei = draw_cells(0, False, BROWN, 0.5 * EOSIN)
    disturbed = disturb(nuclei, MPP)
    changed = (np.abs(disturbed.astype(int) - nuclei).max(-1) > 20).mean()
    assert changed > 0.01 and not is_ihc(disturbed)


def mentions_brown(pixels, mpp=MPP):
    measures = measure_picture(pixels, mpp)
    verdict = judge_appearance(
        read_card(find_model("compact")).appearance, SlideColour(appearance=measures)
    )
    return BROWN_SHARE in str(verdict.reasons)


@pytest.mark.parametrize(
    "name, mpp", [("brca-m2c/images", 0.5), ("camelyon16-patches/tumor", 0.25)]
)
def test_pigment_on_real_tissue_is_mentioned(shared_data, name, mpp):
    for path in sorted((shared_data / name).iterdir())[::8]:
        pixels = read_rgb(path)
        assert mentions_brown(add_pigment(pixels, mpp, 0.04), mpp), path.name
        assert not mentions_brown(pixels, mpp), path.name


@pytest.mark.parametrize("background", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("tint", [0.0, 0.3])
def test_h_and_e_is_not_immunohistochemistry_with_much_eosin_yellow_glass_or_pigment(
    background, tint
):
    around = background * EOSIN + tint * np.array([0.0, 0.2, 1.0])
    assert not is_ihc(draw_cells(0, False, BROWN, around))
    for of_cells in (False, True):
        assert not is_ihc(draw_cells(0.2, of_cells, MELANIN, around))
    blood = np.array([0.1, 0.6, 0.62])
    assert not is_ihc(draw_cells(0.3, False, blood, around))


SETS = {  # folder of pictures, and um per pixel
    "brca-m2c/images": 0.5,
    "nucls-cc0/images": 0.25,
    "tnbc-nuclei/images": 0.25,
    "dsb2018-brightfield/images": 0.3,
    "orion-crc-tiles/images": 0.5,
    "camelyon16-patches/normal": 0.25,
    "camelyon16-patches/tumor": 0.25,
    "ebhi-seg-colon/images": 0.9,
    "nuinsseg-oesophagus/images": 0.2,
    "osteosarcoma-ut/images": 0.75,
    "oral-scc/images": 0.5,
    "oral-scc/unlabelled": 0.27,
    "oesophagus-tcga-unlabelled/images": 0.25,
    "artefact-tiles": 0.5,
}


@pytest.mark.parametrize("most", [20, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SETS)
def test_no_picture_of_h_and_e_is_immunohistochemistry(shared_data, name, most):
    paths = sorted(
        path for path in (shared_data / name).iterdir() if path.suffix in {".png", ".jpg", ".tif"}
    )
    chosen = paths[:: max(len(paths) // most, 1)]
    assert len(chosen) >= 10
    assert [path.name for path in chosen if is_ihc(read_rgb(path), SETS[name])] == []


@pytest.mark.parametrize(
    "name, expected",
    [
        ("wsi-cmu-small-region/CMU-1-Small-Region.svs", False),
        ("wsi-openslide-crops/OS-1-detail.ome.tif", False),
        ("wsi-openslide-crops/OS-2-ndpi.ome.tif", True),
    ],
)
def test_whole_slides(shared_data, name, expected):
    """OS-2 (Ki-67) has 10 to 40 % positive nuclei."""
    info = inspect_slide(shared_data / name, "slide")
    with open_slide(shared_data / name, info.reader) as slide:
        pixels = slide.read_region((0, 0), 0, info.size_px)
    assert is_ihc(pixels, info.mpp[0]) == expected


def test_pigment_between_nuclei(trials5):
    pixels = read_rgb(trials5 / "4-pigment-taken-for-ihc/pigment.png")
    assert mentions_brown(pixels, 0.499) and not is_ihc(pixels, 0.499)


def test_dab_over_haematoxylin(trials):
    """Three quarters of these nuclei have DAB over haematoxylin; none of their pixels is brown by
    itself.
    """
    assert is_ihc(read_rgb(trials / "1-ihc-taken-for-he/dab.png"), 0.499)
