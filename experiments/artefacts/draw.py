"""Synthesise folds, bubbles and ink in pictures of tissue, to train the built-in model `artefacts`
on.

    python -m experiments.artefacts.draw --data DATA -o runs/artefact_pictures  # then \
        experiments/artefacts/artefacts.yaml

Crops of a patient, or of artefact-tiles, are laid side by side in pictures with sides of 1 mm at 1
um/px. Most of them get folds (in a band, the densities of two or three layers of tissue are added
up, the upper layers being out of focus), air bubbles (a dark rim around hazy tissue out of focus)
and ink (strokes and specks of a felt pen). Patches of other tissue in a single layer are added,
which are not artefacts. Areas are written as GeoJSON, as if drawn in QuPath. The tissue is that of
BRCA-M2C without the patients of `run.py`, TNBC, colon of Orion, skin of CMU-1-Small-Region without
keratin, and the four tiles of artefact-tiles that are named for their nuclei. Takes ten minutes on
one core.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import shapely
import tifffile

from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.qupath.regions import ClassArea, write_class_areas
from muse_pipeline.slides.inspect import inspect_slide

CLASSES = ("Clean", "Fold", "Bubble", "Ink")
FOLD, BUBBLE, INK = 1, 2, 3
MPP, SIDE_PX, CELL_PX = 1.0, 1000, 4
N_PICTURES = 300
CLEAN_SHARE = 0.2  # share of the pictures without artefacts
INKS = {  # share of red, green and blue light that a stroke transmits
    "black": (0.1, 0.1, 0.12),
    "blue": (0.12, 0.3, 0.75),
    "green": (0.12, 0.55, 0.4),
    "red": (0.85, 0.12, 0.15),
}
# folder, pattern of pictures, um per pixel, number of first letters of a name that identify the
# patient
SOURCES = (
    ("brca-m2c", "*.png", 0.5, 12),
    ("tnbc-nuclei/images", "*.png", 0.25, 2),
    ("orion-crc-tiles", "*.tif", 0.5, 3),
    ("artefact-tiles", "*nuclei-score*.png", 0.5, 0),  # other organs, brain and connective tissue
)
SKIN = (
    "wsi-cmu-small-region",
    "CMU-1-Small-Region.svs",
    0.5,
    480,
)  # folder, slide, um per pixel, side of crops in px
SKIN_AT = (
    (560, 2475),
    (1050, 2250),
    (700, 1750),
    (712, 1075),
    (1325, 2475),
)  # (x, y) of crops without keratin
EVALUATED = 3  # the second of every three crops of BRCA-M2C is for evaluation


def main() -> None:
    """Write pictures, areas and the sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the folders of SOURCES and SKIN"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    (args.output / "areas").mkdir(parents=True, exist_ok=True)
    rows = ["slide_id\tpath\tpatient"]
    for number, (patient, picture) in enumerate(tissue_pictures(args.data, N_PICTURES)):
        rng = np.random.default_rng(number)
        pixels, label = (
            draw_all(picture, rng) if rng.random() > CLEAN_SHARE else (picture, blank(picture))
        )
        name = f"{number:03}"
        write_slide(args.output / f"{name}.tif", pixels, MPP)
        info = inspect_slide(args.output / f"{name}.tif", name, MPP)
        write_class_areas(
            args.output / f"areas/{name}.geojson", list(outline(label)), info, "drawn"
        )
        rows.append(f"{name}\t{name}.tif\t{patient}")
    (args.output / "slides.tsv").write_text("\n".join(rows) + "\n")


def evaluation_crops(data: Path) -> list[Path]:
    """Crops of BRCA-M2C for evaluation; no crops of their patients are trained on."""
    crops = sorted((data / "brca-m2c").rglob("*.png"))
    return [path for n, path in enumerate(crops) if n % EVALUATED == 1][:16]


