"""Synthetic sections stained twice: with H&E and, shifted and bent on a second glass, for
immunohistochemistry.

A third of the nuclei carry a marker that only the second stain shows. The map between both pictures
is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from drawn import ArraySlide, paint
from drawn_ihc import BROWN, EOSIN, HAEMATOXYLIN
from scipy.spatial import cKDTree

from muse_pipeline.core.types import SlideInfo
from muse_pipeline.demo.field import smooth_noise
from muse_pipeline.inference.stains import split_stains
from muse_pipeline.registration.transform import Transform
from muse_pipeline.store.store import Store

NUCLEI_PER_MM2 = 4500
N_COARSE_PX = 512  # side of the maps that decide where tissue and nuclei lie


@dataclass(frozen=True, eq=False)
class Section:
    """A section of tissue, described by how much of each stainable substance every pixel contains.

    Attributes:
        amounts: (h, w, 3) float32, 0 to 1: nuclei without the marker, nuclei with it, and
            everything else.
        mpp: um per pixel.
        xy_um: (N, 2) centres of nuclei.
        has_marker: (N,) bool.
    """

    amounts: np.ndarray
    mpp: float
    xy_um: np.ndarray
    has_marker: np.ndarray

    @property
    def size_um(self) -> np.ndarray:
        """(width, height) of the section."""
        return np.array(self.amounts.shape[1::-1]) * self.mpp


@dataclass(frozen=True, kw_only=True)
class Warp:
    """How the partner lies on its own glass: turned about its centre, enlarged, shifted, bent, and
    perhaps mirrored.
    """

    degrees: float = 0.0
    scale: float = 1.0
    shift_um: tuple[float, float] = (0.0, 0.0)
    bend_um: float = 0.0
    mirrored: bool = False

    def matrix(self, size_um: np.ndarray) -> np.ndarray:
        """(2, 2) matrix from um on a slide of ``size_um`` to um on the partner, without shift and
        bend.
        """
        angle = np.radians(self.degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return self.scale * turn @ np.diag([-1.0 if self.mirrored else 1.0, 1.0])

    def partner_size_um(self, size_um: np.ndarray) -> np.ndarray:
        """(width, height) of a glass that holds the whole warped slide."""
        return np.abs(self.matrix(size_um)) @ size_um + np.abs(self.shift_um)

    def to_slide(self, partner_um: np.ndarray, size_um: np.ndarray) -> np.ndarray:
        """Map positions (..., 2) on the partner to those on a slide of ``size_um``, both in um."""
        partner_um = np.asarray(partner_um, float)
        middle = (self.partner_size_um(size_um) - np.abs(self.shift_um)) / 2 + self.shift_um
        straight = (partner_um - middle) @ np.linalg.inv(self.matrix(size_um)).T + size_um / 2
        waves = np.sin(2 * np.pi * straight[..., ::-1] / (1.3 * size_um[::-1]) + [0.5, 1.7])
        return straight + self.bend_um * waves


def draw_section(
    size_um: tuple[float, float], mpp: float, seed: int = 0, margin_um: float = 150.0
) -> Section:
    """A ragged island of tissue with crowded and sparse areas, on glass."""
    rng = np.random.default_rng(seed)
    size_px = tuple(round(side / mpp) for side in size_um)
    extent = np.array(size_px) * mpp
    inside, crowd, pink = _draw_maps(extent, margin_um, rng)
    n = round(NUCLEI_PER_MM2 * extent.prod() / 1e6)
    xy = rng.uniform(0, extent, (n, 2))
    column, row = (xy / extent * N_COARSE_PX).astype(int).clip(0, N_COARSE_PX - 1).T
    xy = xy[(inside[row, column] > 0.5) & (rng.random(n) < crowd[row, column])]
    has_marker = rng.random(len(xy)) < 1 / 3
    nuclei = [np.zeros(size_px[::-1], np.uint8) for _ in range(2)]
    for (x, y), marked, radius, elongation, angle, shade in zip(
        xy / mpp,
        has_marker,
        rng.uniform(2.6, 4.4, len(xy)) / mpp,
        rng.uniform(1, 1.6, len(xy)),
        rng.uniform(0, 180, len(xy)),
        rng.integers(130, 256, len(xy)),
        strict=True,
    ):
        box = ((x - 0.5, y - 0.5), (2 * radius * elongation, 2 * radius / elongation), angle)
        cv2.ellipse(nuclei[int(marked)], box, int(shade), -1, cv2.LINE_AA)
    ground = cv2.resize(inside * pink, size_px, interpolation=cv2.INTER_CUBIC).clip(0, 1)
    amounts = [cv2.GaussianBlur(one, (0, 0), 0.3 / mpp).astype(np.float32) / 255 for one in nuclei]
    return Section(np.dstack([*amounts, ground]), mpp, xy, has_marker)


def _draw_maps(
    extent: np.ndarray, margin_um: float, rng: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Three (N_COARSE_PX, N_COARSE_PX) maps: tissue, share of nuclei kept, and amount of ground
    substance.
    """
    step = extent.mean() / N_COARSE_PX
    rag, lumps, weave = (
        smooth_noise(N_COARSE_PX, wave / step, rng) for wave in (extent.mean() / 4, 180.0, 60.0)
    )
    y, x = (np.mgrid[:N_COARSE_PX, :N_COARSE_PX] + 0.5) / N_COARSE_PX
    depth_um = (
        np.minimum(np.minimum(x, 1 - x) * extent[0], np.minimum(y, 1 - y) * extent[1]) - margin_um
    )
    inside = (depth_um + 0.06 * extent.mean() * (rag - 0.4) > 0) & (depth_um > 0)
    crowd = np.where(lumps > 0.4, 1.0, np.where(lumps < -0.9, 0.03, 0.35))
    return inside.astype(np.float32), crowd, (0.32 + 0.08 * weave).clip(0.1, 0.6).astype(np.float32)


