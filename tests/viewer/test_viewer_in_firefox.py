"""The viewer in Firefox, opened as a file."""

import base64
import io
import time

import numpy as np
import pytest
from browsers import launched_firefox
from PIL import Image
from uneven_slide import read_slide
from viewer_tab import fragment, is_color


@pytest.mark.slow
def test_firefox_draws_the_image_and_the_nuclei(viewer):
    colors = [each["safe_color"] for each in read_slide(viewer)["classes"]]
    with launched_firefox() as browser:
        pixels = shown(browser, viewer / "index.html", fragment(), colors)
    assert (abs(pixels - (232, 196, 214)) < 12).all(-1).mean() > 0.3


def shown(browser, page, fragment, colors):
    """The pixels of the window's left 1,000 columns, as soon as they show the colours of all
    classes.
    """
    browser.call("WebDriver:Navigate", url=page.as_uri() + fragment)
    for _ in range(60):
        picture = browser.call("WebDriver:TakeScreenshot", full=False)["value"]
        pixels = np.asarray(
            Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
        ).astype(int)
        found = pixels[:, :1000]
        if all(is_color(found, color).sum() > 50 for color in colors):
            return found
        time.sleep(0.5)
    pytest.fail("no nuclei within 30 s")
