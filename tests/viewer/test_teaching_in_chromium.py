"""The gallery, and corrections of nuclei, in a real browser."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely
from finished_slide import CLASSES
from PIL import Image
from qupath_check import check_geojson
from scipy.spatial import cKDTree
from uneven_slide import read_slide
from viewer_tab import CENTRE, LEVEL0_UM, ON_SCREEN, Tab, fragment, is_color

from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.nuclei.parquet import footer_checksum, read_nuclei
from muse_pipeline.qupath.read import read_geojson
from muse_pipeline.viewer.page import write_viewer

pytestmark = pytest.mark.slow
# JavaScript that finds an x without a nucleus 3 px below the upper edge of the image.
FREE_AT_THE_EDGE = """[...Array(300).keys()].map((i) => 50 + i).find((x) =>
  [-12, 0, 12].every((dx) => !muse.pick(...muse.fromQuPath(x + dx, 3))))"""


def first_nuclei(finished, n: int, label: int) -> np.ndarray:
    """(n, 2) QuPath px: nuclei of class ``label`` near the middle of the slide that do not overlap
    other nuclei.
    """
    nuclei = read_nuclei(finished / "nuclei.parquet")
    alone = cKDTree(nuclei.xy).query(nuclei.xy, k=2)[0][:, 1] > 45
    near = (abs(nuclei.xy - CENTRE) < (450, 380)).all(1)
    return nuclei.xy[(nuclei.label == label) & alone & near][:n]


def start_teaching(tab: Tab, target: str) -> None:
    tab.page.get_by_role("button", name="Correct nuclei").click()
    tab.page.get_by_role("radio", name=target).check()


def click_at(tab: Tab, xy) -> None:
    """Click a position on the slide, given in QuPath px."""
    x, y = tab.page.evaluate(ON_SCREEN, [float(each) for each in xy])
    tab.page.mouse.click(x, y)


def downloaded(tab: Tab) -> dict:
    with tab.page.expect_download() as download:
        tab.page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "one.geojson"
    return json.loads(Path(download.value.path()).read_text(encoding="utf-8"))


def test_the_gallery_leads_to_its_nuclei(open_tab, viewer):
    tab = open_tab(viewer)
    tab.page.get_by_text("Show nuclei by sureness").click()
    tab.page.select_option("#gallery-class", "1")
    thumbnails = tab.page.locator(".thumbnails button")
    assert thumbnails.count() == 36
    entry = next(
        each
        for each in read_slide(viewer)["gallery"]
        if (each["label"], each["kind"]) == (1, "least sure")
    )
    thumbnails.nth(12).click()
    assert np.allclose(
        tab.page.evaluate("muse.toQuPath(...muse.middle())"), entry["nuclei"][0][1:3], atol=0.5
    )
    tab.wait()
    ring, stage = (tab.page.locator(name).bounding_box() for name in ("#ring", "#stage"))
    for side, length in (("x", "width"), ("y", "height")):
        assert abs(ring[side] + ring[length] / 2 - stage[length] / 2) < 2
    color = read_slide(viewer)["classes"][1]["safe_color"]
    for _ in range(100):
        picture = np.asarray(
            Image.open(io.BytesIO(thumbnails.nth(12).screenshot())).convert("RGB")
        ).astype(int)
        if is_color(picture, color, 60).sum() > 20:
            return
        tab.page.wait_for_timeout(50)
    pytest.fail("the outline of the nucleus is not drawn")


def test_marks_are_drawn_kept_and_taken_back(open_tab, viewer, finished):
    tab = open_tab(viewer, fragment())
    start_teaching(tab, "Stromal")
    (xy,) = first_nuclei(finished, 1, label=1)
    before = tab.pixels()
    click_at(tab, xy)
    click_at(tab, np.add(CENTRE, (410, 300)))
    assert tab.page.inner_text("#touched") == "1 marked, 1 added, 0 areas checked"
    assert (tab.pixels() != before).any(-1).sum() > 50
    tab.page.reload()
    tab.wait()
    assert tab.page.inner_text("#touched") == "1 marked, 1 added, 0 areas checked"
    tab.page.get_by_role("button", name="Undo").click()
    tab.page.reload()  # what is undone stays undone
    tab.wait()
    assert tab.page.inner_text("#touched") == "1 marked, 0 added, 0 areas checked"
    tab.page.keyboard.press("u")
    assert tab.page.inner_text("#touched") == "Nothing corrected yet."
    assert tab.page.get_by_role("button", name="Download").is_disabled()


def _within(xy: np.ndarray, area: shapely.Geometry) -> np.ndarray:
    return shapely.contains_xy(area, *xy.T)


def test_a_checked_area_is_downloaded_with_every_nucleus_in_it(
    open_tab, viewer, finished, tmp_path
):
    tab = open_tab(viewer, fragment())
    wrong, none = first_nuclei(finished, 2, label=1)
    start_teaching(tab, "Lymphocyte")
    click_at(tab, wrong)
    tab.page.get_by_role("radio", name="not a nucleus").check()
    click_at(tab, none)
    tab.page.get_by_role("button", name="This view is checked").click()
    view = tab.page.evaluate("muse.view()")
    assert tab.page.inner_text("#touched") == "2 marked, 0 added, 1 area checked"
    collection = downloaded(tab)
    (tmp_path / "one.geojson").write_text(json.dumps(collection))
    objects = read_geojson(tmp_path / "one.geojson")
    assert check_geojson(tmp_path / "one.geojson").is_good
    corner = np.array([view["left"], view["top"]]) / LEVEL0_UM
    region = shapely.box(*corner, corner[0] + view["width"], corner[1] + view["height"])
    assert objects.class_name[0] == "Region*"
    assert objects.geometry[0].symmetric_difference(region).area < 2 * region.length
    nuclei = read_nuclei(finished / "nuclei.parquet")
    label = nuclei.label.copy()
    label[(abs(nuclei.xy - wrong) < 1).all(1)] = list(CLASSES).index("Lymphocyte")
    kept = (abs(nuclei.xy - none) > 1).any(1)
    centres = shapely.get_coordinates(shapely.centroid(objects.geometry[1:]))
    for number, name in enumerate(CLASSES):
        least, most = (
            nuclei.xy[kept & (label == number) & _within(nuclei.xy, region.buffer(by))]
            for by in (-2, 2)
        )
        found = centres[objects.class_name[1:] == name]
        assert len(least) <= len(found) <= len(most)
        assert cKDTree(found).query(least)[0].max() < 3
        assert cKDTree(most).query(found)[0].max() < 3
    assert collection["features"][0]["properties"]["metadata"]["muse nuclei"] == footer_checksum(
        finished / "nuclei.parquet"
    )


def test_a_mark_alone_labels_its_nucleus_alone(open_tab, viewer, finished):
    tab = open_tab(viewer, fragment())
    start_teaching(tab, "not a nucleus")
    (xy,) = first_nuclei(finished, 1, label=1)
    click_at(tab, xy)
    (region,) = downloaded(tab)["features"]
    shape = shapely.from_geojson(json.dumps(region["geometry"]))
    assert region["properties"]["classification"]["name"] == "Region*"
    assert shape.contains(shapely.Point(xy))
    assert shape.area * LEVEL0_UM**2 < 200


def test_corrections_end_where_the_scan_does(open_tab, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "one", ignore=shutil.ignore_patterns("viewer"))
    info = read_json(folder / "slide.json")
    left, top, width, height = np.add((*CENTRE, 0, 0), (-200, -150, 400, 300)).tolist()
    write_json(
        folder / "slide.json",
        {**info, "bounds": {"x": left, "y": top, "width": width, "height": height}},
    )
    tab = open_tab(write_viewer(folder).parent, fragment((width / 2, height / 2)))
    start_teaching(tab, "Stromal")
    free = tab.page.evaluate(FREE_AT_THE_EDGE)
    click_at(tab, (free, 3))
    click_at(tab, (-30, -30))
    assert "outside the slide" in tab.page.inner_text("#notice")
    assert tab.page.inner_text("#touched") == "0 marked, 1 added, 0 areas checked"
    tab.page.keyboard.press("c")
    checked = downloaded(tab)["features"][0]
    tab.page.keyboard.press("u")
    around_added = downloaded(tab)["features"][0]
    for region in (checked, around_added):
        x, y = np.transpose(region["geometry"]["coordinates"][0])
        assert x.min() >= 0 and y.min() == 0 and x.max() <= width and y.max() <= height
        assert len(set(x)) == len(set(y)) == 2


def test_an_area_is_dragged_with_shift_and_rejected_while_nuclei_are_hidden(open_tab, viewer):
    tab = open_tab(viewer, fragment())
    start_teaching(tab, "Stromal")
    tab.page.keyboard.down("Shift")
    tab.page.mouse.move(300, 300)
    tab.page.mouse.down()
    tab.page.mouse.move(500, 450, steps=5)
    tab.page.mouse.up()
    tab.page.keyboard.up("Shift")
    assert tab.page.inner_text("#touched") == "0 marked, 0 added, 1 area checked"
    assert np.allclose(
        tab.page.evaluate("muse.toQuPath(...muse.middle())"), CENTRE, atol=0.5
    )  # the slide has not moved
    ring = downloaded(tab)["features"][0]["geometry"]["coordinates"][0]
    assert np.allclose(np.ptp(ring, axis=0), (200, 150), atol=1)
    tab.set("#score", 5)
    tab.page.keyboard.press("c")
    assert "Some nuclei are hidden" in tab.page.inner_text("#notice")


def test_corrections_of_an_earlier_result_are_named_and_those_of_other_slides_kept(
    open_tab, viewer
):
    tab = open_tab(viewer, fragment())
    start_teaching(tab, "Stromal")
    tab.page.keyboard.press("c")
    own = tab.page.evaluate("Object.keys(localStorage)[0]")
    fingerprint, checksum = (read_slide(viewer)[name] for name in ("fingerprint", "checksum"))
    others = [
        own.replace('"one"', '"one HE"'),
        own.replace(fingerprint, "0" * 64),
        "muse one HE older",
    ]
    for name in (*others, own.replace(checksum, "older")):
        tab.page.evaluate("(name) => localStorage.setItem(name, '[]')", name)
    tab.page.reload()
    tab.wait()
    assert "corrections of an earlier result" in tab.page.inner_text("#panel")
    tab.page.get_by_role("button", name="Forget them").click()
    assert sorted(tab.page.evaluate("Object.keys(localStorage)")) == sorted([own, *others])
    tab.page.reload()
    tab.wait()
    assert "earlier result" not in tab.page.inner_text("#panel")
    assert tab.page.inner_text("#touched") == "0 marked, 0 added, 1 area checked"
