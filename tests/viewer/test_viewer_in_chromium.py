"""The viewer in Chromium, opened as a file: what it draws, what its controls do, and that it uses
no network.
"""

import re
import shutil

import numpy as np
import pytest
import shapely
from finished_slide import HOSTILE
from scipy.spatial import cKDTree
from uneven_slide import read_slide, write_uneven_slide
from viewer_tab import CENTRE, LEVEL0_UM, LOWEST_CONTRAST, fragment, is_color

from muse_pipeline.nuclei.arrow import to_numpy
from muse_pipeline.nuclei.parquet import parse_outlines, read_nuclei, read_within
from muse_pipeline.viewer.page import write_viewer

pytestmark = pytest.mark.slow


def test_it_draws_the_image_and_asks_for_its_own_files_alone(open_tab, viewer):
    tab = open_tab(viewer)
    pixels = tab.pixels()
    pink = (abs(pixels - (232, 196, 214)) < 12).all(-1)
    assert pink.mean() > 0.3
    assert all(
        is_color(pixels, each["safe_color"]).sum() > 50 for each in read_slide(viewer)["classes"]
    )
    home = viewer.as_uri() + "/"
    assert [url for url in tab.requests if not url.startswith((home, "blob:", "data:"))] == []


def test_outlines_lie_within_a_pixel_of_the_table(open_tab, viewer, finished):
    tab = open_tab(viewer, fragment()).nuclei_alone()
    pixels = tab.pixels()
    size = np.array(pixels.shape[1::-1])
    corner = np.array(CENTRE) - size / 2
    table = read_within(
        finished / "nuclei.parquet",
        corner - 100,
        corner + size + 100,
        ["x", "y", "label", "geometry"],
    )
    outlines = parse_outlines(np.array(table["geometry"].to_pylist(), object))
    outlines, label = shapely.transform(outlines, lambda xy: xy - corner), to_numpy(table["label"])
    tree, view = shapely.STRtree(outlines), shapely.box(*np.full(2, 10), *(size - 10))
    alone = [
        i
        for i, one in enumerate(outlines)
        if len(tree.query(one.buffer(6))) == 1 and one.within(view)
    ]
    assert len(alone) > 30
    for i in alone:
        color = read_slide(viewer)["classes"][label[i]]["safe_color"]
        left, top, right, bottom = (int(edge) for edge in outlines[i].buffer(6).bounds)
        rows, columns = np.nonzero(is_color(pixels[top:bottom, left:right], color))
        drawn = np.column_stack([columns + left, rows + top]) + 0.5
        off = shapely.distance(shapely.points(drawn), outlines[i].exterior)
        assert off.max() <= 1.0
        along = shapely.get_coordinates(shapely.segmentize(outlines[i].exterior, 1.0))
        assert cKDTree(drawn).query(along)[0].max() <= 1.0 + np.sqrt(
            0.5
        )  # distance to a pixel's centre


def test_a_class_is_switched_off_and_on(open_tab, viewer):
    tab = open_tab(viewer, fragment()).nuclei_alone()
    color = read_slide(viewer)["classes"][1]["safe_color"]
    shown = is_color(tab.pixels(), color).sum()
    tab.page.uncheck("input[data-label='1']")
    assert is_color(tab.pixels(), color).sum() == 0
    tab.page.keyboard.press("2")
    assert is_color(tab.pixels(), color).sum() == shown


def test_the_slider_hides_low_scores_and_counts_the_rest(open_tab, viewer, finished):
    tab = open_tab(viewer, fragment()).nuclei_alone()
    drawn = (tab.pixels() < 200).any(-1).sum()
    tab.set("#score", 13)
    assert 0 < (tab.pixels() < 200).any(-1).sum() < 0.8 * drawn
    nuclei = read_nuclei(finished / "nuclei.parquet")
    counts = [int((nuclei.score[nuclei.label == label] >= 0.65).sum()) for label in range(3)]
    assert tab.page.locator("label.class output").all_inner_texts() == [f"{n:,}" for n in counts]


def test_nuclei_are_dots_far_out_a_heat_map_nearer_and_outlines_nearest(open_tab, viewer):
    tab = open_tab(viewer, fragment(um_per_px=12)).nuclei_alone()
    for um_per_px, mode in ((12, "dots"), (4, "heat map"), (0.5, "outlines")):
        tab.page.evaluate(f"muse.goTo(...muse.fromQuPath({CENTRE[0]}, {CENTRE[1]}), {um_per_px})")
        assert (tab.pixels() < 250).any()
        assert mode in tab.page.inner_text("#mode")
    for mode in ("dots", "outlines", "heat map"):
        tab.set("#drawn", mode)
        tab.wait()
        assert tab.page.evaluate("muse.mode") == mode


