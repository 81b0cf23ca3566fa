"""Small results folders of synthetic tissue, written by the functions that the steps use."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from drawn import ArraySlide
from nuclei_example import write_table
from PIL import Image

from muse_pipeline.cohort.ledgers import STEPS
from muse_pipeline.core.files import write_json
from muse_pipeline.core.types import ARTEFACTS, Frame, SlideInfo
from muse_pipeline.inference.stains import POSITIVE_OD
from muse_pipeline.nuclei.parquet import OptionalColumns
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.store.write import StoreOptions, write_store
from muse_pipeline.tissue.mask import TissueMask

HOSTILE = "<script>alert(1)<\u2215script>\"'&amp;\u202egvs 肿瘤"

CLASSES = {"Lymphocyte": (0, 119, 187), "Epithelial": (204, 51, 17), "Stromal": (0, 153, 136)}
RADIUS_UM = np.array([3.0, 5.0, 4.0])
MODEL = {"name": "compact", "sha256": "0123456789abcdef" * 4}
MPP = 0.5
GLASS, PINK, PURPLE = (250, 250, 250), (232, 196, 214), (96, 72, 140)

CARD = {
    "name": "compact",
    "mpp": MPP,
    "input_px": 640,
    "halo_px": 64,
    "classes": [{"name": name, "color": color} for name, color in CLASSES.items()],
    "threshold": 0.3,
    "licence": "Apache-2.0",
    "training_data": "BRCA-M2C",
    "metrics": {"val detection F1": 0.85},
    "limits": "not for diagnosis",
    "organs": ["breast"],
}


def draw_tissue(
    size_px=(1536, 1024), n_nuclei=900, seed=0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, xy (px) and label of an island of tissue at ``MPP`` with dark discs, denser to the
    right.
    """
    random = np.random.default_rng(seed)
    pixels = np.full((size_px[1], size_px[0], 3), GLASS, np.uint8)
    centre, axes = np.array(size_px) // 2, (np.array(size_px) * 0.45).astype(int)
    cv2.ellipse(pixels, centre.tolist(), axes.tolist(), 0, 0, 360, PINK, -1)
    xy = random.uniform((0, 0), size_px, (n_nuclei * 4, 2)).round()
    inside = (((xy - centre) / axes) ** 2).sum(1) < 0.9
    crowded = random.random(len(xy)) < 0.15 + 0.85 * (xy[:, 0] / size_px[0]) ** 2
    xy = xy[inside & crowded][:n_nuclei]
    label = np.where(
        random.random(len(xy)) < xy[:, 1] / size_px[1], 1, random.choice([0, 2], len(xy))
    ).astype(np.int32)
    for location, i in zip(xy, label, strict=True):
        middle = np.round((location - 0.5) * 16).astype(int).tolist()
        cv2.circle(pixels, middle, round(RADIUS_UM[i] / MPP * 16), PURPLE, -1, cv2.LINE_AA, shift=4)
    return pixels, xy, label


def write_slide(
    results: Path,
    slide_id: str,
    drawing=None,
    *,
    enlarged=2,
    mpp=None,
    warnings=(),
    colour_warnings=(),
    corrupt=(),
    annotations=(),
    **of_nuclei,
) -> Path:
    """Write the results of a slide whose level 0 is ``drawing`` enlarged ``enlarged`` times, with
    the (x, y) ``mpp``; ``annotations`` are those of its ROI, and ``of_nuclei`` is for
    ``write_nuclei``.
    """
    pixels, xy, label = drawing if drawing is not None else draw_tissue()
    slide = ArraySlide([pixels.repeat(enlarged, 0).repeat(enlarged, 1)], corrupt)
    info = replace(
        slide.info(mpp or (MPP / enlarged,) * 2, slide_id),
        path=slide_path(slide_id),
        fingerprint=hashlib.sha256(slide_id.encode()).hexdigest(),
        warnings=tuple(warnings),
    )
    folder = results / slide_id
    write_json(folder / "slide.json", info.to_dict())
    colour = {"macenko": None, "n_pixels": 0, "mpp": 2.0, "warnings": list(colour_warnings)}
    write_json(folder / "colour.json", colour)
    tissue = replace(find_pink(pixels), annotations=tuple(annotations))
    tissue.save(folder / "tissue.npz")
    Image.fromarray(pixels).save(folder / "tissue.png")
    write_store(slide, info, tissue, folder / "image-500nm.zarr", StoreOptions(MPP, 0.5))
    write_nuclei(folder, info, xy * enlarged, label, **of_nuclei)
    with gzip.open(folder / "nuclei.geojson.gz", "wb") as file:
        file.write(b'{"type": "FeatureCollection", "features": []}')
    for step in STEPS:
        write_ledger(folder, step)
    return folder


