"""Detection F1 and AJI on pictures whose stain, light, focus or compression is changed.

    python -m experiments.changed_pictures.run --data DATA    # measures what is not recorded
    python -m experiments.changed_pictures.run --table        # prints the table

Every crop is changed before its stains are fitted; outlines are not refined. DATA is a folder with
nucls-cc0/, which `label_free` was not trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import cv2
import numpy as np

from experiments.common.crops import MPP, SETS, aji, compare, detection_f1, network_finder
from experiments.common.runs import (
    add_run,
    change_from,
    is_recorded,
    read_data,
    runs_of,
    with_interval,
)
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.tissue.stain import TEXTBOOK, fit_macenko, optical_density

RUNS = runs_of(__file__)
MODEL, UNCHANGED = "label_free", "as they are"
LEAST = 0.02
TITLES = {"nucls": "NuCLS"}
Change = Callable[[np.ndarray], np.ndarray]  # from (h, w, 3) uint8 to (h, w, 3) uint8


def main() -> None:
    """Measure the sets that are not recorded, or print the table."""
    if (data := read_data(__doc__, RUNS, render_table)) is None:
        return
    for name in TITLES:
        if not is_recorded(RUNS, set=name):
            add_run(RUNS, {"model": MODEL, "set": name, **measure(SETS[name](data))})


def measure(crops: list[tuple[str, str, np.ndarray, np.ndarray]]) -> dict:
    """Patients of the crops, and for each change the counts of ``crops.compare`` in each crop."""
    predictor = Predictor(find_model(MODEL))
    predictor.refiner = None
    find = network_finder(predictor)
    return {
        "patients": [crop[1] for crop in crops],
        "counts": {
            name: [compare(find(change(pixels)), true) for _, _, pixels, true in crops]
            for name, change in [(UNCHANGED, np.asarray), *changes()]
        },
    }


def render_table(runs: list[dict]) -> str:
    """Scores of unchanged pictures, and differences for changes that shift the AJI by at least
    ``LEAST``.
    """
    heads = [
        f"{TITLES[run['set']]}, {len(run['patients'])} crops: detection F1 | AJI" for run in runs
    ]
    rows = [f"| change | {' | '.join(heads)} |", "|---" * (1 + 2 * len(runs)) + "|"]
    for name in (name for name in runs[0]["counts"] if any(moves(run, name) for run in runs)):
        cells = [cell for run in runs for cell in render_cells(run, name)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def moves(run: dict, name: str) -> bool:
    """True for changes that shift the AJI by at least ``LEAST``, and for the unchanged pictures."""
    before, after = (aji(np.sum(run["counts"][one], 0)) for one in (UNCHANGED, name))
    return name == UNCHANGED or abs(after - before) >= LEAST


def render_cells(run: dict, name: str) -> list[str]:
    """Detection F1 and AJI of unchanged pictures, or their differences for a change."""
    before, after = (np.array(run["counts"][one], float) for one in (UNCHANGED, name))
    if name == UNCHANGED:
        return [with_interval(measure, before, run["patients"]) for measure in (detection_f1, aji)]
    return [change_from(measure, before, after, run["patients"]) for measure in (detection_f1, aji)]


def changes() -> Iterator[tuple[str, Change]]:
    """Yield the name and the function of each change."""
    for factor in (0.4, 0.6, 1.6, 2.2):
        yield f"densities times {factor:g}", partial(scale_density, factors=np.eye(3) * factor)
    for name, weights in {
        "haematoxylin times 0.5": (0.5, 1),
        "haematoxylin times 1.7": (1.7, 1),
        "eosin times 0.3": (1, 0.3),
        "eosin times 2": (1, 2),
    }.items():
        yield name, partial(scale_stains, weights=weights)
    for name, light in {
        "light at 0.8": (0.8, 0.8, 0.8),
        "light at 0.65": (0.65, 0.65, 0.65),
        "yellow glass": (1, 0.96, 0.8),
        "pink glass": (1, 0.88, 0.95),
        "blue glass": (0.85, 0.93, 1),
    }.items():
        yield name, partial(scale_light, light=light)
    yield "half as saturated", halve_saturation
    for sigma_um in (0.5, 0.75):
        yield f"blurred by {sigma_um} um", partial(blur, sigma_um=sigma_um)
    for quality in (30, 15):
        yield f"JPEG of quality {quality}", partial(compress, quality=quality)
    yield "noise of 12 grey levels", add_noise
    for um in (0.5, 0.75, 1):
        yield f"scanned at {um} um/px", partial(coarsen, um=um)


def scale_density(pixels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply optical densities by a matrix (3, 3)."""
    return (
        np.clip(256 * np.exp(-optical_density(pixels) @ factors) - 1, 0, 255)
        .round()
        .astype(np.uint8)
    )


def scale_stains(pixels: np.ndarray, weights: tuple[float, float]) -> np.ndarray:
    """Multiply the amounts of haematoxylin and eosin by ``weights``, but not the residual."""
    fit = fit_macenko(pixels.reshape(-1, 3))
    stains = TEXTBOOK if fit is None else fit.stains
    rows = np.vstack([stains, np.cross(*stains)])
    return scale_density(pixels, np.linalg.inv(rows) @ np.diag([*weights, 1]) @ rows)


def scale_light(pixels: np.ndarray, light: tuple[float, float, float]) -> np.ndarray:
    """Multiply red, green and blue light by factors, on glass as well as on tissue."""
    return (pixels * np.array(light)).round().astype(np.uint8)


def halve_saturation(pixels: np.ndarray) -> np.ndarray:
    """Average each colour with its grey."""
    return ((pixels + pixels.mean(2, keepdims=True)) / 2).round().astype(np.uint8)


def blur(pixels: np.ndarray, sigma_um: float) -> np.ndarray:
    """Blur with a Gaussian."""
    return cv2.GaussianBlur(pixels, (0, 0), sigma_um / MPP)


def compress(pixels: np.ndarray, quality: int) -> np.ndarray:
    """Compress as JPEG and decompress."""
    _, file = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(file, cv2.IMREAD_COLOR_RGB)


def add_noise(pixels: np.ndarray) -> np.ndarray:
    """Add Gaussian noise, the same to every picture."""
    noise = np.random.default_rng(0).normal(0, 12, pixels.shape)
    return np.clip(pixels + noise, 0, 255).round().astype(np.uint8)


def coarsen(pixels: np.ndarray, um: float) -> np.ndarray:
    """Resample to ``um`` per pixel and back."""
    small = cv2.resize(pixels, None, fx=MPP / um, fy=MPP / um, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR)


if __name__ == "__main__":
    main()
