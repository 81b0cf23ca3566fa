import numpy as np
import pytest
from finished_slide import CLASSES, MPP, draw_tissue, write_slide
from PIL import Image

from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.report.density import Field, count_nuclei
from muse_pipeline.report.overlays import (
    CAPTION_PX,
    ENLARGEMENT,
    INK,
    STRIP_PX,
    add_strip,
    draw_density,
    draw_field,
    draw_outlines,
    nice_length,
)
from muse_pipeline.store.store import open_store

ALL = [NucleusClass(name, color) for name, color in CLASSES.items()]


@pytest.fixture(scope="module")
def drawn_field(finished, tmp_path_factory):
    path = tmp_path_factory.mktemp("field") / "1.png"
    store = open_store(finished / "image-500nm.zarr")
    counts = draw_field(store, finished / "nuclei.parquet", Field("x", (256.0, 128.0)), ALL, path)
    return np.asarray(Image.open(path)), counts


def test_counts_are_of_the_nuclei_centred_in_the_field(drawn_field):
    _, xy, label = draw_tissue()
    inside = ((xy >= np.array([256, 128]) / MPP) & (xy < np.array([512, 384]) / MPP)).all(1)
    assert drawn_field[1] == {
        name: int((label[inside] == i).sum()) for i, name in enumerate(CLASSES)
    }
    assert sum(drawn_field[1].values()) > 50


def test_outlines_sit_on_the_nuclei_in_their_colour(drawn_field):
    """The mean offset between outlines and their discs is less than a fifth of a pixel of the
    store, in x and in y.
    """
    picture, _ = drawn_field
    _, xy, label = draw_tissue()
    alone = _alone(xy)
    offsets = []
    for where, i in zip(xy[alone], label[alone], strict=True):
        middle = (where - np.array([256, 128]) / MPP) * ENLARGEMENT
        if not (40 < middle[0] < 984 and 40 < middle[1] < 984):
            continue
        left, top = (middle - 26).astype(int)
        crop = picture[top : top + 52, left : left + 52].astype(int)
        rows, columns = np.nonzero(np.abs(crop - ALL[i].color).max(-1) < 40)
        assert len(rows) > 20
        offsets.append(
            [columns.mean() + 0.5 + left - middle[0], rows.mean() + 0.5 + top - middle[1]]
        )
    assert len(offsets) >= 5
    assert np.shape(picture) == (1024, 1024, 3)  # exactly 256 um
    assert np.abs(np.mean(offsets, 0)).max() < 0.2 * ENLARGEMENT


def _alone(xy):
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=-1) + 1e9 * np.eye(len(xy))
    return distance.min(1) > 26


def test_outlines_of_unknown_class_are_black_and_no_nuclei_draw_nothing():
    pixels = np.full((40, 40, 3), 200, np.uint8)
    draw_outlines(pixels, [], np.zeros(0, int), ALL)
    assert (pixels == 200).all()
    draw_outlines(pixels, [np.array([[10, 10], [30, 10], [30, 30], [10, 30]])], np.array([-1]), ALL)
    assert pixels.min() < 20


@pytest.mark.parametrize("size_px", [(300, 200), (80, 60), (1536, 300)])
def test_a_field_ends_where_the_slide_does(tmp_path, size_px):
    """The picture does not extend beyond the slide, and small fields are enlarged until the texts
    fit.
    """
    folder = write_slide(tmp_path, "small", draw_tissue(size_px, 60), enlarged=1)
    store = open_store(folder / "image-500nm.zarr")
    draw_field(
        store, folder / "nuclei.parquet", Field("densest", (0.0, 0.0)), ALL, tmp_path / "1.png"
    )
    picture = np.asarray(Image.open(tmp_path / "1.png"))
    width, height = min(size_px[0], 512), min(size_px[1], 512)
    assert picture.shape[1] / width == picture.shape[0] / height >= 2 and picture.shape[1] >= 600
    assert (picture[CAPTION_PX:-STRIP_PX, -1] != 255).any()  # no white border


def test_caption_scale_bar_and_legend_lie_inside_the_picture(drawn_field):
    picture = drawn_field[0].astype(int)
    assert (picture[:CAPTION_PX, :60] < 90).all(-1).any()  # text of the caption
    strip = picture[-STRIP_PX:]
    assert (strip[STRIP_PX // 2, 12:200] == INK).all()
    assert np.ptp(strip[2, 20:1000], axis=0).min() > 3  # the tissue shows through


@pytest.mark.parametrize(
    "longest, nice", [(64, 50), (50, 50), (19.9, 10), (2.5, 2), (1200, 1000), (0.7, 0.5)]
)
def test_scale_bars_have_nice_lengths(longest, nice):
    assert nice_length(longest) == pytest.approx(nice)


def test_scale_bar_is_as_long_as_it_states():
    canvas, _, _ = add_strip(np.full((100, 800, 3), 255, np.uint8), um_per_px=0.25)
    row = np.asarray(canvas)[100 + STRIP_PX // 2, :300]
    bar = np.flatnonzero((row < 60).all(-1) & (np.arange(300) <= 12 + 200))
    assert abs(np.ptp(bar) + 1 - 50 / 0.25) <= 1


def test_a_map_of_density_enlarges_no_cell_beyond_its_width(tmp_path):
    """The map of a picture of 5 um would otherwise be cut from one of 46,000 px."""
    grid, mask = count_nuclei([], (10, 10), (0.5, 0.5), 1), np.ones((1, 1), bool)
    backdrop = np.full((10, 10, 3), 200, np.uint8)
    draw_density(grid, mask, backdrop, tmp_path / "density.png", [], (0.5, 0.5))
    assert Image.open(tmp_path / "density.png").size == (70, 70 + STRIP_PX)