def slide_path(slide_id: str) -> str:
    return f"/slides/{slide_id}.svs"


def find_pink(pixels: np.ndarray) -> TissueMask:
    height, width = (-(-n // 16) for n in pixels.shape[:2])
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    mask = small[..., 1] < 235
    return TissueMask(mask, np.array([8.0, 8.0]), None, float(mask.sum() * 64e-6))


def write_nuclei(
    folder: Path, info: SlideInfo, xy, label, *, positive=None, doubt="", class_doubt="", **facts
) -> None:
    """Write round nuclei; ``positive`` (N,) is True for positive ones.

    ``doubt`` and ``class_doubt`` are the warnings about the size of all nuclei and of one class,
    ``facts`` further entries of the provenance. With ``regions`` in them, all nuclei lie in the
    first region, and with ``quality`` in folds.
    """
    dab_od = None if positive is None else np.where(positive, 0.7, 0.05)[:, None]
    rays, prob = RADIUS_UM[label][:, None].repeat(32, 1), np.eye(len(CLASSES))[label]
    nuclei = Nuclei(xy, Frame.LEVEL0, rays=rays, label=label, prob=prob, dab_od=dab_od)
    facts |= {"positive_od": None if positive is None else POSITIVE_OD}
    sizes = {"median_area_um2": 30.5, "mean_class_probability": 0.91, "doubt": doubt}
    facts |= {"nuclear_size": sizes, "class_sizes": {"by_class": {}, "doubt": class_doubt}}
    columns, optional = {}, {"positive_od": facts["positive_od"]}
    if regions := facts.get("regions"):
        names = [region["name"] for region in regions.get("classes", ())]
        columns["region"] = np.full(len(label), 0 if names else -1, np.int32)
        columns["region_prob"] = np.ones(len(label))
        columns["border_distance_um"] = np.full(len(label), -400.0)
        optional["regions"] = names
    if "quality" in facts:
        columns["quality"] = np.full(len(label), ARTEFACTS.index("fold"), np.int32)
        optional["artefacts"] = ARTEFACTS
    optional = OptionalColumns(**optional)
    write_finished(folder, info, nuclei, columns=columns, optional=optional, **facts)


def write_finished(folder: Path, info: SlideInfo, nuclei: Nuclei, **more) -> None:
    """Write the table of the nuclei of a slide; ``more`` is for ``nuclei_example.write_table``."""
    known = {
        "slide_id": info.slide_id,
        "fingerprint": info.fingerprint,
        "slide_mpp": list(info.mpp),
        "mpp_source": info.mpp_source,
        "reader": info.reader,
        "model": MODEL,
        "card": CARD,
        "n_windows": 6,
    }
    write_table(folder / "nuclei.parquet", nuclei, list(CLASSES), info.mpp, **known | more)


def write_ledger(folder: Path, step: str, status="ok", reason="", file_name=None) -> None:
    entry = {"step": step, "status": status, "reason": reason, "seconds": 1.5}
    write_json(folder / f"ledger/{file_name or step}.json", entry | {"peak_memory_mib": 210})


def row(slide_id: str, **changes) -> dict:
    """A slide's row in the resolved sheet."""
    return {"slide_id": slide_id, "path": slide_path(slide_id), "shards": 1, **changes}
