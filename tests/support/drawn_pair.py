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
from scipy.spatial import cKDTree

from muse_pipeline.core.types import SlideInfo
from muse_pipeline.demo.field import smooth_noise
from muse_pipeline.inference.stains import DAB, split_stains
from muse_pipeline.registration.transform import Transform
from muse_pipeline.store.store import Store
from muse_pipeline.tissue.stain import TEXTBOOK

HAEMATOXYLIN, EOSIN, BROWN = (stain / np.linalg.norm(stain) for stain in (*TEXTBOOK, DAB))
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


def stain_he(amounts: np.ndarray, seed: int = 1) -> np.ndarray:
    """(h, w, 3) uint8: haematoxylin in all nuclei, eosin elsewhere."""
    blue = 0.95 * (amounts[..., 0] + amounts[..., 1]) + 0.05 * amounts[..., 2]
    return _photograph([(blue, HAEMATOXYLIN), (1.2 * amounts[..., 2], EOSIN)], seed)


def stain_ihc(amounts: np.ndarray, seed: int = 2) -> np.ndarray:
    """(h, w, 3) uint8: brown in nuclei with the marker, pale haematoxylin in other nuclei, little
    stain elsewhere.
    """
    blue = 0.6 * amounts[..., 0] + 0.25 * amounts[..., 1] + 0.25 * amounts[..., 2]
    return _photograph(
        [(blue, HAEMATOXYLIN), (1.3 * amounts[..., 1] + 0.03 * amounts[..., 2], BROWN)], seed
    )


def _photograph(stained: list[tuple[np.ndarray, np.ndarray]], seed: int) -> np.ndarray:
    """Pixels with camera grain, computed in strips because a section can be large."""
    grain = np.random.default_rng(seed).normal(0, 2, (512, 1024, 1))
    height, width = stained[0][0].shape
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, len(grain)):
        rows = slice(top, min(top + len(grain), height))
        light = paint(
            sum(amount[rows][..., None] * stain for amount, stain in stained) + 0.02
        ).astype(np.float32)
        noise = np.tile(grain, (1, -(-width // grain.shape[1]), 1))[: len(light), :width]
        pixels[rows] = np.clip(light + noise, 0, 255)
    return pixels


def warp_picture(
    picture: np.ndarray, mpp: float, warp: Warp, partner_mpp: float, outside: float
) -> np.ndarray:
    """A picture (h, w, C) at ``mpp`` warped onto the partner's glass at ``partner_mpp``, with
    ``outside`` around it.
    """
    size_um = np.array(picture.shape[1::-1]) * mpp
    width, height = np.ceil(warp.partner_size_um(size_um) / partner_mpp).astype(int)
    result = np.empty((height, width, picture.shape[2]), picture.dtype)
    side = 2048  # side of a part; OpenCV limits pictures to 32,767 px
    for top in range(0, height, side):
        for left in range(0, width, side):
            part = result[top : top + side, left : left + side]
            y, x = np.mgrid[top : top + part.shape[0], left : left + part.shape[1]] + 0.5
            at = warp.to_slide(np.stack([x, y], -1) * partner_mpp, size_um) / mpp - 0.5
            low = np.maximum(np.floor(at.min((0, 1))).astype(int) - 2, 0)
            high = np.ceil(at.max((0, 1))).astype(int) + 3
            under = picture[low[1] : max(high[1], 0), low[0] : max(high[0], 0)]
            if under.size:
                column, row = np.moveaxis((at - low).astype(np.float32), -1, 0)
                border = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": [outside] * 4}
                part[:] = cv2.remap(under, column, row, cv2.INTER_LINEAR, **border)
            else:
                part[:] = outside
    return result


def draw_partner(section: Section, warp: Warp, partner_mpp: float) -> np.ndarray:
    """(h, w, 3) uint8: the section with the second stain on its own glass."""
    return stain_ihc(warp_picture(section.amounts, section.mpp, warp, partner_mpp, 0.0))


def open_drawn(pixels: np.ndarray, mpp: float, slide_id: str) -> tuple[ArraySlide, SlideInfo]:
    """A picture as a slide with one level."""
    slide = ArraySlide([pixels])
    return slide, slide.info((mpp, mpp), slide_id)


def errors_um(transform: Transform, section: Section, warp: Warp, n: int = 5000) -> np.ndarray:
    """Errors of ``transform``, in um on the partner, at up to ``n`` points of the tissue."""
    partner_um = np.random.default_rng(0).uniform(0, 1, (20 * n, 2)) * warp.partner_size_um(
        section.size_um
    )
    slide_um = warp.to_slide(partner_um, section.size_um)
    at = np.floor(slide_um / section.mpp).astype(int)
    inside = ((at >= 0) & (at < section.amounts.shape[1::-1])).all(1)
    column, row = at[inside].T
    is_tissue = section.amounts[row, column, 2] > 0.05
    found = transform.to_partner(slide_um[inside][is_tissue][:n])
    return np.linalg.norm(found - partner_um[inside][is_tissue][:n], axis=1)


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
