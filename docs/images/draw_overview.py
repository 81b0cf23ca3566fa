"""Compose the README's picture from a finished demo: tissue, density, and one field with its
outlines.

make demo && .venv/bin/python docs/images/draw_overview.py demo/results/demo
docs/images/overview.png
"""

import argparse
from pathlib import Path

from PIL import Image

HEIGHT, GAP = 520, 12


def main() -> None:
    """Put three pictures side by side at one height."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slide", type=Path, help="folder of a slide's results")
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    pictures = [
        Image.open(args.slide / name).convert("RGB")
        for name in ("tissue.png", "density.png", "overlays/1.png")
    ]
    scaled = [
        p.resize((round(p.width * HEIGHT / p.height), HEIGHT), Image.Resampling.LANCZOS)
        for p in pictures
    ]
    page = Image.new(
        "RGB", (sum(p.width for p in scaled) + GAP * (len(scaled) - 1), HEIGHT), "white"
    )
    x = 0
    for picture in scaled:
        page.paste(picture, (x, 0))
        x += picture.width + GAP
    page.quantize(200).save(args.output, optimize=True)


if __name__ == "__main__":
    main()
