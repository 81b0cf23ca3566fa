"""Compose sixteen fields with the nuclei that a model finds in them, for
docs/results/built-in-models.md.

.venv/bin/python docs/images/draw_tissues.py --data DATA -o docs/images/tissues.jpg [--model
compact]

DATA is a folder with tnbc-nuclei/, wsi-cmu-small-region/, wsi-openslide-crops/, orion-crc-tiles/,
camelyon16-patches/, oral-scc/, oesophagus-tcga-unlabelled/, osteosarcoma-ut/ and prepared/, which
`python -m experiments.areas.prepare DATA` writes. Stains are fitted on each file as a whole.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.report.overlays import add_caption, draw_outlines
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.tissue.stain import fit_macenko

COLUMNS, SIDE_UM, SIDE_PX = 4, 56, 320
ORION_MPP = 0.5  # not stated; at 0.5 its lymphocytes are as large as those of other sets
SKIN, CARCINOMA = (
    "wsi-cmu-small-region/CMU-1-Small-Region.svs",
    "wsi-openslide-crops/OS-1-detail.ome.tif",
)
FIELDS = (  # caption, file, um per pixel, upper left corner in um; a slide states its um per pixel
    ("Breast carcinoma 1", "tnbc-nuclei/images/01_2.png", 0.25, (40, 40)),
    ("Breast carcinoma 2", "tnbc-nuclei/images/02_3.png", 0.25, (40, 10)),
    ("Breast carcinoma 4", "tnbc-nuclei/images/04_4.png", 0.25, (40, 40)),
    ("Carcinoma", CARCINOMA, None, (100, 100)),
    ("Skin, epidermis", SKIN, None, (575, 940)),
    ("Skin, dermis", SKIN, None, (450, 1180)),
    ("Skin, keratin", SKIN, None, (640, 560)),
    ("Lymph node", "camelyon16-patches/normal/tumor_004_38611_109350.png", 0.25, (4, 4)),
    ("Metastasis", "camelyon16-patches/tumor/tumor_001_69916_134313.png", 0.25, (4, 4)),
    ("Colon carcinoma", "orion-crc-tiles/images/C03_14707_topic0.tif", ORION_MPP, (30, 40)),
    ("Colon, muscle", "orion-crc-tiles/images/C01_15907_topic4.tif", ORION_MPP, (30, 30)),
    ("Colon, crypts", "orion-crc-tiles/images/C04_11707_topic1.tif", ORION_MPP, (30, 30)),
    ("Colon, biopsy", "prepared/ebhi/images/normal_gt2012915-1-400-001.png", 1.2, (112, 122)),
    ("Mouth", "oral-scc/unlabelled/oscc_400x_11.jpg", 0.27, (54, 170)),
    (
        "Oesophagus, glands",
        "oesophagus-tcga-unlabelled/images/TCGA-V5-A7RE_1_11.jpg",
        0.2485,
        (20, 60),
    ),
    (
        "Osteosarcoma",
        "osteosarcoma-ut/images/viable_tumor_Case-4-C21-25306-21689.jpg",
        0.75,
        (100, 100),
    ),
)


def main() -> None:
    """Find the nuclei of every field and put the pictures together."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--model", default="compact")
    args = parser.parse_args()
    predictor = Predictor(find_model(args.model))
    pictures = [
        draw_field(predictor, args.data / file, mpp, corner_um, caption)
        for caption, file, mpp, corner_um in FIELDS
    ]
    rows = [np.hstack(pictures[i : i + COLUMNS]) for i in range(0, len(pictures), COLUMNS)]
    Image.fromarray(np.vstack(rows)).save(args.output, quality=88)


def draw_field(
    predictor: Predictor,
    path: Path,
    mpp: float | None,
    corner_um: tuple[float, float],
    caption: str,
) -> np.ndarray:
    """Field (SIDE_PX, SIDE_PX, 3) uint8 with outlines, at ``corner_um`` of a picture or slide."""
    pixels, mpp = read_picture(path, mpp)
    nuclei = detect_picture(predictor, pixels, mpp, fit_macenko(pixels.reshape(-1, 3)))
    left, top = (round(each / mpp) for each in corner_um)
    side = round(SIDE_UM / mpp)
    field = cv2.resize(
        pixels[top : top + side, left : left + side],
        (SIDE_PX, SIDE_PX),
        interpolation=cv2.INTER_CUBIC,
    )
    rings = (rays_to_rings(nuclei.xy, nuclei.rays, (mpp, mpp)) - (left, top)) * (SIDE_PX / side)
    draw_outlines(field, list(rings), nuclei.label, predictor.card.classes)
    canvas = Image.fromarray(field)
    add_caption(canvas, caption)
    return np.asarray(canvas)


def read_picture(path: Path, mpp: float | None) -> tuple[np.ndarray, float]:
    """Pixels (h, w, 3) uint8 of a picture, or of a whole slide if ``mpp`` is None; and um per
    pixel.
    """
    if mpp is not None:
        return read_rgb(path), mpp
    info = inspect_slide(path, path.stem)
    with open_slide(path, info.reader) as slide:
        return slide.read_region((0, 0), 0, info.size_px), float(np.mean(info.mpp))


if __name__ == "__main__":
    main()
