"""A finished slide whose nuclei differ in outline, score and probability, and the data in its
viewer.
"""

import json

import numpy as np
from finished_slide import CLASSES, draw_tissue, write_finished, write_slide

from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.slides.inspect import read_info


def draw_nuclei(xy, label, seed=0) -> Nuclei:
    """Nuclei with varied outlines, scores and probabilities at positions in level-0 px."""
    random = np.random.default_rng(seed)
    angles = 2 * np.pi * np.arange(32) / 32
    waves = 1 + 0.25 * np.cos(2 * angles + random.uniform(0, 6, (len(xy), 1)))
    waves += random.uniform(-0.05, 0.05, (len(xy), 32))
    sure = random.uniform(0.4, 0.99, len(xy))
    prob = np.repeat((1 - sure)[:, None] / (len(CLASSES) - 1), len(CLASSES), 1)
    prob[np.arange(len(xy)), label] = sure
    rays = np.array([3.0, 5.0, 4.0])[label][:, None] * waves
    return Nuclei(
        np.asarray(xy, float),
        Frame.LEVEL0,
        rays=rays.astype(np.float32),
        label=label.astype(np.int32),
        score=random.uniform(0.3, 1, len(xy)).astype(np.float32),
        prob=prob.astype(np.float32),
    )


def write_nuclei(folder, nuclei: Nuclei) -> None:
    write_finished(folder, read_info(folder / "slide.json"), nuclei)


def write_uneven_slide(results, slide_id: str):
    """Write a finished slide at 0.25 um/px with varied nuclei, and return its folder."""
    pixels, xy, label = draw_tissue()
    folder = write_slide(results, slide_id, (pixels, xy, label))
    write_nuclei(folder, draw_nuclei(2 * xy, label))
    return folder


def read_slide(viewer) -> dict:
    """The data of the slide, as the page reads it."""
    text = (viewer / "slide.js").read_text(encoding="ascii")
    return json.loads(text.removeprefix("muse.slide = ").removesuffix(";\n"))
