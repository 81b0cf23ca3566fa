"""The viewer and the comparison of two results in Firefox, opened from the disk."""

import base64
import io
import shutil
import time

import numpy as np
import pytest
from browsers import launched_firefox
from PIL import Image
from uneven_slide import read_slide
from viewer_tab import fragment, is_color

from muse_pipeline.viewer.serve import write_comparison


@pytest.mark.slow
def test_firefox_draws_the_image_and_the_nuclei(viewer, finished, tmp_path):
    colors = [each["safe_color"] for each in read_slide(viewer)["classes"]]
    comparison = write_comparison(*(shutil.copytree(finished, tmp_path / run / "one") for run in ("a", "b")))
    with launched_firefox() as browser:
        (pixels,) = shown(browser, viewer / "index.html", fragment(), [slice(0, 1000)], colors)
        shown(browser, comparison, "", [slice(0, 690), slice(710, 1400)], colors)
    assert (abs(pixels - (232, 196, 214)) < 12).all(-1).mean() > 0.3


def shown(browser, page, fragment, parts, colors):
    """The parts (columns) of the window as pixels, once each has the colours of all classes."""
    browser.call("WebDriver:Navigate", url=page.as_uri() + fragment)
    for _ in range(60):
        picture = browser.call("WebDriver:TakeScreenshot", full=False)["value"]
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")).astype(int)
        found = [pixels[:, columns] for columns in parts]
        if all(is_color(part, color).sum() > 50 for part in found for color in colors):
            return found
        time.sleep(0.5)
    pytest.fail("no nuclei within 30 s")