def tissue_pictures(data: Path, n_pictures: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield patients and pictures (h, w, 3) uint8 at ``MPP``, equally many per folder, with
    patients taking turns.
    """
    crops = read_crops(data)
    folders = sorted(crops)
    for number in range(n_pictures):
        nth, folder = number // len(folders), folders[number % len(folders)]
        patients = sorted(crops[folder])
        patient = patients[nth % len(patients)]
        picture = lay_out(crops[folder][patient], np.random.default_rng(1000 + number))
        yield f"{folder}-{patient}".replace("/", "-"), picture


def read_crops(data: Path) -> dict[str, dict[str, list[np.ndarray]]]:
    """Crops (h, w, 3) uint8 at ``MPP`` by folder and patient, without the patients for
    evaluation.
    """
    held = {path.name[:12] for path in evaluation_crops(data)}
    crops = defaultdict(lambda: defaultdict(list))
    for folder, pattern, mpp, n_letters in SOURCES:
        if not any((data / folder).rglob(pattern)):
            raise SystemExit(
                f"{data / folder}: no pictures; --data must be a folder with all of SOURCES"
            )
        for path in sorted((data / folder).rglob(pattern)):
            patient = path.name[:n_letters]
            if patient not in held:
                crops[folder][patient].append(resize(read_rgb(path), mpp))
    folder, name, mpp, side = SKIN
    skin = tifffile.imread(data / folder / name, key=0)
    crops[folder][""] = [resize(skin[y : y + side, x : x + side], mpp) for x, y in SKIN_AT]
    return crops


def resize(pixels: np.ndarray, mpp: float) -> np.ndarray:
    """Resample pixels from ``mpp`` to ``MPP``."""
    return cv2.resize(pixels, None, fx=mpp / MPP, fy=mpp / MPP, interpolation=cv2.INTER_AREA)


def lay_out(crops: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A square of ``SIDE_PX`` of random crops, cut to the same size, turned and mirrored, with
    some glass.
    """
    side = min(min(crop.shape[:2]) for crop in crops)
    n = -(-SIDE_PX // side)
    chosen = [crops[i][:side, :side] for i in rng.integers(0, len(crops), n * n)]
    turned = [np.rot90(crop, rng.integers(4))[:: rng.choice([-1, 1])] for crop in chosen]
    picture = np.concatenate([np.concatenate(turned[n * row : n * row + n], 1) for row in range(n)])
    picture = picture[:SIDE_PX, :SIDE_PX].astype(np.float32)
    for _ in range(rng.integers(0, 4)):
        glass = soft(
            blob(picture.shape[:2], rng, rng.uniform(30, 200) / MPP), rng.uniform(0.5, 3) / MPP
        )
        picture = picture * (1 - glass) + rng.uniform(238, 250) * glass
    return to_bytes(density(picture) * np.exp(rng.normal(0, 0.25)))


def draw_all(picture: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The picture with random artefacts, and the (h, w) class index of each pixel."""
    pixels, label = picture, blank(picture)
    for _ in range(rng.integers(0, 4)):
        pixels = draw_other_tissue(pixels, rng, MPP)
    for draw, kind, end in (
        (draw_fold, FOLD, 4),
        (draw_bubble, BUBBLE, 3),
        (draw_stroke, INK, 3),
        (draw_specks, INK, 2),
    ):
        for _ in range(rng.integers(0, end)):
            pixels, area = draw(pixels, rng, MPP)
            label[area] = kind
    if rng.random() < 0.3:  # slightly out of focus, which counts as clean
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.5, 1.5) / MPP)
    return pixels, label


def draw_fold(
    pixels: np.ndarray, rng: np.random.Generator, mpp: float
) -> tuple[np.ndarray, np.ndarray]:
    """Add a band in which tissue lies in two layers, or in three along its middle; also return
    its area (h, w) bool.
    """
    distance, along = band(pixels.shape[:2], rng, mpp)
    half_um = rng.uniform(8, 70) * (
        0.6 + 0.4 * np.sin(along * rng.uniform(1, 3) + rng.uniform(0, 6))
    )
    inside = distance * mpp < half_um
    od = density(pixels)
    layer = cv2.GaussianBlur(
        other_tissue(od, rng), (0, 0), rng.uniform(0.3, 2.5) / mpp
    ) * rng.uniform(0.75, 1.15)
    third = cv2.GaussianBlur(other_tissue(od, rng), (0, 0), rng.uniform(0.5, 3) / mpp) * (
        rng.random() < 0.4
    )
    edge = soft(inside, rng.uniform(0.4, 2) / mpp)
    middle = soft(distance * mpp < half_um * rng.uniform(0.2, 0.6), rng.uniform(0.4, 2) / mpp)
    folded = od + edge * layer + middle * third
    bright = soft(np.abs(distance * mpp - half_um) < rng.uniform(1, 3), 0.8 / mpp) * rng.choice(
        [0, 0.3, 0.6]
    )
    tissue, upper = (cv2.GaussianBlur(each.mean(-1), (0, 0), 5 / mpp) > 0.1 for each in (od, layer))
    return to_bytes(folded * (1 - bright)), inside & tissue & upper


def draw_bubble(
    pixels: np.ndarray, rng: np.random.Generator, mpp: float
) -> tuple[np.ndarray, np.ndarray]:
    """Add a patch with a dark rim in which tissue is hazy and out of focus; also return its
    area (h, w) bool.
    """
    inside = blob(pixels.shape[:2], rng, np.exp(rng.uniform(np.log(40), np.log(350))) / mpp)
    into = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5) * mpp
    width = rng.uniform(3, 15)
    rim = np.exp(-((into - width) ** 2) / (2 * (width / 2.5) ** 2)) * (into > 0)
    bright = (
        np.exp(-((into - 2.5 * width) ** 2) / (2 * (width / 3) ** 2))
        * (into > 0)
        * rng.uniform(0, 0.5)
    )
    od = density(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(1.0, 4) / mpp))
    hazy = od * rng.uniform(0.45, 0.9) + rng.uniform(0.05, 0.3) * np.array([1, 1, 1], np.float32)
    hazy = hazy * (1 - bright[..., None]) + rim[..., None] * rng.uniform(0.3, 1.5)
    edge = soft(inside, 0.7 / mpp)
    return to_bytes(density(pixels) * (1 - edge) + hazy * edge), inside


def draw_stroke(
    pixels: np.ndarray, rng: np.random.Generator, mpp: float, ink: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Add a stroke of a felt pen over the tissue; also return its area (h, w) bool."""
    distance, _ = band(pixels.shape[:2], rng, mpp)
    inside = distance * mpp < rng.uniform(40, 180)
    return apply_ink(
        pixels, inside, ink, rng, mpp, rng.uniform(2, 25), rng.uniform(0.5, 1.3)
    ), inside


def draw_specks(
    pixels: np.ndarray, rng: np.random.Generator, mpp: float, ink: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Add specks of ink, 15 to 80 um wide; also return their area (h, w) bool."""
    inside = np.zeros(pixels.shape[:2], bool)
    for _ in range(rng.integers(2, 8)):
        inside |= blob(pixels.shape[:2], rng, rng.uniform(7, 40) / mpp)
    return apply_ink(
        pixels, inside, ink, rng, mpp, rng.uniform(0.5, 4), rng.uniform(0.9, 1.8)
    ), inside


def draw_other_tissue(pixels: np.ndarray, rng: np.random.Generator, mpp: float) -> np.ndarray:
    """Add a patch of other tissue in a single layer, which is not a fold; half of the patches
    are shrunk.
    """
    od = density(pixels)
    other = other_tissue(od, rng)
    if rng.random() < 0.5:
        small = cv2.resize(other, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        rows, columns = (
            side - part for side, part in zip(od.shape[:2], small.shape[:2], strict=True)
        )
        other = cv2.copyMakeBorder(small, 0, rows, 0, columns, cv2.BORDER_REFLECT)
    edge = soft(blob(pixels.shape[:2], rng, rng.uniform(20, 150) / mpp), rng.uniform(2, 12) / mpp)
    return to_bytes(od * (1 - edge) + other * edge * rng.uniform(0.8, 1.5))


def apply_ink(
    pixels: np.ndarray,
    inside: np.ndarray,
    ink: str | None,
    rng: np.random.Generator,
    mpp: float,
    edge_um: float,
    strength: float,
) -> np.ndarray:
    """The pixels with ink of uneven density on them; its colour is random if ``ink`` is None."""
    through = np.minimum(
        np.array(INKS[ink or rng.choice(sorted(INKS))]) * np.exp(rng.normal(0, 0.15, 3)), 0.98
    )
    grain = cv2.resize(
        rng.normal(0, 1, (12, 12)).astype(np.float32),
        inside.shape[::-1],
        interpolation=cv2.INTER_CUBIC,
    )
    uneven = np.exp(0.2 * grain)[..., None] * strength
    od, edge = density(pixels), soft(inside, edge_um / mpp)
    inked = od * rng.uniform(0.8, 1.0) - np.log(through).astype(np.float32) * uneven
    return to_bytes(od * (1 - edge) + inked * edge)


def band(
    shape: tuple[int, int], rng: np.random.Generator, mpp: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distance in px from a random bent line of 200 to 1,500 um, and position along it, from -1
    to 1.
    """
    centre, angle = rng.uniform(0, 1, 2) * shape[::-1], rng.uniform(0, np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    along = ((x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)) * mpp
    across = (-(x - centre[0]) * np.sin(angle) + (y - centre[1]) * np.cos(angle)) * mpp
    bend = rng.uniform(0, 80) * np.sin(along / rng.uniform(80, 400) + rng.uniform(0, 6))
    half = rng.uniform(100, 750)
    beyond = np.maximum(np.abs(along) - half, 0)
    return np.hypot(across - bend, beyond) / mpp, along / half


def blob(shape: tuple[int, int], rng: np.random.Generator, radius_px: float) -> np.ndarray:
    """(h, w) bool: an irregular disc at a random position."""
    centre, phases = rng.uniform(0, 1, 2) * shape[::-1], rng.uniform(0, 2 * np.pi, 3)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle = np.arctan2(y - centre[1], x - centre[0])
    waves = sum(
        a * np.sin(k * angle + p)
        for k, a, p in zip((2, 3, 5), (0.2, 0.12, 0.06), phases, strict=True)
    )
    return np.hypot(x - centre[0], y - centre[1]) < radius_px * (1 + waves)


def other_tissue(od: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The densities (h, w, 3), shifted and randomly mirrored: different tissue with the same
    stain.
    """
    moved = np.roll(od, tuple(rng.integers(50, side - 50) for side in od.shape[:2]), (0, 1))
    return np.ascontiguousarray(moved[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])])


def density(pixels: np.ndarray) -> np.ndarray:
    """Optical density (h, w, 3) float32, by the natural logarithm."""
    return -np.log((pixels.astype(np.float32) + 1) / 256)


def to_bytes(od: np.ndarray) -> np.ndarray:
    """The inverse of ``density``."""
    return np.clip(np.rint(256 * np.exp(-od) - 1), 0, 255).astype(np.uint8)


def soft(mask: np.ndarray, sigma_px: float) -> np.ndarray:
    """A mask (h, w, 1) float32 with a soft edge."""
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma_px)[..., None]


def blank(picture: np.ndarray) -> np.ndarray:
    """A label map without artefacts."""
    return np.zeros(picture.shape[:2], np.uint8)


def outline(label: np.ndarray) -> Iterator[ClassArea]:
    """Yield the area of each class in pixels of ``label``, made of cells of ``CELL_PX``."""
    of_cell = label[CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX]
    for index, name in enumerate(CLASSES):
        row, column = np.nonzero(of_cell == index)
        if len(row):
            corners = np.stack([column, row, column + 1, row + 1]) * CELL_PX
            yield ClassArea(name, (0, 0, 0), shapely.union_all(shapely.box(*corners)))


def write_slide(path: Path, pixels: np.ndarray, mpp: float) -> None:
    """Write a tiled TIFF that states its um per pixel."""
    pixels_per_cm = {"resolution": (1e4 / mpp,) * 2, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            pixels, tile=(256, 256), photometric="rgb", compression="deflate", **pixels_per_cm
        )


if __name__ == "__main__":
    main()
