"""Take the pictures of docs/guide/viewer.md: a finished slide in the viewer, looked at and corrected.

muse demo-slide demo --area-mm2 2 --mpp 0.5 && muse run demo/demo.svs -o results
python docs/images/draw_viewer.py results/demo/viewer --at 3000,2350,0.35 docs/images/viewer.jpg
"""

import argparse
import io
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from browsers import launched_chromium
from viewer_tab import Tab

# The nuclei in view that are nearest to points on the screen, as points on the screen.
NUCLEI = """(points) => {
  const view = muse.view();
  const [width, height] = [view.width / view.scale, view.height / view.scale];
  const centres = muse.chunksIn(view.left, view.top, view.left + width, view.top + height)
    .map(muse.chunk).flatMap(({ n, left, top, x, y }) => Array.from({ length: n }, (_, i) => [left + x[i], top + y[i]]))
    .map(([x, y]) => [(x - view.left) * view.scale, (y - view.top) * view.scale]);
  return points.map(([x, y]) => centres.reduce((best, each) =>
    (Math.hypot(each[0] - x, each[1] - y) < Math.hypot(best[0] - x, best[1] - y) ? each : best)));
}"""


def main() -> None:
    """Open the page, correct a few nuclei, take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("viewer", type=Path, help="folder viewer of a slide's results")
    parser.add_argument("output", type=Path)
    parser.add_argument("--at", required=True, metavar="X,Y,UM", help="middle in QuPath px, um per screen px")
    parser.add_argument("--width", type=int, default=1400)
    args = parser.parse_args()
    with launched_chromium() as browser:
        tab = Tab(browser, args.viewer.resolve(), f"#at={args.at}", args.width)
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
        picture = Image.open(io.BytesIO(tab.page.screenshot())).convert("RGB")
    picture.save(args.output, quality=82, optimize=True)


if __name__ == "__main__":
    main()
