"""Guards against real artefacts and against real tissue that was blurred: a reason, and few false
nuclei.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from test_haematoxylin import draw_discs, find

from muse_pipeline.proposals.base import (
    BLURRED,
    BROWN,
    GLASS,
    INK,
    SlideSample,
    judge_sample,
    judge_window,
)

TILES = Path(__file__).parents[3] / "shared/data/artefact-tiles"
MPP = 0.5  # the tiles do not state their mpp; nuclei are about as large as at 0.5


def read_tile(name: str) -> np.ndarray:
    path = TILES / f"{name}.png"
    if not path.is_file():
        pytest.skip(f"the tile {name} is not here")
    return np.ascontiguousarray(cv2.imread(str(path))[:512, :512, ::-1])


@pytest.mark.parametrize("name, reason", [("no-tissue", GLASS), ("no-tissue-green-pen", INK)])
def test_what_holds_no_tissue_is_named(name, reason):
    assert judge_window(read_tile(name), MPP) == reason


@pytest.mark.parametrize(
    "name", ["high-nuclei-score-level0", "low-nuclei-score-level0", "tcga-lung-rgb"]
)
def test_good_tissue_passes_and_out_of_focus_does_not(name):
    tile = read_tile(name)
    assert judge_window(tile, MPP) == ""
    blurred = cv2.GaussianBlur(tile, (0, 0), 2.0 / MPP)
    assert judge_window(blurred, MPP) == BLURRED
    for where in (slice(0, 40), slice(300, None)):  # windows are white outside the slide
        for picture, reason in ((tile, ""), (blurred, BLURRED)):
            at_the_border = picture.copy()
            at_the_border[where] = 255
            assert judge_window(at_the_border, MPP) == reason
    assert judge_sample(SlideSample(MPP, (blurred, blurred, tile))) == [
        "most of the tissue is skipped (out of focus); nothing is proposed there"
    ]


@pytest.mark.parametrize(
    "name, at_most",
    [
        ("almost-white-2", 5),
        ("no-tissue", 0),
        ("no-tissue-green-pen", 0),
        ("wsi-blue-pen", 5),
        ("very-low-nuclei-score-level0", 10),  # only eosin
        ("low-nuclei-score-level0", 60),  # fat tissue with about 40 nuclei
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
    assert any(
        "brown" in warning for warning in judge_sample(SlideSample(MPP, (brown,), is_ihc=True))
    )
    assert judge_sample(SlideSample(MPP, (pixels,))) == []
    found = find(brown, MPP)
    assert (found.xy[:, 0] > pixels.shape[1] / 2 - 8).all()
    assert len(found) == pytest.approx(np.count_nonzero(centres[:, 0] > pixels.shape[1] / 2), abs=4)
    assert judge_window(np.full((256, 256, 3), (150, 100, 50), np.uint8), MPP) == BROWN


def test_a_slide_without_tissue_is_named():
    assert judge_sample(SlideSample(MPP, ())) == ["no tissue to propose nuclei in"]
