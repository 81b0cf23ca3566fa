"""A run of each method that takes seconds: the function ``METHOD`` draws its inputs and returns its
config.

This module imports no method, so that the folder of a method can be deleted.
"""

from __future__ import annotations

from pathlib import Path

import labelled
import pretraining
import yaml
from drawn_patches import draw_patches
from paired import draw_paired_pictures, write_paired_config

PSM = """
method: psm
name: tiny
sources: [{ images: images, mpp: 0.5 }]
detector:
  backbone: muse_compact_16
  n_rays: 8
  window_px: 96
  batch: 2
  precision: 32-true
  schedule: { steps: 6 }
  export: { input_px: 192, capacity: 200 }
self_training: { rounds: 0 }
licence: CC0-1.0
training_data: drawn discs
"""
ACTIVATION = "{ schedule: { steps: 4, save_every: 2 }, window_px: 64, batch: 2 }"
UNIT = """
method: unit
name: tiny
sources: [{ images: images, mpp: 0.5 }]
schedule: { steps: 4, save_every: 2, log_every: 1, learning_rate: 0.001 }
second: { steps: 3, learning_rate: 0.0005 }
window_px: 64
batch: 2
n_masks: 6
mask_px: 96
discriminator_rate: 0.4
weights: { painted: [10, 3] }
generator: { base: 8, most: 16, levels: 4, noise_dim: 8, style_dim: 8, code_dim: 8,
             mapping_layers: 2, dropout: 0.5 }
reader: { backbone: muse_compact_16, n_rays: 8, widths: [16, 8] }
pictures: { widths: [8, 16], loss: logistic, r1_every: 2 }
mask_discriminator: { widths: [8, 16] }
export: { input_px: 192, capacity: 200, threshold: 0.001 }
licence: CC0-1.0
training_data: drawn tissue
"""

WITH_MUSE = {"n_prototypes": 16, "hidden": 16, "bottleneck": 8}


def write_unit(folder: Path, **changes: object) -> Path:
    path = folder / "unit.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(UNIT), **changes}))
    return path


def detector(folder: Path) -> Path:
    path = labelled.write_config(labelled.draw_labelled_folder(folder), steps=6)
    path.write_text(f"method: detector\n{path.read_text()}")
    return path


def muse(folder: Path) -> Path:
    path = pretraining.draw_pictures(folder)
    path.write_text(f"method: muse\n{path.read_text()}")
    return path


def trident(folder: Path) -> Path:
    views = {"n_local": 2, "local_px": 32}
    return write_paired_config(
        folder, [draw_paired_pictures(folder)], distillation=WITH_MUSE, views=views
    )


def mil(folder: Path) -> Path:
    return draw_patches(folder) / "mil.yaml"


def psm(folder: Path) -> Path:
    path = labelled.draw_labelled_folder(folder) / "psm.yaml"
    path.write_text(f"{PSM}masks: activation\nactivation: {ACTIVATION}\n")
    return path


def unit(folder: Path) -> Path:
    return write_unit(labelled.draw_labelled_folder(folder))


def toy(images: Path, path: Path, steps: int = 6) -> Path:
    schedule = f"{{steps: {steps}, learning_rate: 0.01, save_every: 2, log_every: 1}}"
    path.write_text(f"method: toy_sum\nname: toy\nimages: {images}\nschedule: {schedule}\n")
    return path


RUNS = {run.__name__: run for run in (detector, muse, trident, mil, psm, unit)}
