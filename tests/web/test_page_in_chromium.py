"""The built page in Chromium: it finds and saves the nuclei of ``muse run`` without a network."""

import csv
import subprocess

import numpy as np
import pytest
from muse_page import WEB, Page, count_same
from PIL import Image
from qupath_check import check_geojson
from slide_files import write_pyramid

from muse_pipeline.cli.main import main
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.inference.model import BUILT_IN
from muse_pipeline.labels.slide_source import is_from_viewer
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.tissue.mask import TissueMask

# WebAssembly is unpacked when `openGate` is called; `isSurveyed` once a worker has found tissue.
HOLD = """
() => {
  const { arrayBuffer } = Response.prototype;
  Response.prototype.arrayBuffer = async function () {
    const bytes = await arrayBuffer.call(this);
    if (bytes.byteLength > 1e7) await new Promise((resolve) => (window.openGate = resolve));
    return bytes;
  };
  window.Worker = class extends Worker {
    postMessage(call, ...rest) {
      super.postMessage(call, ...rest);
      if (call.name !== "survey") return;
      this.addEventListener("message", ({ data }) => (window.isSurveyed ||= data.id === call.id));
    }
  };
}
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def page(chromium, html):
    page = Page(chromium, html)
    yield page
    page.context.close()
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith(("file:", "blob:", "data:"))] == []


def test_the_units_are_tested_by_node(html):
    done = subprocess.run(["npm", "test"], cwd=WEB, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_nuclei_of_a_slide_are_those_of_muse_run(page, slide, tmp_path):
    path, results = slide
    assert page.open(path) == ""
    page.find()
    own, theirs, found, confirmed = count_same(
        page.save("csv", tmp_path / "a.csv"), results / "nuclei.parquet"
    )
    assert theirs > 500
    assert found >= 0.98 * own and confirmed >= 0.98 * theirs
    assert page.page.inner_text("#counts tr:nth-child(2) td") == f"{own:,}"
    area_mm2 = TissueMask.load(results / "tissue.npz").area_mm2
    assert f"in {area_mm2:.2f} mm² of tissue" in page.page.inner_text("#panel")
    assert check_geojson(page.save("geojson", tmp_path / "a.geojson")).n_by_type == {
        "detection": own
    }
    assert check_geojson(tmp_path / "a.geojson").is_good


def test_a_picture_without_a_pixel_size_is_asked_for_it(page, crop, tmp_path):
    assert page.open(crop) == ""
    assert page.page.is_disabled("#find")
    assert "Choose the pixel size" in page.page.inner_text("#state")
    page.page.select_option("#mpp", "0.25")
    page.page.select_option("#organ", "this organ")
    page.find()
    assert "not measured in this organ" in page.page.inner_text("#panel")
    assert main(["run", str(crop), "--mpp", "0.25", "--output", str(tmp_path / "run")]) == 0
    table = page.save("csv", tmp_path / "a.csv")
    own, theirs, found, confirmed = count_same(table, tmp_path / "run/crop/nuclei.parquet")
    assert own > 20 and found >= own - 1 and confirmed >= theirs - 1
    assert Image.open(page.save("png", tmp_path / "view.png")).size[0] > 1000
    write_pyramid(tmp_path / "crop.ome.tif", read_rgb(crop), mpp=0.25, ome=True)
    assert page.open(tmp_path / "crop.ome.tif") == ""
    page.find()
    counts = page.page.inner_text("#counts tr:nth-child(2) td")
    assert int(counts) == pytest.approx(own, rel=0.05)


def test_the_pixel_size_is_measured_on_a_scale_bar(page, crop):
    page.open(crop)
    page.until("muse.isOpen")
    page.page.select_option("#mpp", "bar")
    assert "Drag a rectangle over the scale bar" in page.page.inner_text("#state")
    px = 400 * page.page.evaluate("1 / muse.view().scale / muse.slide.mpp[0]")
    page.page.once("dialog", lambda dialog: dialog.accept("100"))
    drag(page, 200, 3)
    assert float(page.page.input_value("#mpp")) == pytest.approx(100 / px, rel=0.02)
    page.find()


def drag(page, half_width, half_height):
    """Drag a rectangle around the middle of the image, in screen px."""
    stage = page.page.locator("#stage").bounding_box()
    x, y = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2
    mouse = page.page.mouse
    mouse.move(x - half_width, y - half_height)
    mouse.down()
    mouse.move(x + half_width, y + half_height, steps=4)
    mouse.up()


def test_a_rectangle_and_its_corrections_for_muse_finetune(page, slide, corner, tmp_path):
    path, results = slide
    page.open(path)
    page.until("muse.isOpen")
    page.page.select_option("#area", "box")
    assert "Drag a rectangle" in page.page.inner_text("#state")
    page.page.evaluate("([x, y]) => muse.goTo(...muse.fromQuPath(x + 500, y + 500), 0.5)", corner)
    drag(page, 200, 150)
    box = page.page.evaluate("muse.slide.layers[0].rings[0]")
    page.find()
    with page.save("csv", tmp_path / "a.csv").open() as file:
        xy = np.array([[float(row["x"]), float(row["y"])] for row in csv.DictReader(file)])
    assert len(xy) > 10
    assert (xy >= box[:2]).all() and (xy <= box[4:6]).all()
    page.page.get_by_role("button", name="Correct nuclei").click()
    page.page.keyboard.press("c")
    with page.page.expect_download() as download:
        page.page.click("#download")
    download.value.save_as(tmp_path / "drawn.geojson")
    assert check_geojson(tmp_path / "drawn.geojson").is_good
    assert is_from_viewer(tmp_path / "drawn.geojson", read_info(results / "slide.json"), None)


def test_a_model_that_was_dropped_is_used(page, slide):
    path, _ = slide
    page.page.set_input_files("#file", str(BUILT_IN / "label_free.onnx"))
    page.until("document.getElementById('said').textContent.includes('label_free.onnx')")
    page.open(path)
    page.until("muse.isOpen")
    page.page.select_option("#area", "view")
    page.find()
    assert page.page.locator("#counts tr").count() == 3


def test_nuclei_are_found_before_the_model_is_loaded(page, crop):
    page.page.evaluate(HOLD)
    page.open(crop)
    page.page.select_option("#mpp", "0.25")
    page.page.click("#find")
    page.until("window.isSurveyed && Boolean(window.openGate)")
    page.page.evaluate("openGate()")
    page.until("document.getElementById('counts')")


def test_files_that_cannot_be_read_have_a_sentence(page, tmp_path):
    (tmp_path / "noise.svs").write_bytes(bytes(range(256)) * 4)
    assert "is neither a TIFF nor a picture" in page.open(tmp_path / "noise.svs")
    Image.fromarray(np.full((300, 300, 3), 244, np.uint8)).save(tmp_path / "glass.png")
    assert page.open(tmp_path / "glass.png", 0.5) == ""
    assert "No tissue was found" in page.find()
    page.page.set_input_files("#file", str(tmp_path / "noise.svs"))  # the picture stays open
    page.until("document.getElementById('state').textContent.startsWith('noise.svs: is neither')")
    assert page.page.is_enabled("#find")
    page.page.select_option("#stain", "IHC")
    assert "muse run --stain IHC" in page.page.inner_text("#state")
