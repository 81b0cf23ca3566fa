"""Synthetic patches in a folder per class and split, and a config that trains a region model on
them in seconds.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from drawn_regions import MPP, draw_blobs, draw_texture

CONFIG = """
method: mil
name: drawn
backbone: muse_compact_16
mpp: 2
classes:
  - { name: Stroma, color: [150, 200, 150] }
  - { name: Tumour, color: [200, 0, 0] }
sources:
  - { folders: training, mpp: 2 }
validation:
  - { folders: validation, mpp: 2 }
colour: identity
window_px: 64
batch: 8
schedule: { steps: 6, learning_rate: 0.003, save_every: 3, validate_every: 3, log_every: 1 }
student: { rounds: 2 }
export: { input_px: 192, halo_px: 64 }
licence: CC0-1.0
training_data: drawn textures
"""


def draw_patches(folder: Path) -> Path:
    """Write training/ and validation/ with a folder per class, masks/ of the validation patches,
    and ``mil.yaml``.
    """
    for start, split in ((0, "training"), (1000, "validation")):
        for label, name in enumerate(("Stroma", "Tumour")):
            for kind in (folder / split, folder / "masks"):
                (kind / name).mkdir(parents=True, exist_ok=True)
            for index in range(6):
                seed = start + 2 * index + label
                mask = draw_blobs(64, seed) if label else np.zeros((64, 64), bool)
                file, pixels = f"{name}/{split}-{seed}.png", draw_texture(mask, MPP, seed)
                cv2.imwrite(str(folder / split / file), pixels[..., ::-1])
                cv2.imwrite(str(folder / "masks" / file), mask.astype(np.uint8))
    (folder / "mil.yaml").write_text(CONFIG)
    return folder
