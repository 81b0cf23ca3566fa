"""Two results of a slide beside each other: which nuclei differ, and the page in Chromium."""

import json
import shutil

import numpy as np
import pytest
from finished_slide import CLASSES
from uneven_slide import HOSTILE, read_slide, write_nuclei, write_uneven_slide
from viewer_tab import LOWEST_CONTRAST

from muse_pipeline.cli.main import main
from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.nuclei.parquet import read_nuclei
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.viewer.page import write_viewer
from muse_pipeline.viewer.serve import Found, compare_pages, find_differences, write_comparison

NAMES = list(CLASSES)
N_OTHER, N_LOST = 7, 5
NAME_AT = """([x, y]) => {
  const { chunk, i } = muse.pick(x, y);
  return muse.nameOf(muse.classOf(chunk, i));
}"""


@pytest.fixture(scope="module")
def runs(finished, tmp_path_factory):
    """Two runs with a slide: the second has some nuclei of another class, and lacks some."""
    top = tmp_path_factory.mktemp("runs")
    first, second = (shutil.copytree(finished, top / run / "one") for run in ("before", "after <b>"))
    nuclei = read_nuclei(first / "nuclei.parquet")
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(nuclei.label == 0))[:N_OTHER]
    nuclei.label[chosen] = 1
    stroma = np.flatnonzero(nuclei.label == 2)[:N_LOST]
    write_nuclei(second, nuclei[np.setdiff1d(np.arange(len(nuclei)), stroma)])
    return first, second, chosen


@pytest.fixture(scope="module")
def page(runs):
    return write_comparison(*runs[:2])


def read_differences(page):
    text = (page.parent / "differences.js").read_text(encoding="ascii")
    return json.loads(text.removeprefix("window.differences = ").removesuffix(";\n"))


def test_nuclei_of_another_class_and_lost_ones_are_listed(runs, page):
    found = read_differences(page)
    assert {kind["text"]: kind["n"] for kind in found["kinds"]} == {
        f"{NAMES[0]} / {NAMES[1]}": N_OTHER,
        f"{NAMES[2]}, left only": N_LOST,
    }
    nuclei, info = read_nuclei(runs[0] / "nuclei.parquet"), read_info(runs[0] / "slide.json")
    expected = (nuclei.xy[runs[2]] * info.mpp).round(1)
    assert np.allclose(sorted(found["kinds"][0]["at"]), sorted(expected.tolist()), atol=0.11)
    assert [side["folder"] for side in found["sides"]] == ["before", "after <b>"]


def test_differences_of_the_largest_score_come_first():
    one = Found(np.array([[0.0, 0], [50, 0], [100, 0]]), np.array(["a", "a", "a"], object), np.array([0.5, 0.9, 0.7]))
    two = Found(np.array([[1.0, 0], [52, 0], [150, 0]]), np.array(["b", "b", "c"], object), np.array([0.8, 0.9, 0.4]))
    kinds = {kind["text"]: kind["at"] for kind in find_differences(one, two, [])}
    assert kinds == {"a / b": [[52, 0], [1, 0]], "a, left only": [[100, 0]], "c, right only": [[150, 0]]}


def test_the_other_nuclei_are_shown_on_the_tiles_of_the_first(runs, page):
    other = read_slide(page.parent / "other")
    assert other["n_nuclei"] == len(read_nuclei(runs[1] / "nuclei.parquet"))
    tile = page.parent / "other" / other["image"]["folder"] / "0/0_0.jpg"
    assert tile.resolve() == (runs[0] / "viewer/tiles/0/0_0.jpg").resolve()
    assert tile.is_file()


def test_runs_are_compared_slide_by_slide(runs):
    assert compare_pages(runs[0].parent, runs[1].parent) == ["one/compare/index.html"]
    assert compare_pages(runs[0], runs[1]) == ["compare/index.html"]


def test_different_slides_are_one_sentence(runs, tmp_path, capsys):
    assert main(["view", str(runs[0].parent), "--compare", str(tmp_path)]) == 2
    assert "have no slide with nuclei in common" in capsys.readouterr().err
    other = shutil.copytree(runs[1], tmp_path / "other")
    info = read_json(other / "slide.json")
    write_json(other / "slide.json", {**info, "fingerprint": "another"})
    write_nuclei(other, read_nuclei(other / "nuclei.parquet"))
    assert main(["view", str(runs[0]), "--compare", str(other)]) == 2
    assert "are results of different slides" in capsys.readouterr().err


def test_a_hostile_name_is_text(tmp_path):
    folder = write_uneven_slide(tmp_path / "a", HOSTILE)
    page = write_comparison(folder, shutil.copytree(folder, tmp_path / "b" / HOSTILE)).read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<script>alert" not in page


def wait(page, expression, frames):
    for _ in range(600):
        if all(frame.evaluate(expression) for frame in frames):
            return
        page.wait_for_timeout(50)
    raise TimeoutError(expression)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 800])
def test_both_viewers_move_together_and_visit_what_differs(chromium, page, width):
    with chromium.new_context(viewport={"width": width, "height": 900}) as context:
        tab = context.new_page()
        requests, errors = [], []
        tab.on("request", lambda request: requests.append(request.url))
        for event in ("pageerror", "requestfailed"):
            tab.on(event, lambda what: errors.append(str(what)))
        tab.goto(page.as_uri())
        viewers = tab.frames[1:]
        wait(tab, "typeof muse === 'object' && Boolean(muse.isReady && muse.isReady())", viewers)
        kind = read_differences(page)["kinds"][0]
        tab.keyboard.press("n")
        wait(tab, "Math.abs(muse.view().scale - 4) < 1e-6 && muse.isReady()", viewers)
        assert tab.inner_text("#counter") == f"1 of {N_OTHER}"
        for viewer in viewers:
            assert np.allclose(viewer.evaluate("muse.middle()"), kind["at"][0], atol=0.2)
        assert [viewer.evaluate(NAME_AT, kind["at"][0]) for viewer in viewers] == NAMES[:2]
        tab.get_by_role("button", name="Previous").press("Enter")
        assert tab.inner_text("#counter") == f"{N_OTHER} of {N_OTHER}"
        for x, (one, other) in ((300, viewers), (350, viewers[::-1])):
            one.evaluate(f"muse.goTo({x}, 200, 1)")
            wait(tab, f"Math.hypot(muse.middle()[0] - {x}, muse.middle()[1] - 200) < 0.6 && muse.isReady()", [other])
        tab.select_option("#kind", "1")
        assert tab.inner_text("#counter") == f"1 of {N_LOST}"
        tab.get_by_role("button", name="Controls of both").click()
        wait(tab, "getComputedStyle(document.getElementById('panel')).display !== 'none'", viewers)
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.evaluate(LOWEST_CONTRAST, "body *") >= 4.5
        home = page.parents[1].as_uri()
        assert [url for url in requests if not url.startswith((home, "blob:", "data:"))] == []
        assert errors == []


def test_a_comparison_of_replaced_nuclei_is_removed(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "one")
    write_comparison(folder, runs[1])
    assert write_viewer(folder) and (folder / "compare/index.html").is_file()
    write_nuclei(folder, read_nuclei(folder / "nuclei.parquet")[:9])
    write_viewer(folder)
    assert not (folder / "compare").exists()