def stain_he(amounts: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: haematoxylin in all nuclei, eosin elsewhere."""
    blue = 0.95 * (amounts[..., 0] + amounts[..., 1]) + 0.05 * amounts[..., 2]
    return _photograph([(blue, HAEMATOXYLIN), (1.2 * amounts[..., 2], EOSIN)], 1)


def stain_ihc(amounts: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8: brown in nuclei with the marker, pale haematoxylin in other nuclei, little
    stain elsewhere.
    """
    blue = 0.6 * amounts[..., 0] + 0.25 * amounts[..., 1] + 0.25 * amounts[..., 2]
    brown = 1.3 * amounts[..., 1] + 0.03 * amounts[..., 2]
    return _photograph([(blue, HAEMATOXYLIN), (brown, BROWN)], 2)


def _photograph(stained: list[tuple[np.ndarray, np.ndarray]], seed: int) -> np.ndarray:
    """Pixels with camera grain."""
    height, width = stained[0][0].shape
    light = paint(sum(amount[..., None] * stain for amount, stain in stained) + 0.02)
    grain = np.random.default_rng(seed).normal(0, 2, (512, 1024, 1))
    grain = np.tile(grain, (-(-height // 512), -(-width // 1024), 1))[:height, :width]
    return np.clip(light + grain, 0, 255).astype(np.uint8)


def draw_partner(section: Section, warp: Warp, partner_mpp: float) -> np.ndarray:
    """(h, w, 3) uint8: the section with the second stain on its own glass."""
    width, height = np.ceil(warp.partner_size_um(section.size_um) / partner_mpp).astype(int)
    y, x = np.mgrid[:height, :width] + 0.5
    at = warp.to_slide(np.stack([x, y], -1) * partner_mpp, section.size_um) / section.mpp - 0.5
    column, row = np.moveaxis(at.astype(np.float32), -1, 0)
    return stain_ihc(cv2.remap(section.amounts, column, row, cv2.INTER_LINEAR, borderValue=0))


def open_drawn(pixels: np.ndarray, mpp: float, slide_id: str) -> tuple[ArraySlide, SlideInfo]:
    """A picture as a slide with one level."""
    slide = ArraySlide([pixels])
    return slide, slide.info((mpp, mpp), slide_id)


def errors_um(transform: Transform, section: Section, warp: Warp) -> np.ndarray:
    """Errors of ``transform``, in um on the partner, at up to 5,000 points of the tissue."""
    partner_um = np.random.default_rng(0).uniform(0, 1, (100_000, 2))
    partner_um *= warp.partner_size_um(section.size_um)
    slide_um = warp.to_slide(partner_um, section.size_um)
    at = np.floor(slide_um / section.mpp).astype(int)
    inside = ((at >= 0) & (at < section.amounts.shape[1::-1])).all(1)
    column, row = at[inside].T
    some = np.flatnonzero(inside)[section.amounts[row, column, 2] > 0.05][:5000]
    return np.linalg.norm(transform.to_partner(slide_um[some]) - partner_um[some], axis=1)


def brown_nuclei(store: Store, section: Section) -> tuple[np.ndarray, np.ndarray]:
    """(is brown in the partner's store, carries the marker), both bool, for the nuclei that do not
    touch any other.
    """
    distance, _ = cKDTree(section.xy_um).query(section.xy_um, 2)
    xy = section.xy_um / store.mpp
    chosen = (distance[:, 1] > 12) & store.in_tissue(xy)
    column, row = np.floor(xy[chosen]).astype(int).T
    brown = split_stains(store.read((0, 0), store.size_px))[row, column, 1]
    return brown > 0.3, section.has_marker[chosen]