def test_opacity_and_areas_change_the_picture(open_tab, viewer):
    tab = open_tab(viewer).nuclei_alone()
    full = tab.pixels()
    tab.set("#opacity", 30)
    faint = tab.pixels()
    assert faint.mean() > full.mean()
    tab.page.get_by_label("Tissue").check()
    assert (tab.pixels() != faint).any(-1).sum() > 1000


def test_the_image_is_that_of_the_position(open_tab, viewer):
    fresh = open_tab(viewer, fragment()).pixels()
    tab = open_tab(viewer)
    tab.wait()
    tab.page.evaluate(f"muse.goTo(...muse.fromQuPath({CENTRE[0]}, {CENTRE[1]}), {LEVEL0_UM})")
    away = tab.page.locator(".navigator").bounding_box()
    later = tab.pixels()
    below = round(away["y"] + away["height"]) + 10
    assert (abs(later - fresh)[below:-60] > 30).any(-1).mean() < 0.001


def test_a_position_is_linked_and_found_again(open_tab, viewer):
    tab = open_tab(viewer, fragment((900, 700), 0.4))
    assert np.allclose(tab.page.evaluate("muse.toQuPath(...muse.middle())"), (900, 700), atol=0.5)
    tab.page.fill("#goto", "1200, 800")
    tab.page.press("#goto", "Enter")
    link = tab.page.evaluate("muse.link()")
    assert re.search(r"#at=1200\.0,800\.0,", link)
    other = open_tab(viewer, link[link.index("#") :])
    assert np.allclose(
        other.page.evaluate("muse.toQuPath(...muse.middle())"), (1200, 800), atol=0.5
    )
    other.page.fill("#goto", "nowhere")
    other.page.press("#goto", "Enter")
    assert "two numbers" in other.page.inner_text("#notice")


def test_the_keyboard_reaches_everything(open_tab, viewer):
    tab = open_tab(viewer, fragment())
    press, page = tab.page.keyboard.press, tab.page
    press("t")
    press("g")
    page.locator("#goto").focus()
    press("Tab")
    press("Enter")  # opens "Keys"
    controls = page.locator(
        ":is(input, select, button, summary, [tabindex='0']):visible:not(:disabled)"
    )
    wanted = set(
        range(
            controls.evaluate_all(
                "(all) => all.forEach((each, i) => (each.number = i)) ?? all.length"
            )
        )
    )
    wanted -= set(
        controls.evaluate_all(
            "(all) => all.filter((e) => e.type === 'radio' && !e.checked).map((e) => e.number)"
        )
    )
    assert len(wanted) > 50  # including the gallery's thumbnails
    for _ in range(2 * len(wanted)):
        press("Tab")
        wanted.discard(page.evaluate("document.activeElement.number"))
    assert wanted == set()
    tab.page.locator(".openseadragon-canvas").first.focus()
    before = tab.page.evaluate("muse.view()")
    tab.page.keyboard.press("ArrowRight")
    tab.until(f"muse.view().left > {before['left']}")
    tab.page.keyboard.press("n")
    tab.until("document.getElementById('mode').textContent.includes('hidden')")
    tab.page.keyboard.press("0")
    tab.until(f"muse.view().scale < {before['scale']}")


def test_a_hostile_name_is_text(open_tab, tmp_path):
    tab = open_tab(write_viewer(write_uneven_slide(tmp_path, HOSTILE)).parent)
    assert tab.page.title() == HOSTILE
    assert tab.page.inner_text("h1") == HOSTILE


def test_without_a_store_nuclei_are_shown_on_white(open_tab, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "one")
    shutil.rmtree(folder / "viewer", ignore_errors=True)
    shutil.rmtree(folder / "image-500nm.zarr")
    tab = open_tab(write_viewer(folder).parent, fragment())
    assert "store of this slide was removed" in tab.page.inner_text("#no-image")
    pixels = tab.pixels()
    assert is_color(pixels, read_slide(folder / "viewer")["classes"][0]["safe_color"]).sum() > 50
    assert (pixels == 255).all(-1).mean() > 0.5


@pytest.mark.parametrize("width", [1400, 800])
def test_nothing_is_cut_off_and_text_has_contrast(open_tab, viewer, width):
    tab = open_tab(viewer, width=width)
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.page.evaluate(
        "(p => p.scrollWidth <= p.clientWidth)(document.getElementById('panel'))"
    )
    assert tab.page.evaluate(LOWEST_CONTRAST, "#panel *, #status-bar *") >= 4.5
