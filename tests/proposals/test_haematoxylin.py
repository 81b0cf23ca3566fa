"""Peaks of haematoxylin: positions and sizes of synthetic discs, and no peaks in ink."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from test_haematoxylin_density import paint

from muse_pipeline.proposals.base import SlideSample
from muse_pipeline.proposals.haematoxylin import HaematoxylinFinder, HaematoxylinSettings
from muse_pipeline.proposals.otsu_mask import blend_stains

SIDE_UM = 200.0


def draw_discs(
    mpp: float, radius_um: float, twin_um: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and centres (N, 2) px of blurred discs of haematoxylin on eosin, with twins
    ``twin_um`` to their right.
    """
    side, fine = round(SIDE_UM / mpp), 4
    pitch = 2 * radius_um + 9 + (twin_um or 0)
    axis = np.arange(pitch, SIDE_UM - pitch, pitch)
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2) + rng.uniform(
        -1, 1, (len(axis) ** 2, 2)
    )
    if twin_um:
        centres = np.concatenate([centres, centres + np.array([twin_um, 0])])
    canvas = np.zeros((side * fine, side * fine), np.float32)
    for x, y in centres / mpp * fine:
        middle = (round((x - 0.5) * 256), round((y - 0.5) * 256))
        cv2.circle(canvas, middle, round(radius_um / mpp * fine * 256), 1.0, -1, cv2.LINE_8, 8)
    nuclei = cv2.GaussianBlur(
        cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA), (0, 0), 0.3 / mpp
    )
    amounts = np.stack([0.8 * nuclei, 0.35 * (1 - nuclei)], -1)
    noise = rng.normal(0, 0.02, (side, side, 1))
    return paint(np.maximum(amounts @ blend_stains(None) + noise, 0)), centres / mpp


def find(pixels: np.ndarray, mpp: float, **settings):
    settings = HaematoxylinSettings(**settings)
    return HaematoxylinFinder.fit(SlideSample(mpp, (pixels,)), settings).find(pixels)


@pytest.mark.parametrize("mpp", [0.25, 0.5])
@pytest.mark.parametrize("radius_um", [3.0, 4.5, 6.0])
def test_discs_come_back_where_and_as_large_as_they_were_drawn(mpp, radius_um):
    pixels, centres = draw_discs(mpp, radius_um)
    nuclei = find(pixels, mpp)
    assert len(nuclei) == len(centres)
    distance = np.linalg.norm(nuclei.xy[:, None] - centres[None], axis=-1)
    nearest = distance.argmin(1)
    assert len(set(nearest)) == len(centres)
    assert distance.min(1).max() * mpp < 0.5
    assert nuclei.rays.mean(1) == pytest.approx(radius_um, rel=0.15)
    assert ((nuclei.score > 0) & (nuclei.score <= 1)).all()
    assert (np.diff(nuclei.score) <= 0).all()


def test_neighbours_keep_to_their_own_side():
    pixels, centres = draw_discs(0.5, 4.0, twin_um=7.5)
    nuclei = find(pixels, 0.5)
    assert len(nuclei) == len(centres)
    assert nuclei.rays.max() < 6.5
    assert nuclei.rays.mean() == pytest.approx(4.0, rel=0.15)


def test_nothing_is_found_on_glass_in_eosin_or_in_ink():
    side = 400
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.03, (side, side, 3))
    eosin = paint(np.maximum(0.5 * blend_stains(None)[1] + noise, 0))
    glass = paint(np.maximum(0.02 + 0.3 * noise, 0))
    assert len(find(eosin, 0.5)) == 0
    assert len(find(glass, 0.5)) == 0
    discs, _ = draw_discs(0.5, 4.0)
    for ink in ((40, 150, 60), (40, 100, 190), (20, 20, 20)):
        covered = discs.copy()
        covered[:200] = ink
        finder = HaematoxylinFinder.fit(SlideSample(0.5, (discs,)), HaematoxylinSettings())
        found = finder.find(covered)
        assert len(found) and (found.xy[:, 1] > 195).all()
