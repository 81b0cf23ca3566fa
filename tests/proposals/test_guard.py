"""Guards on real artefacts, and on real tissue that was spoilt: a reason in words, and no crowd of false nuclei."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn import paint

from muse_pipeline.proposals.base import (
    BLURRED,
    BROWN,
    GLASS,
    INK,
    SlideSample,
    judge_slide,
    judge_window,
    name_guarded,
)
from muse_pipeline.proposals.otsu import OtsuFinder, OtsuSettings, blend_stains

SIDE_UM = 200.0
TILES = Path(__file__).parents[3] / "shared/data/artefact-tiles"
MPP = 0.5  # the tiles state none; their nuclei are about as large as at this


def draw_discs(mpp: float, radius_um: float, twin_um: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Haematoxylin discs on eosin, blurred as by a lens, each with a twin at ``twin_um``: pixels, centres (N, 2) px."""
    side, fine = round(SIDE_UM / mpp), 4
    pitch = 2 * radius_um + 9 + (twin_um or 0)
    axis = np.arange(pitch, SIDE_UM - pitch, pitch)
    rng = np.random.default_rng(0)
    centres = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2) + rng.uniform(-1, 1, (len(axis) ** 2, 2))
    if twin_um:
        centres = np.concatenate([centres, centres + np.array([twin_um, 0])])
    canvas = np.zeros((side * fine, side * fine), np.float32)
    for x, y in centres / mpp * fine:
        middle = (round((x - 0.5) * 256), round((y - 0.5) * 256))
        cv2.circle(canvas, middle, round(radius_um / mpp * fine * 256), 1.0, -1, cv2.LINE_8, 8)
    nuclei = cv2.GaussianBlur(cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA), (0, 0), 0.3 / mpp)
    amounts = np.stack([0.8 * nuclei, 0.35 * (1 - nuclei)], -1)
    noise = rng.normal(0, 0.02, (side, side, 1))
    return paint(np.maximum(amounts @ blend_stains(None) + noise, 0)), centres / mpp


def find(pixels: np.ndarray, mpp: float):
    return OtsuFinder.fit(SlideSample(mpp, (pixels,)), OtsuSettings()).find(pixels)


def read_tile(name: str) -> np.ndarray:
    path = TILES / f"{name}.png"
    if not path.is_file():
        pytest.skip(f"the tile {name} is not here")
    return np.ascontiguousarray(cv2.imread(str(path))[:512, :512, ::-1])


@pytest.mark.parametrize(("name", "reason"), [("no-tissue", GLASS), ("no-tissue-green-pen", INK)])
def test_what_holds_no_tissue_is_named(name, reason):
    assert judge_window(read_tile(name), MPP) == reason


@pytest.mark.parametrize("name", ["high-nuclei-score-level0", "low-nuclei-score-level0", "tcga-lung-rgb"])
def test_good_tissue_passes_and_out_of_focus_does_not(name):
    tile = read_tile(name)
    assert judge_window(tile, MPP) == ""
    blurred = cv2.GaussianBlur(tile, (0, 0), 2.0 / MPP)
    assert judge_window(blurred, MPP) == BLURRED
    for where in (slice(0, 40), slice(300, None)):  # outside the slide a window is white
        for picture, reason in ((tile, ""), (blurred, BLURRED)):
            at_the_border = picture.copy()
            at_the_border[where] = 255
            assert judge_window(at_the_border, MPP) == reason
    assert judge_slide(SlideSample(MPP, (blurred, blurred, tile))) == [
        "most of the tissue is out of focus; nothing is proposed there"
    ]


@pytest.mark.parametrize(
    ("name", "at_most"),
    [
        ("almost-white-2", 5),
        ("no-tissue", 0),
        ("no-tissue-green-pen", 0),
        ("wsi-blue-pen", 5),
        ("very-low-nuclei-score-level0", 10),  # eosin alone
        ("low-nuclei-score-level0", 60),  # fat; about 40 nuclei are there
    ],
)
def test_artefacts_hold_no_crowd_of_nuclei(name, at_most):
    assert len(find(read_tile(name), MPP)) <= at_most


def test_brown_is_named_and_left_out():
    pixels, centres = draw_discs(MPP, 4.0)
    density = -np.log((pixels.astype(float) + 1) / 256)
    nuclear = density[..., 0] > 0.3
    half = nuclear & (np.arange(pixels.shape[1]) < pixels.shape[1] / 2)
    density[half] = (0.35, 0.6, 1.0)  # DAB
    brown = np.round(256 * np.exp(-density) - 1).clip(0, 255).astype(np.uint8)
    assert any("brown" in warning for warning in judge_slide(SlideSample(MPP, (brown,))))
    assert judge_slide(SlideSample(MPP, (pixels,))) == []
    found = find(brown, MPP)
    in_brown = found.xy[:, 0] < pixels.shape[1] / 2 - 8
    assert np.count_nonzero(in_brown) <= 0.1 * np.count_nonzero(centres[:, 0] < pixels.shape[1] / 2)
    assert len(found) == pytest.approx(np.count_nonzero(centres[:, 0] > pixels.shape[1] / 2), abs=4)
    assert judge_window(np.full((256, 256, 3), (150, 100, 50), np.uint8), MPP) == BROWN


def test_windows_without_a_search_are_counted():
    assert name_guarded({GLASS: [1], INK: [2, 5]}, 9) == ["2 of 9 windows are ink: nothing was sought there"]
    assert judge_slide(SlideSample(MPP, ())) == ["no tissue to propose nuclei in"]
