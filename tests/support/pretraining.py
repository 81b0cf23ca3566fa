"""Synthetic inputs for pretraining: stores of slides with proposals, labelled pictures, and
configs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from drawn import ArraySlide
from drawn_tissue import draw_labelled_tissue
from labelled import draw_labelled_folder
from nuclei_example import write_table

from muse_pipeline.core.files import write_json
from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.store.write import StoreOptions, write_store
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.stain import fit_macenko

MPP, SIDE_PX = 0.5, 640
SETTINGS = {
    "name": "tiny",
    "backbone": "muse_compact_16",
    "views": {"global_px": 64, "local_px": 32, "n_local": 2, "mpp": [0.5, 1.0]},
    "distillation": {"n_prototypes": 64, "hidden": 32, "bottleneck": 16},
    "batch": 4,
    "min_nuclei": 20,
    "schedule": {"steps": 6, "log_every": 1, "save_every": 2, "learning_rate": 0.002},
}


def write_config(path: Path, sources: list[dict], base: dict = SETTINGS, **settings) -> Path:
    """Write a config: ``base`` with these sources; a dict in ``settings`` changes single keys
    of its section.
    """
    values = {**base, "sources": sources}
    for name, value in settings.items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(values))
    return path


def draw_pictures(folder: Path, **settings) -> Path:
    """Write three labelled pictures, P0 to P2, and a config that pretrains on them; return the
    config's path.
    """
    draw_labelled_folder(folder)
    labelled = {"images": "images", "labels": "labels", "format": "row column class", "mpp": MPP}
    return write_config(folder / "tiny.yaml", [{"labelled": labelled}], **settings)


def draw_slide(
    folder: Path, slide_id: str = "S1", fingerprint: str = "0" * 16, mpp: float = MPP
) -> None:
    """Write a slide's folder as ``muse step tissue``, ``muse step tile`` and ``muse step propose``
    do; ``mpp`` is
    that of level 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tissue = draw_labelled_tissue((SIDE_PX, SIDE_PX), mpp, seed=0)
    slide = ArraySlide([tissue.pixels])
    info = slide.info((mpp, mpp), slide_id)
    n_cells = round(SIDE_PX * mpp / 8)
    whole = TissueMask(
        np.ones((n_cells, n_cells), bool), np.array([8.0, 8.0]), None, (SIDE_PX * mpp / 1000) ** 2
    )
    write_store(slide, info, whole, folder / "image-500nm.zarr", StoreOptions(MPP))
    fit = fit_macenko(tissue.pixels.reshape(-1, 3))
    write_json(
        folder / "colour.json",
        {"macenko": {"stains": fit.stains.tolist(), "strong": fit.strong.tolist()}},
    )
    write_proposals(folder / "proposals.parquet", tissue.xy, slide_id, fingerprint)


def write_proposals(
    path: Path, xy: np.ndarray, slide_id: str = "S1", fingerprint: str = "0" * 16
) -> Path:
    """Write a table of nuclei of one class at positions (N, 2) in level-0 px."""
    n = len(xy)
    card = {"classes": [{"name": "Nucleus", "color": [1, 2, 3]}]}
    nuclei = Nuclei(
        xy=xy,
        frame=Frame.LEVEL0,
        rays=np.full((n, 8), 3.0),
        label=np.zeros(n, int),
        score=np.ones(n),
        prob=np.ones((n, 1)),
    )
    facts = {"slide_id": slide_id, "fingerprint": fingerprint, "card": card}
    return write_table(path, nuclei, ["Nucleus"], (MPP, MPP), **facts)
