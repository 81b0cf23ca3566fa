import io

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from openslide import OpenSlide
from tiffslide import TiffSlide

from muse_pipeline.demo.field import Window
from muse_pipeline.demo.tissue import CLASSES
from muse_pipeline.demo.write import BLOCK_PX, TILE_PX, _paint_tiles, paint_block, write_demo
from muse_pipeline.inference.stains import split_stains


def read(slide, xy, level, size):
    return np.asarray(slide.read_region(xy, level, size).convert("RGB"))


def test_openslide_has_vendor_mpp_and_levels(demo):
    with OpenSlide(demo / "demo.svs") as slide:
        assert OpenSlide.detect_format(demo / "demo.svs") == "aperio"
        assert (
            float(slide.properties["openslide.mpp-x"])
            == float(slide.properties["openslide.mpp-y"])
            == 0.25
        )
        assert slide.properties["openslide.objective-power"] == "40"
        assert slide.level_downsamples == (1, 4, 16)
        assert "thumbnail" in slide.associated_images


def test_tiffslide_agrees(demo):
    with OpenSlide(demo / "demo.svs") as one, TiffSlide(demo / "demo.svs") as other:
        assert one.level_dimensions == tuple(other.level_dimensions)
        assert other.properties["tiffslide.mpp-x"] == 0.25
        xy = tuple(pd.read_csv(demo / "truth.csv")[["x", "y"]].median().astype(int))
        difference = read(one, xy, 0, (300, 200)).astype(int) - read(other, xy, 0, (300, 200))
        assert np.abs(difference).max() <= 2


def test_levels_show_the_same_tissue(demo):
    with OpenSlide(demo / "demo.svs") as slide:
        whole = read(slide, (0, 0), 0, slide.dimensions)
        for level, times in ((1, 4), (2, 16)):
            small = read(slide, (0, 0), level, slide.level_dimensions[level])
            expected = cv2.resize(whole, small.shape[1::-1], interpolation=cv2.INTER_AREA)
            assert np.abs(small.astype(int) - expected).mean() < 3, times


def test_nuclei_of_the_truth_are_darker_than_what_lies_around_them(demo):
    truth = pd.read_csv(demo / "truth.csv")
    with OpenSlide(demo / "demo.svs") as slide:
        red = cv2.GaussianBlur(read(slide, (0, 0), 0, slide.dimensions)[..., 0], (0, 0), 2.0)
    row, column = truth[["y", "x"]].to_numpy().astype(int).T
    background = np.median(
        [red[row + dy, column + dx] for dx, dy in ((40, 0), (-40, 0), (0, 40), (0, -40))], axis=0
    )
    darker = background - red[row, column].astype(float)
    assert len(truth) > 100
    for name in CLASSES:
        of_class = darker[truth["class"] == name]
        assert len(of_class) > 5
        assert np.median(of_class) > 40, name
    assert (darker > 10).mean() > 0.9


def test_sheet_and_config_lead_to_the_slide(demo):
    config = yaml.safe_load((demo / "config.yaml").read_text())
    sheet = pd.read_csv(config["slides"], sep="\t")
    assert (demo / sheet["path"].item()).is_file()


@pytest.mark.slow
def test_threads_repetition_and_a_partner_change_no_byte(demo, tmp_path):
    write_demo(tmp_path, 0.06, threads=2, partner=True)
    for name in ("demo.svs", "truth.csv"):
        assert (tmp_path / name).read_bytes() == (demo / name).read_bytes()
    assert pd.read_csv(tmp_path / "slides.tsv", sep="\t").loc[0, "partner"] == "ihc.svs"

    truth = pd.read_csv(tmp_path / "truth.csv")
    with OpenSlide(tmp_path / "ihc.svs") as slide:
        turned_back = read(slide, (0, 0), 0, slide.dimensions)[::-1, ::-1]
    row, column = truth[["y", "x"]].to_numpy().astype(int).T
    brown, is_lymphocyte = (
        split_stains(turned_back)[row, column, 1],
        (truth["class"] == "Lymphocyte").to_numpy(),
    )
    assert is_lymphocyte.sum() > 5 and (~is_lymphocyte).sum() > 5
    assert np.median(brown[is_lymphocyte]) > 3 * np.median(brown[~is_lymphocyte]) + 0.2


def test_blocks_are_painted_without_ipp(tissue, monkeypatch):
    """The rounding of IPP depends on the alignment of memory, which differs from run to run."""
    used, before = [], cv2.ipp.useIPP()

    def paint(tissue, block, times, marked):
        used.append(cv2.ipp.useIPP())
        return np.zeros((*block.size[::-1], 3), np.uint8)

    monkeypatch.setattr("muse_pipeline.demo.write._paint_block", paint)
    paint_block(tissue, Window(0, 0, 0.25, (600, 280)))
    assert set(used) == {False} and cv2.ipp.useIPP() == before


def test_pixels_are_painted_one_row_of_blocks_at_a_time():
    painted = []

    def paint(column, row):
        painted.append((column, row))
        return np.zeros((BLOCK_PX, BLOCK_PX, 3), np.uint8)

    file = io.BytesIO()
    tiles = _paint_tiles(paint, (3, 50), file, threads=1)
    per_row = 3 * (BLOCK_PX // TILE_PX) ** 2
    for row in range(3):
        for _ in range(per_row):
            next(tiles)
        assert len(painted) == 3 * (row + 1)
        assert file.tell() == 3 * (row + 1) * 3 * TILE_PX**2
