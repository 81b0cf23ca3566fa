"""A page of the viewer in Chromium, with the queries and actions that tests need."""

import io

import numpy as np
from PIL import Image

READY = "typeof muse === 'object' && muse.isReady && muse.isReady()"
ON_SCREEN = """([x, y]) => {
  const [um, view] = [muse.fromQuPath(x, y), muse.view()];
  return [(um[0] - view.left) * view.scale, (um[1] - view.top) * view.scale];
}"""
# JavaScript that computes the lowest contrast of all texts that a selector matches.
LOWEST_CONTRAST = """(selector) => {
  const luminance = (color) => {
    const parts = color.match(/[\\d.]+/g).slice(0, 3).map((each) => each / 255);
    const [r, g, b] = parts.map((each) =>
      (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const color = getComputedStyle(each).backgroundColor;
      if (!/^rgba\\(.*, 0\\)$/.test(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [...document.querySelectorAll(selector)].filter((node) =>
    [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())
    && !node.disabled);
  return Math.min(...texts.map((node) => {
    const { color, fill } = getComputedStyle(node);
    const [a, b] = [luminance(node.ownerSVGElement ? fill : color), luminance(ground(node))]
      .sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  }));
}"""
LEVEL0_UM = 0.25  # um per screen px at which a screen px shows one level-0 px
CENTRE = (1536, 1024)  # the centre of the slide, in QuPath px


class Window:
    """A page in a browser, with a record of its requests and errors; ``script`` runs before it."""

    wrong = ("pageerror",)

    def __init__(self, browser, url, width=1400, script=""):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, accept_downloads=True
        )
        self.context.add_init_script(script)
        self.page, self.requests, self.errors = self.context.new_page(), [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        for event in self.wrong:
            self.page.on(event, lambda what: self.errors.append(str(what)))
        self.page.on(
            "console", lambda line: self.errors.append(line.text) if line.type == "error" else None
        )
        self.page.goto(url)

    def until(self, expression):
        """Wait until an expression is true, by polling: the page's security policy forbids
        Playwright's own wait.
        """
        for _ in range(6000):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        raise TimeoutError(f"not within five minutes: {expression}")


class Tab(Window):
    """A page of the viewer."""

    wrong = ("pageerror", "requestfailed", "dialog")

    def __init__(self, browser, viewer, fragment="", width=1400):
        super().__init__(browser, (viewer / "index.html").as_uri() + fragment, width)
        self.wait()

    def wait(self):
        """Wait until the whole view is drawn."""
        self.until(READY)

    def pixels(self):
        """(h, w, 3) int: a screenshot of the stage."""
        self.wait()
        picture = Image.open(io.BytesIO(self.page.locator("#stage").screenshot()))
        return np.asarray(picture.convert("RGB")).astype(int)

    def set(self, selector, value):
        """Give a control a value, with the events that a user would trigger."""
        change = """(node, value) => {
          node.value = value;
          for (const event of ["input", "change"]) node.dispatchEvent(new Event(event));
        }"""
        self.page.eval_on_selector(selector, change, value)

    def nuclei_alone(self):
        """Hide the image and everything that lies over it, except the nuclei."""
        self.set("#image-opacity", 0)
        self.page.add_style_tag(content="#status-bar, #image .navigator { opacity: 0 !important }")
        return self


def fragment(xy=CENTRE, um_per_px=LEVEL0_UM):
    return f"#at={xy[0]},{xy[1]},{um_per_px}"


def is_color(pixels, color, tolerance=40):
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return (abs(pixels - wanted) < tolerance).all(-1)
