"""Small results folders of synthetic tissue, written by the functions that the steps use."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from drawn import ArraySlide
from PIL import Image

from muse_pipeline.cohort.ledgers import STEPS
from muse_pipeline.core.files import write_json
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.types import ARTEFACTS, Frame, SlideInfo
from muse_pipeline.inference.stains import POSITIVE_OD
from muse_pipeline.nuclei.parquet import NucleiWriter, OptionalColumns
from muse_pipeline.nuclei.rays import rays_to_rings, rings_to_polygons
from muse_pipeline.nuclei.shape import measure_shapes
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
    full_windows=(),
    corrupt=(),
    appearance=None,
    model=MODEL,
    annotations=(),
    doubt="",
    class_doubt="",
    positive=None,
    facts=None,
) -> Path:
    """Write the results of a slide whose level 0 is ``drawing`` enlarged ``enlarged`` times, with
    the (x, y) ``mpp``.

    ``annotations`` are those of its ROI, ``doubt`` is the warning about the size of its nuclei,
    ``class_doubt`` the warning about the nuclei of one class, ``positive`` (N,) is True for
    positive nuclei, and ``facts`` are further entries of the provenance. With ``regions`` in them,
    all nuclei lie in the first region.
    """
    pixels, xy, label = drawing if drawing is not None else draw_tissue()
    level0 = pixels.repeat(enlarged, 0).repeat(enlarged, 1)
    slide = ArraySlide([level0], corrupt)
    known = slide.info(mpp=mpp or (MPP / enlarged,) * 2, slide_id=slide_id).to_dict()
    content = hashlib.sha256(slide_id.encode()).hexdigest()
    info = SlideInfo.from_dict(
        {**known, "path": slide_path(slide_id), "fingerprint": content, "warnings": warnings}
    )
    folder = results / slide_id
    write_json(folder / "slide.json", info.to_dict())
    write_json(
        folder / "colour.json",
        {"macenko": None, "n_pixels": 0, "mpp": 2.0, "warnings": list(colour_warnings)},
    )
    tissue = replace(find_pink(pixels), annotations=tuple(annotations))
    tissue.save(folder / "tissue.npz")
    Image.fromarray(pixels).save(folder / "tissue.png")
    write_store(slide, info, tissue, folder / "image-500nm.zarr", StoreOptions(MPP, 0.5))
    write_nuclei(
        folder,
        info,
        xy * enlarged,
        label,
        full_windows,
        appearance,
        model,
        doubt,
        class_doubt,
        positive,
        facts,
    )
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
    folder: Path,
    info: SlideInfo,
    xy_level0,
    label,
    full_windows=(),
    appearance=None,
    model=MODEL,
    doubt="",
    class_doubt="",
    positive=None,
    facts=None,
) -> None:
    nuclei = Nuclei(
        xy_level0,
        Frame.LEVEL0,
        rays=RADIUS_UM[label][:, None].repeat(32, 1),
        label=label,
        prob=np.eye(len(CLASSES))[label],
        dab_od=None if positive is None else np.where(positive, 0.7, 0.05)[:, None],
    )
    rings = rays_to_rings(nuclei.xy, nuclei.rays, info.mpp)
    positive_od = None if positive is None else POSITIVE_OD
    made = provenance(
        info,
        full_windows=list(full_windows),
        model=model,
        appearance=appearance,
        nuclear_size={"median_area_um2": 30.5, "mean_class_probability": 0.91, "doubt": doubt},
        class_sizes={"by_class": {}, "doubt": class_doubt},
        positive_od=positive_od,
        **(facts or {}),
    )
    shapes = measure_shapes(rings, info.mpp)
    regions = [region.name for region in made.regions.classes or ()] if made.regions else None
    if regions is not None:
        inside = np.full(len(label), 0 if regions else -1, np.int32)
        far = np.full(len(label), -400.0)
        shapes |= {"region": inside, "region_prob": np.ones(len(label)), "border_distance_um": far}
    if made.quality:  # all nuclei lie in folds
        shapes["quality"] = np.full(len(label), ARTEFACTS.index("fold"), np.int32)
    artefacts = list(ARTEFACTS) if made.quality else None
    optional = OptionalColumns(positive_od=positive_od, regions=regions, artefacts=artefacts)
    with NucleiWriter(folder / "nuclei.parquet", list(CLASSES), made, 32, optional) as writer:
        writer.write(nuclei, rings_to_polygons(rings)[0], shapes)


def provenance(info: SlideInfo, **changes) -> Provenance:
    known = {
        "slide_id": info.slide_id,
        "fingerprint": info.fingerprint,
        "slide_mpp": list(info.mpp),
        "mpp_source": info.mpp_source,
        "reader": info.reader,
        "bounds": None,
        "model": MODEL,
        "provider": "cpu",
        "colour": None,
        "n_windows": 6,
        "corrupt_fraction": 0.0,
        "tissue_sha256": None,
        "card": CARD,
        "versions": {"muse-pipeline": "0.1.0"},
        "full_windows": [],
    }
    return Provenance.from_dict(known | changes)


def write_ledger(folder: Path, step: str, status="ok", reason="", file_name=None) -> None:
    entry = {
        "step": step,
        "status": status,
        "reason": reason,
        "seconds": 1.5,
        "peak_memory_mib": 210,
    }
    write_json(folder / f"ledger/{file_name or step}.json", entry)


def row(slide_id: str, **changes) -> dict:
    """A slide's row in the resolved sheet."""
    return {"slide_id": slide_id, "path": slide_path(slide_id), "shards": 1, **changes}
