"""Picture of a synthetic slide with a red third stain, and its DAB with two and three stains, for
docs/guide/ihc.md.

    .venv/bin/python docs/images/draw_third_stain.py -o docs/images/ihc-third-stain.jpg

The tissue is that of the demo slide, with brown lymphocytes; fast red is in the cytoplasm of the
others.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from muse_pipeline.demo.field import Window
from muse_pipeline.demo.tissue import CLASSES, plan_tissue
from muse_pipeline.demo.write import paint_block
from muse_pipeline.inference.stains import LN_10, split_stains
from muse_pipeline.report.overlays import add_caption
from muse_pipeline.tissue.stain import find_third_stain

RED = np.array([0.214, 0.851, 0.478])  # Ruifrok's fast red
AMOUNT, MPP, SIZE, SHOWN = (
    1.4,
    0.5,
    (480, 480),
    1.0,
)  # of haematoxylin that is blurred; optical density shown as black
SCALE = 400 / 480


def main() -> None:
    """Generate the slide, add red, and put three pictures side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    tissue = plan_tissue(1, seed=0)
    centre = tissue.layout.islands[0].centre_um - np.multiply(SIZE, MPP) / 2
    pixels = paint_block(tissue, Window(*centre, MPP, SIZE), marked=CLASSES.index("Lymphocyte"))
    pixels = add_red(pixels)
    third = find_third_stain(pixels.reshape(-1, 3))
    pictures = {
        "Haematoxylin, DAB and a red": pixels,
        "DAB, two stains": show(split_stains(pixels)[..., 1]),
        "DAB, three stains": show(split_stains(pixels, third)[..., 1]),
    }
    Image.fromarray(np.hstack([draw(*each) for each in pictures.items()])).save(
        args.output, quality=88
    )


def add_red(pixels: np.ndarray) -> np.ndarray:
    """The pixels, with red added around crowded blue nuclei."""
    blue, brown = np.moveaxis(split_stains(pixels), -1, 0)
    blue = np.where(brown < 0.3, blue, 0)
    crowded = cv2.GaussianBlur(blue, (0, 0), 12) > 0.16
    amount = (
        AMOUNT
        * cv2.GaussianBlur(blue, (0, 0), 3)
        * cv2.GaussianBlur(crowded.astype(np.float32), (0, 0), 2)
    )
    light = (pixels + 1.0) * np.exp(-amount[..., None] * RED / np.linalg.norm(RED))
    return np.clip(np.rint(light - 1), 0, 255).astype(np.uint8)


def show(density: np.ndarray) -> np.ndarray:
    """Picture (h, w, 3) uint8 of a density of DAB, white at 0 and black at ``SHOWN`` (base 10)."""
    grey = np.clip(255 * (1 - density / LN_10 / SHOWN), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1)


def draw(caption: str, pixels: np.ndarray) -> np.ndarray:
    """The picture at the size for the page, with its caption and a white edge."""
    size = tuple(round(side * SCALE) for side in pixels.shape[1::-1])
    canvas = Image.fromarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    add_caption(canvas, caption)
    return np.pad(np.asarray(canvas), ((0, 0), (0, 6), (0, 0)), constant_values=255)


if __name__ == "__main__":
    main()
