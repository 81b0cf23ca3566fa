"""A third stain besides haematoxylin and DAB: it is estimated, its absence is noticed, and scores
do not change.
"""

from functools import cache

import numpy as np
import pytest
from drawn_ihc import draw_levels
from slide_files import write_pyramid

from muse_pipeline.core.files import read_tsv
from muse_pipeline.inference.stains import LN_10, STAINS, split_stains
from muse_pipeline.nuclei.parquet import read_nuclei, read_provenance
from muse_pipeline.slides.base import open_slide
from muse_pipeline.tissue.stain import find_third_stain

RED, EOSIN, MAGENTA, GREEN = (
    (0.214, 0.851, 0.478),
    (0.072, 0.990, 0.105),
    (0.25, 0.92, 0.29),
    (0.98, 0.144, 0.133),
)
AEC = (0.274, 0.680, 0.680)  # 8 degrees from DAB
THIRDS = [RED, EOSIN, MAGENTA, GREEN]
SIZE_UM, SLIDE_UM = (560, 400), (320, 240)
drawn = cache(draw_levels)  # the arrays are shared, so no test changes them


def unit(vector):
    return np.divide(vector, np.linalg.norm(vector))


def angle(one, other):
    return np.degrees(np.arccos(np.clip(unit(one) @ unit(other), -1, 1)))


@pytest.mark.parametrize("third", THIRDS)
def test_the_estimate_is_the_stain_of_the_slide(third):
    pixels, *_ = drawn(0.5, SIZE_UM, third)
    found = find_third_stain(pixels.reshape(-1, 3))
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    assert angle(found, third) < 7  # even the purest pixels contain the background's haematoxylin


@pytest.mark.parametrize("third", [None, AEC])
def test_a_slide_without_a_distinct_third_stain_has_none(third):
    assert find_third_stain(drawn(0.5, SIZE_UM, third)[0].reshape(-1, 3)) is None


@pytest.mark.parametrize("pixels", [np.zeros((0, 3), np.uint8), np.full((900, 3), 250, np.uint8)])
def test_glass_has_no_third_stain(pixels):
    assert find_third_stain(pixels) is None


def test_haematoxylin_of_another_shade_is_no_third_stain(shared_data):
    """The haematoxylin of OS-2 is 13 degrees from the textbook's; a red painted over it is found
    nevertheless.
    """
    with open_slide(shared_data / "wsi-openslide-crops/OS-2-ndpi.ome.tif") as slide:
        pixels = slide.read_region((0, 0), 0, (1000, 1000))
    assert find_third_stain(pixels.reshape(-1, 3)) is None
    pixels[:300] = np.rint((pixels[:300] + 1.0) * np.exp(-0.8 * unit(RED))).clip(1, 256) - 1
    assert angle(find_third_stain(pixels.reshape(-1, 3)), RED) < 10


@pytest.mark.parametrize("third", THIRDS)
def test_dab_is_that_of_the_slide_without_the_third_stain(third):
    pixels, centres, density = drawn(0.5, SIZE_UM, third)
    x, y = centres.astype(int).T
    around = [(y + dy, x + dx) for dx in (-2, 0, 2) for dy in (-2, 0, 2)]
    two, three = (
        np.mean([split_stains(pixels, each)[at][:, 1] for at in around], 0)
        for each in (None, unit(third))
    )
    assert np.abs(three / LN_10 - density).max() < 0.05 < np.abs(two / LN_10 - density).max()


def test_pixels_without_the_third_stain_are_split_as_before():
    pixels, *_ = drawn(0.5, SIZE_UM, None)
    two, three = split_stains(pixels), split_stains(pixels, unit(RED))
    assert (two[..., 1] == three[..., 1]).mean() > 0.3
    assert np.abs(two - three).mean() < 0.01 * LN_10
    assert np.allclose(split_stains(pixels, STAINS[2]), two, atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for name, third in (("two", None), ("three", RED)):
        pixels = np.pad(
            drawn(0.5, SLIDE_UM, third)[0], ((100, 100), (100, 100), (0, 0)), constant_values=246
        )
        write_pyramid(folder / f"{name}.tif", pixels, factors=(4,), mpp=0.5)
    return folder


def read_rows(output):
    return {row["slide_id"]: row for row in read_tsv(output / "cohort.tsv")}


def test_scores_of_a_slide_do_not_change_with_a_third_stain(folder, muse, tmp_path):
    *_, density = drawn(0.5, SLIDE_UM, RED)
    level = np.searchsorted((0.2, 0.4, 0.6), density)
    true = {"h_score": 100 * level.mean(), "percent_positive": 100 * (level > 0).mean()}
    slides, config = [folder / "two.tif", folder / "three.tif"], tmp_path / "third.yaml"
    config.write_text("third_stain: true")
    options = ["--threads", "1", "--cells", "--stain", "IHC"]
    for name, more in (("plain", ()), ("third", ["--config", config])):
        muse.ok("run", *slides, "-o", tmp_path / name, *options, *more)
    plain, found = read_rows(tmp_path / "plain"), read_rows(tmp_path / "third")
    for score, tolerance in (("h_score", 1), ("percent_positive", 0.5)):
        assert float(plain["two"][score]) == pytest.approx(true[score], abs=tolerance)
        assert float(found["three"][score]) == pytest.approx(true[score], abs=tolerance)
        assert float(plain["three"][score]) > true[score] + 5
    assert [round(float(each["three"]["h_score"])) for each in (plain, found)] == [138, 123]
    assert (
        float(found["three"]["cytoplasm_h_score"])
        < 1
        < 10
        < float(plain["three"]["cytoplasm_h_score"])
    )
    assert angle(read_provenance(tmp_path / "third/three/nuclei.parquet").third_stain, RED) < 7
    # A slide without a third stain gets a warning, and the same nuclei as without
    # ``third_stain``.
    assert "no third stain distinct from haematoxylin and DAB was found" in found["two"]["warnings"]
    assert "third stain" not in found["three"]["warnings"] + plain["two"]["warnings"]
    before, after = (
        read_nuclei(tmp_path / name / "two/nuclei.parquet") for name in ("plain", "third")
    )
    assert np.array_equal(before.dab_od, after.dab_od) and np.array_equal(before.rays, after.rays)
    assert read_provenance(tmp_path / "third/two/nuclei.parquet").third_stain is None
    assert "third_stain" not in (tmp_path / "plain/three/colour.json").read_text()
    _, printed, _ = muse(f"run {slides[1]} -o {tmp_path / 'plain'} --cells --config {config}")
    assert "third_stain false -> true: 1 slide (three)" in printed
