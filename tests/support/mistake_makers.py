"""The folders and the actions that tests/mistakes.yaml names."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import drawn_networks
import numpy as np
import pretraining
import pyarrow as pa
import pyarrow.parquet as pq
import tiny_runs
import torch
from drawn import ArraySlide
from drawn_datasets import draw_datasets
from drawn_labels import draw_nuclei, grid_xy, read
from labelled import CPU, draw_labelled_folder, write_config
from scored_slides import draw_results

import muse_pipeline
from experiments.common.training import finetune, load_muse_config, pretrain
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference.model import find_model
from muse_pipeline.labels.label_sources import parse_source, read_labelled_images
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.proposals.base import SlideSample
from muse_pipeline.proposals.imported import ImportedNuclei, ImportSettings
from muse_pipeline.qupath.regions import read_roi
from muse_pipeline.registration.transform import read_given
from muse_pipeline.training.recipe import load_run

MULTI_ORGAN = Path(__file__).parents[2] / "config/train/multi_organ.yaml"


def labelled(folder: Path) -> None:
    """Labelled pictures and ``tiny.yaml``, which trains on them."""
    write_config(draw_labelled_folder(folder))


def picture(folder: Path) -> None:
    """``images/P.png`` of 120 x 90 px and an empty folder ``labels``."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    size = (120, 90)
    cv2.imwrite(str(folder / "images/P.png"), draw_nuclei(size, grid_xy(size))[..., ::-1])


def proposed(folder: Path) -> None:
    """``c.yaml``, which pretrains on ``S1``, a slide with proposals, and ``picture/a.png``."""
    pretraining.draw_slide(folder / "S1")
    source = {"store": "S1/image-500nm.zarr", "proposals": "S1/proposals.parquet"}
    pretraining.write_config(folder / "c.yaml", [source])
    (folder / "picture").mkdir()
    cv2.imwrite(str(folder / "picture/a.png"), np.full((90, 90, 3), 220, np.uint8))


RAYS_PX = {"inward": -6.6, "short": 1, "long": 5000, "nan": np.nan, "infinite": np.inf}


def networks(folder: Path) -> None:
    """Networks of other programs, among them some with implausible rays and one that returns its
    input, and two of this package's files.
    """
    for name in ("hover", "distance", "cellpose", "boundary"):
        getattr(drawn_networks, f"draw_{name}")(folder / f"{name}.onnx")
    for name, px in RAYS_PX.items():
        drawn_networks.draw_stardist(folder / f"{name}.onnx", radius_px=px)
    network = drawn_networks.Drawing(channels_first=True)
    network.give("maps", network.pixels)
    network.save(folder / "input.onnx")
    model = find_model("compact-fp32")
    shutil.copy(model, folder / "compact.onnx")
    shutil.copy(model.parent / "outlines/refine.onnx", folder)


results = draw_results
datasets = draw_datasets


def white_png(width: int, height: int) -> bytes:
    return cv2.imencode(".png", np.full((height, width), 255, np.uint8))[1].tobytes()


def taught(folder: Path) -> None:
    """``labelled``, and ``teacher.pt``, a detector that was trained on it."""
    labelled(folder)
    finetune(load_detector_config(folder / "tiny.yaml"), folder / "teacher", CPU)
    (folder / "teacher/checkpoint.pt").rename(folder / "teacher.pt")
    shutil.rmtree(folder / "teacher")


def checkpoints(folder: Path) -> None:
    """Files of PyTorch that are no checkpoint, and one of a later version."""
    torch.save({"x": 1}, folder / "other.pt")
    torch.save({"format": "muse_pipeline 9"}, folder / "later.pt")


def tables(folder: Path) -> None:
    """A table that is not of nuclei."""
    pq.write_table(pa.table({"x": [1.0]}), folder / "other.parquet")


def deep(folder: Path) -> None:
    """Brackets deeper than Python's stack."""
    (folder / "roi.geojson").write_text("[" * 100_000)


def tiny_mil(folder: Path) -> None:
    tiny_runs.mil(folder).rename(folder / "tiny_mil.yaml")


def tiny_psm(folder: Path) -> None:
    (draw_labelled_folder(folder) / "tiny_psm.yaml").write_text(tiny_runs.PSM)


def tiny_trident(folder: Path) -> None:
    tiny_runs.trident(folder).rename(folder / "tiny_trident.yaml")


def tiny_unit(folder: Path) -> None:
    tiny_runs.unit(folder).rename(folder / "tiny_unit.yaml")


def load_tiny(name: str, *changes: str) -> None:
    load_run(Path(f"{name}.yaml"), changes=changes)


def read_labels(**source) -> None:
    read(parse_source({"images": "images", "labels": "labels", "mpp": 0.5, **source}, "c"))


def read_dataset(name: str, **settings) -> None:
    """Read a dataset as config/train/multi_organ.yaml does, with other ``settings``."""
    sources = {each.format: each for each in load_detector_config(MULTI_ORGAN, Path()).sources}
    source = replace(sources[name], exclude=(), **settings)
    read_labelled_images([source], ("Lymphocyte", "Epithelial", "Stroma"), 0.25, 8)


def read_areas(class_map: dict) -> None:
    settings = {"images": Path("images"), "mpp": 0.5, "class_map": class_map, "margin_um": 2.0}
    source = PictureSource(Path("labels"), "areas", **settings)
    read_labelled_images([source], ("Dark", "Pale", "Red"), 0.5, 8)


def load_changed(*changes: str) -> None:
    load_detector_config(Path("tiny.yaml"), changes=changes)


def train_changed(*changes: str) -> None:
    finetune(load_detector_config(Path("tiny.yaml"), changes=changes), Path("run"), CPU)


def pretrain_changed(**settings) -> None:
    source = {"store": "S1/image-500nm.zarr", "proposals": "S1/proposals.parquet"}
    path = pretraining.write_config(Path("c.yaml"), **{"sources": [source], **settings})
    pretrain(load_muse_config(path), Path("run"), CPU)


def drawn_info() -> SlideInfo:
    return ArraySlide([np.full((795, 955, 3), 200, np.uint8)]).info((0.5, 0.5))


def read_region_of_interest() -> None:
    read_roi(Path("roi.geojson"), drawn_info())


def read_transform_of_partner(name: str) -> None:
    read_given(Path(name), drawn_info(), drawn_info())


def read_imported(name: str) -> None:
    ImportedNuclei.fit(SlideSample(0.5, (), None, drawn_info()), ImportSettings(name))


def find_nuclei_in(shape: list, kind: str, **settings) -> None:
    muse_pipeline.find_nuclei(np.zeros(shape, kind), **settings)


def find_tissue_in(shape: list, kind: str, **settings) -> None:
    muse_pipeline.find_tissue(np.zeros(shape, kind), **settings)
