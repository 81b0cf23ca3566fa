"""The viewer in Firefox, opened from the disk."""

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
        browser.call("WebDriver:Navigate", url=(viewer / "index.html").as_uri() + fragment())
        for _ in range(60):
            picture = browser.call("WebDriver:TakeScreenshot", full=False)["value"]
            pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")).astype(int)[:, :1000]
            if all(is_color(pixels, color).sum() > 50 for color in colors):
                break
            time.sleep(0.5)
        else:
            pytest.fail("no nuclei within 30 s")
    assert (abs(pixels - (232, 196, 214)) < 12).all(-1).mean() > 0.3
