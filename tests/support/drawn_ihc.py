"""Synthetic immunohistochemistry: blue and brown nuclei at known positions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from drawn import ArraySlide, paint

from muse_pipeline.core.types import SlideInfo
from muse_pipeline.inference.stains import DAB
from muse_pipeline.store.store import Store, open_store
from muse_pipeline.store.write import write_store
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.stain import TEXTBOOK, optical_density

PITCH_UM = 16.0
HAEMATOXYLIN, EOSIN, BROWN = (stain / np.linalg.norm(stain) for stain in (*TEXTBOOK, DAB))


def add_disc(amount: np.ndarray, xy: np.ndarray, radius_px: float, value: float) -> None:
    """Give a disc of a map (h, w) this value; ``xy`` and radius are rounded to 1/256 px."""
    middle = tuple(round((side - 0.5) * 256) for side in xy)
    cv2.circle(amount, middle, round(radius_px * 256), value, -1, cv2.LINE_8, 8)


def mix_stains(
    amounts: np.ndarray, stains: Sequence, blur_px: float, ground, rng: np.random.Generator
) -> np.ndarray:
    """Pixels (h, w, 3) of blurred ``amounts`` (S, h, w) of S stains on a ``ground``, with noise;
    amounts and ground are optical densities.
    """
    blurred = (cv2.GaussianBlur(one, (0, 0), blur_px)[..., None] for one in amounts)
    density = ground + sum(one * stain for one, stain in zip(blurred, stains, strict=True))
    return paint(np.maximum(density + rng.normal(0, 0.02, density.shape), 0))


def place_nuclei(mpp: float, size_um: tuple[float, float]) -> np.ndarray:
    """Positions (N, 2) in px of a grid of nuclei."""
    axes = [np.arange(PITCH_UM, side - PITCH_UM / 2, PITCH_UM) for side in size_um]
    return np.stack(np.meshgrid(*axes), -1).reshape(-1, 2) / mpp


def draw_ihc(
    mpp: float,
    size_um: tuple[float, float],
    share: float = 0.3,
    background: float = 0.1,
    is_membrane: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, centres (N, 2) px and brown flags (N,) of discs of radius 4 um, blue or a denser
    brown, on pale blue.

    Args:
        mpp: um per pixel.
        size_um: width and height.
        share: share of brown discs.
        background: optical density of the pale blue.
        is_membrane: True if all discs are blue, and brown rings of 1.5 um surround a share of them.
    """
    centres, rng = place_nuclei(mpp, size_um), np.random.default_rng(0)
    brown = rng.uniform(size=len(centres)) < share
    amounts = np.zeros((2, round(size_um[1] / mpp), round(size_um[0] / mpp)), np.float32)
    for xy, is_brown in zip(centres, brown, strict=True):
        if is_brown and is_membrane:
            add_disc(amounts[1], xy, 5.5 / mpp, 1.4)
            add_disc(amounts[1], xy, 4 / mpp, 0)
        in_brown = is_brown and not is_membrane
        add_disc(amounts[int(in_brown)], xy, 4 / mpp, 1.4 if in_brown else 0.6)
    ground = background * HAEMATOXYLIN
    return mix_stains(amounts, (HAEMATOXYLIN, BROWN), 0.3 / mpp, ground, rng), centres, brown


def store_ihc(
    folder: Path, size_um: tuple[float, float]
) -> tuple[Store, SlideInfo, TissueMask, np.ndarray, np.ndarray]:
    """A store and slide of ``draw_ihc`` at 0.5 um/px, with tissue everywhere, and the centres and
    brown flags.
    """
    pixels, centres, brown = draw_ihc(0.5, size_um)
    slide = ArraySlide([pixels])
    rows, columns = (-(-side // 16) for side in pixels.shape[:2])
    tissue = TissueMask(np.ones((rows, columns), bool), np.array([8.0, 8.0]), None, 0.0)
    info = slide.info((0.5, 0.5))
    write_store(slide, info, tissue, folder / "image-500nm.zarr")
    return open_store(folder / "image-500nm.zarr"), info, tissue, centres, brown


def draw_levels(
    mpp: float, size_um: tuple[float, float], third: Sequence[float] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, centres (N, 2) px and DAB density (N,) of nuclei scored 0 to 3+, with patches of a
    ``third`` stain.

    The patches have a density of 0.35 (base 10). If ``third`` is None, only the patches are left
    out.
    """
    centres, rng = place_nuclei(mpp, size_um), np.random.default_rng(1)
    dab = np.array([0, 0, 0.3, 0.5, 0.8])[rng.integers(0, 5, len(centres))]
    width, height = (round(side / mpp) for side in size_um)
    amounts = np.zeros((3, height, width), np.float32)  # haematoxylin, DAB, third stain
    for xy, density in zip(centres, dab, strict=True):
        add_disc(amounts[0], xy, 4 / mpp, 0.6 if density == 0 else 0.15)
        add_disc(amounts[1], xy, 4 / mpp, density * np.log(10))
    for x, y in rng.uniform((0, 0), (width, height), (round(size_um[0] * size_um[1] / 12_000), 2)):
        cv2.circle(amounts[2], (round(x), round(y)), round(30 / mpp), 0.35 * np.log(10), -1)
    unit = np.divide(third, np.linalg.norm(third)) if third else np.zeros(3)
    stains = HAEMATOXYLIN, BROWN, unit
    return mix_stains(amounts, stains, 0.3 / mpp, 0.15 * HAEMATOXYLIN, rng), centres, dab


def turn_collagen_brown(pixels: np.ndarray, mpp: float) -> np.ndarray:
    """H&E (h, w, 3) uint8 whose eosin is as brown as old or acid eosin; ``mpp`` does not matter."""
    density = optical_density(pixels)
    total = density.sum(2, keepdims=True)
    excess = (density[..., 1:2] - 1.05 * density[..., :1]) / (total + 1e-6)
    share = 0.75 * np.clip(6 * excess, 0, 1)
    return paint(density * (1 - share) + np.array([0.21, 0.35, 0.44]) * total * share)


def add_pigment(pixels: np.ndarray, mpp: float, share: float = 0.02) -> np.ndarray:
    """H&E with clumps of brown grains on a ``share`` of its area."""
    random, grains = np.random.default_rng(0), np.zeros(pixels.shape[:2], np.float32)
    while grains.mean() < share:
        clump = random.uniform(size=2) * grains.shape[::-1]
        for xy in (clump + random.normal(0, 3 / mpp, (30, 2))).astype(int).tolist():
            cv2.circle(grains, xy, max(round(0.7 / mpp), 1), 1.0, -1)
    grains = cv2.GaussianBlur(grains, (0, 0), 0.4 / mpp)[..., None]
    return paint(optical_density(pixels) * (1 - grains / 2) + grains * np.array([0.5, 1.0, 1.7]))


def add_ink(pixels: np.ndarray, mpp: float) -> np.ndarray:
    """H&E with black-brown surgical ink, splashes included, along its left margin."""
    random, ink = np.random.default_rng(0), np.zeros(pixels.shape[:2], np.float32)
    ink[:, : round(25 / mpp)] = 1
    for _ in range(60):
        xy = int(random.exponential(30 / mpp)), int(random.uniform(0, len(ink)))
        cv2.circle(ink, xy, max(round(random.uniform(0.5, 2.5) / mpp), 1), 1.0, -1)
    ink = cv2.GaussianBlur(ink, (0, 0), 0.5 / mpp)[..., None]
    ink *= random.uniform(0.6, 1, ink.shape)
    return paint(optical_density(pixels) + ink * np.array([1.7, 1.95, 2.3]))
