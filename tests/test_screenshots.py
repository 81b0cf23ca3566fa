"""Screenshots of a synthetic slide in the browser are similar to the committed ones in README and
docs.

pytest tests/test_screenshots.py -m slow -n 0 --pictures docs/images        replaces them
"""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from muse_page import Page
from PIL import Image
from viewer_tab import Tab

from muse_pipeline.cli.main import main as muse
from muse_pipeline.cohort.sheet import read_resolved
from muse_pipeline.report.cohort import gather_cohort
from muse_pipeline.report.page import write_page

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
IMAGES = Path(__file__).parents[1] / "docs/images"
AT = "#at=2400,1950,0.35"  # centre of the view in QuPath px, and um per screen px
# JavaScript that computes the screen positions of the nuclei nearest to points on the screen.
NUCLEI = """(points) => {
  const view = muse.view();
  const [width, height] = [view.width / view.scale, view.height / view.scale];
  const centres = muse.chunksIn(view.left, view.top, view.left + width, view.top + height)
    .map(muse.chunk).flatMap(({ n, left, top, x, y }) =>
      Array.from({ length: n }, (_, i) => [left + x[i], top + y[i]]))
    .map(([x, y]) => [(x - view.left) * view.scale, (y - view.top) * view.scale]);
  return points.map(([x, y]) => centres.reduce((best, each) =>
    (Math.hypot(each[0] - x, each[1] - y) < Math.hypot(best[0] - x, best[1] - y) ? each : best)));
}"""


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """Results of the demo slide from a model that finds the same nuclei on every processor."""
    top = tmp_path_factory.mktemp("pictures")
    assert muse(f"demo-slide {top / 'demo'} --area-mm2 2 --mpp 0.5".split()) == 0
    command = f"run {top / 'demo/demo.svs'} --model compact-fp32".split()
    assert muse([*command, "--output", str(top / "results")]) == 0
    return top / "results/demo"


@pytest.fixture
def keep(pytestconfig):
    """A function that writes a picture to the folder in --pictures if given, or compares it with
    the committed one.
    """

    def keep_one(name, png):
        picture, folder = (
            Image.open(io.BytesIO(png)).convert("RGB"),
            pytestconfig.getoption("--pictures"),
        )
        if folder:
            picture.save(Path(folder) / name, quality=82, optimize=True)
            return
        with Image.open(IMAGES / name) as committed:
            assert committed.size == picture.size
            shares = count_colours(picture), count_colours(committed.convert("RGB"))
        assert (
            np.minimum(*shares).sum() > 0.8
        )  # fonts and the last bits of a model differ between machines

    return keep_one


def count_colours(picture):
    """Fraction (512,) of the pixels that have each of 512 colours."""
    levels = np.asarray(picture).reshape(-1, 3).astype(int) // 32
    return np.bincount(levels @ (64, 8, 1), minlength=512) / len(levels)


def test_the_viewer_with_corrections(slide, chromium, keep):
    tab = Tab(chromium, slide / "viewer", AT)
    tab.page.get_by_role("button", name="Correct nuclei").click()
    tab.page.get_by_role("radio").nth(1).check()
    for x, y in tab.page.evaluate(NUCLEI, [[450, 400], [560, 480], [700, 560]]):
        tab.page.mouse.click(x, y)
    tab.page.keyboard.down("Shift")
    tab.page.mouse.move(380, 330)
    tab.page.mouse.down()
    tab.page.mouse.move(780, 640, steps=4)
    tab.page.mouse.up()
    tab.page.keyboard.up("Shift")
    tab.wait()
    keep("viewer.jpg", tab.page.screenshot())


def test_the_plots_of_a_report(slide, chromium, keep, tmp_path):
    (one,) = gather_cohort(slide.parent, read_resolved(slide.parent / "sheet.json"))
    write_page([vary(one, number) for number in range(60)], tmp_path / "report.html")
    page = chromium.new_page(viewport={"width": 1400, "height": 860})
    page.goto((tmp_path / "report.html").as_uri())
    page.locator("#plots").evaluate("(heading) => heading.scrollIntoView()")
    keep("report.jpg", page.screenshot())


def test_the_page_in_a_browser(shared_data, html, chromium, keep):
    page = Page(chromium, html)
    page.open(shared_data / "wsi-cmu-small-region/CMU-1-Small-Region.svs")
    page.page.select_option("#organ", "this organ")
    page.find()
    page.page.evaluate("muse.goTo(560, 420, 0.6)")
    page.until("muse.isReady()")
    keep("browser.jpg", page.page.screenshot())


def vary(slide, number):
    """A copy of a slide with random numbers of nuclei."""
    random = np.random.default_rng(number)
    counts = random.multinomial(
        int(slide.n_nuclei * random.lognormal(0, 0.25)), random.dirichlet((3, 6, 4))
    )
    classes = [
        {**each, "n_nuclei": int(n)}
        for each, n in zip(slide.summary["classes"], counts, strict=True)
    ]
    summary = {**slide.summary, "classes": classes, "n_nuclei": int(counts.sum())}
    return replace(
        slide,
        slide_id=f"slide {number + 1}",
        group=("centre A", "centre B")[number % 2],
        summary=summary,
    )
