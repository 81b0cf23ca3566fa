"""A folder of synthetic labelled pictures, a config that trains on it in seconds, and options for
test runs.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from muse_pipeline.training.run import Options

CPU = Options(accelerator="cpu")
DARK, PALE, GROUND = (90, 60, 130), (150, 110, 180), (235, 190, 215)


def draw_labelled_folder(folder: Path, n_pictures: int = 3) -> Path:
    """Write pictures of dark and pale nuclei on a pink background, with labels as text: row,
    column, class.
    """
    generator = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(n_pictures):
        picture = np.full((160, 160, 3), GROUND, np.uint8)
        lines = []
        positions = np.indices((6, 6)).reshape(2, -1).T * 26 + generator.integers(8, 18, (36, 2))
        for row, column in positions.tolist():
            label, radius, color = (1, 5, DARK) if generator.integers(2) else (2, 8, PALE)
            cv2.circle(picture, (column, row), radius, color, -1, cv2.LINE_AA)
            lines.append(f"{row} {column} {label}")
        noisy = np.clip(picture + generator.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"images/P{index}.png"), noisy[..., ::-1])
        (folder / f"labels/P{index}_points.txt").write_text("\n".join(lines) + "\n")
    return folder


CONFIG = """
name: tiny
backbone: muse_compact_16
mpp: 0.5
classes:
  - {{ name: Dark, color: [10, 20, 30] }}
  - {{ name: Pale, color: [200, 100, 0] }}
sources:
  - images: images
    labels: labels
    format: row column class
    mpp: 0.5
    class_map: {{ "1": Dark, "2": Pale }}
n_rays: 8
colour: {colour}
window_px: 96
batch: 2
schedule: {{ steps: {steps}, save_every: 5, log_every: 1, learning_rate: 0.005 }}
export: {{ input_px: 192, halo_px: 32, capacity: {capacity}, threshold: {threshold} }}
licence: CC0-1.0
training_data: drawn discs
"""


def write_config(
    folder: Path, steps=10, colour="identity", capacity=200, threshold: float = 0.3
) -> Path:
    """Write ``tiny.yaml`` next to the folders of pictures and labels."""
    path, values = folder / "tiny.yaml", {"steps": steps, "colour": colour, "capacity": capacity}
    path.write_text(CONFIG.format(threshold=threshold, **values))
    return path
