"""Small synthetic files, without real data, in the layouts of the open datasets that
``labels.layouts`` reads.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import tifffile
from drawn_labels import disc, draw_nuclei, geojson, grid_xy
from scipy.io import savemat

SIZE = (128, 96)  # width and height of every picture
XY = grid_xy(SIZE)  # centres of six nuclei, in two rows of three
RADIUS_PX = 9
WORDS = (
    "tumor",
    "lymphocyte",
    "stroma",
    "apoptosis",
    "epithelium",
    "plasma_cell",
)  # PUMA's, without "nuclei_"
CHANNELS = (0, 1, 2, 3, 4, 0)  # PanNuke's mask channel of each nucleus
LABELS = {  # classes that config/train/multi_organ.yaml maps the six nuclei to
    "pannuke": [1, 0, 2, -1, 1, 1],
    "lizard": [-1, 1, 0, 0, -1, 2],
    "puma": [1, 0, 2, -1, 1, 0],
    "ocelot": [-1, 1, -1, 1, -1, 1],
    "nuinsseg": [-1] * 6,
}


def draw_mask() -> np.ndarray:
    """(h, w) int32: nucleus i has the number i + 1, and the background 0."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    distance = np.hypot(x - XY[:, 0, None, None], y - XY[:, 1, None, None])
    return np.where(distance.min(0) <= RADIUS_PX, distance.argmin(0) + 1, 0).astype(np.int32)


def write_picture(path: Path) -> None:
    """Write a PNG, JPEG or TIFF of the nuclei, without a pixel size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = draw_nuclei(SIZE, XY, RADIUS_PX)
    if path.suffix == ".tif":
        opaque = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA)
        tifffile.imwrite(path, opaque, photometric="rgb", extrasamples=["unassalpha"])
    else:
        cv2.imwrite(str(path), pixels[..., ::-1])


def draw_pannuke(folder: Path) -> None:
    """Write three folds with a patch of breast, and one of colon without nuclei; pairs of nuclei
    share a number.
    """
    channels, mask = np.zeros((2, SIZE[1], SIZE[0], 6)), draw_mask()
    for index, channel in enumerate(CHANNELS):
        channels[0, ..., channel] += (mask == index + 1) * (10 * (index // 2) + 1)
    channels[..., 5] = (channels[..., :5] == 0).all(-1)
    pixels = np.stack([draw_nuclei(SIZE, XY, RADIUS_PX)] * 2).astype(float)
    pixels[-1] = 230.0
    for fold in ("fold1", "fold2", "fold3"):
        pictures, masks = (
            folder / f"Fold {fold[-1]}" / kind / fold for kind in ("images", "masks")
        )
        pictures.mkdir(parents=True)
        masks.mkdir(parents=True)
        np.save(pictures / "images.npy", pixels)
        np.save(pictures / "types.npy", np.array(["Breast", "Colon"]))
        np.save(masks / "masks.npy", channels)


def draw_lizard(folder: Path) -> None:
    """Write four pictures, which belong to three folds and lie in two folders."""
    rows = {"consep_1": 1, "glas_2": 2, "crag_3": 3, "pannuke_4": 3}
    labels = folder / "Lizard_Labels/Labels"
    labels.mkdir(parents=True)
    # Unsorted ids of the nuclei, which also serve as class numbers.
    order = np.array([4, 1, 6, 2, 5, 3])
    for index, name in enumerate(rows):
        write_picture(folder / f"Lizard_Images{1 + index % 2}/{name}.png")
        write_picture(folder / f"Overlay/{name}.png")
        ids = order[:, None]
        content = {"inst_map": draw_mask(), "id": ids, "class": ids.astype(np.uint8)}
        content |= {"bbox": np.zeros((6, 4)), "centroid": XY[order - 1]}
        savemat(labels / f"{name}.mat", content)
    lines = ["Filename,Source,Split", *(f"{name},{name[:-2]},{n}" for name, n in rows.items())]
    (folder / "Lizard_Labels/info.csv").write_text("\n".join(lines) + "\n")


def draw_puma(folder: Path) -> None:
    """Write two pictures with a nucleus of each class in ``WORDS``."""
    for name in ("training_set_primary_roi_001", "training_set_metastatic_roi_001"):
        write_picture(folder / f"01_training_dataset_tif_ROIs/{name}.tif")
        labels = folder / "01_training_dataset_geojson_nuclei"
        labels.mkdir(exist_ok=True)
        nuclei = zip(XY, WORDS, strict=True)
        outlines = [(disc(*xy, RADIUS_PX), f"nuclei_{word}") for xy, word in nuclei]
        (labels / f"{name}_nuclei.geojson").write_text(geojson(*outlines))


def draw_ocelot(folder: Path) -> None:
    """Write a picture in each split; the one in the test split has no cells."""
    top, pairs = folder / "ocelot2023_v1.0.1", {}
    for number, split in enumerate(("train", "val", "test"), 1):
        write_picture(top / "images" / split / f"cell/{number:03}.jpg")
        labels = top / "annotations" / split / "cell"
        labels.mkdir(parents=True)
        lines = [f"{int(x)},{int(y)},{1 + index % 2}" for index, (x, y) in enumerate(XY)]
        lines = [] if split == "test" else lines
        (labels / f"{number:03}.csv").write_text("\n".join(lines))
        pair = {"slide_name": f"TCGA-AB-000{number}-01Z-00-DX1", "organ": "kidney", "mpp_x": 0.5}
        pairs[f"{number:03}"] = pair | {"cell": {"resized_mpp_x": 0.2}}
    (top / "metadata.json").write_text(json.dumps({"sample_pairs": pairs}))


def draw_nuinsseg(folder: Path) -> None:
    """Write a picture of each of two organs; in the first, one corner is marked as too vague to
    outline.
    """
    for organ in ("human bladder", "mouse lung"):
        name = organ.replace(" ", "_") + "_01"
        write_picture(folder / organ / f"tissue images/{name}.png")
        masks = folder / organ / "label masks modify"
        masks.mkdir()
        tifffile.imwrite(masks / f"{name}.tif", draw_mask().astype(np.uint16))
    vague = np.zeros(SIZE[::-1], np.uint8)
    vague[40:, 80:] = 255  # covers the last nucleus
    path = folder / "human bladder/vague areas/mask binary/human_bladder_01.png"
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), vague)


DRAWERS = {
    "pannuke": draw_pannuke,
    "lizard": draw_lizard,
    "puma": draw_puma,
    "ocelot": draw_ocelot,
    "nuinsseg": draw_nuinsseg,
}


def draw_datasets(folder: Path) -> Path:
    """Write all five datasets, each to the folder that config/train/multi_organ.yaml expects."""
    for name, draw in DRAWERS.items():
        draw(folder / name)
    return folder
