import cv2
import numpy as np
import pytest

from experiments.common.crops import overlap_labels
from muse_pipeline.evaluation.detection import jaccard_areas, jaccard_ratio
from muse_pipeline.proposals.otsu_mask import cut_mask, fit_otsu, otsu_threshold
from muse_pipeline.tissue.stain import TEXTBOOK

MPP = 0.25


def draw_discs(centres, radius_px, size=160):
    y, x = np.mgrid[:size, :size] + 0.5
    return np.any([np.hypot(x - cx, y - cy) < radius_px for cx, cy in centres], axis=0)


def stain(haematoxylin, eosin):
    """(h, w, 3) uint8 with the given optical densities of the textbook stains."""
    density = np.stack([haematoxylin, eosin], -1) @ (
        TEXTBOOK / np.linalg.norm(TEXTBOOK, axis=1, keepdims=True)
    )
    return np.clip(np.round(256 * np.exp(-density) - 1), 0, 255).astype(np.uint8)


def read_nucls(shared_data, name):
    image = cv2.imread(str(shared_data / f"nucls-cc0/images/{name}.png"))[..., ::-1]
    mask = cv2.imread(
        str(shared_data / f"nucls-cc0/instances/{name}.png"), cv2.IMREAD_UNCHANGED
    ).astype(np.int32)
    return np.ascontiguousarray(image), mask


def test_the_threshold_parts_two_groups():
    values = np.concatenate([np.full(900, 0.1), np.full(100, 0.9)])
    assert otsu_threshold(values) == pytest.approx(0.5, abs=0.01)
    assert otsu_threshold(np.full(50, 0.3)) == np.inf  # on glass alone, no pixel is above it


def test_drawn_nuclei_come_back_without_speck_and_hole():
    nuclei = draw_discs([(40, 40), (110, 100)], 12)
    drawn = nuclei ^ draw_discs([(110, 100)], 3) ^ draw_discs([(20, 130)], 3)
    pixels = stain(np.where(drawn, 1.0, 0.1), np.full(drawn.shape, 0.4))
    mask = fit_otsu([pixels], MPP, TEXTBOOK)(pixels)
    assert (mask & nuclei).sum() / (mask | nuclei).sum() > 0.95


def test_nuclei_that_touch_part_at_their_neck_and_lose_no_pixel():
    centres = [(50, 60), (72, 60), (110, 110)]
    mask = draw_discs(centres, 12)
    labels = cut_mask(mask, mask.astype(np.float32), MPP)
    assert labels.dtype == np.int32 and labels.max() == 3
    assert np.array_equal(labels > 0, mask)
    assert len({labels[y, x] for x, y in centres}) == 3
    assert (labels[:, :60] == labels[60, 50]).sum() > 0.95 * draw_discs(centres[:1], 12).sum()


def test_nothing_in_nothing_out():
    assert not cut_mask(np.zeros((30, 40), bool), np.zeros((30, 40), np.float32), MPP).any()


def test_the_fit_is_drawn_by_its_seed_and_serves_other_pictures(shared_data):
    pictures = [read_nucls(shared_data, f"train_{number}")[0] for number in (1, 2, 3)]
    fitted = fit_otsu(pictures, MPP)
    assert fitted.threshold == fit_otsu(pictures, MPP).threshold
    assert np.array_equal(fitted(pictures[0]), fitted(pictures[0].copy()))


def test_cut_masks_beat_whole_ones_on_real_nuclei(shared_data):
    whole, cut, hits, n_pixels = [], [], 0, 0
    for number in (1, 4, 6):
        pixels, true = read_nucls(shared_data, f"train_{number}")
        otsu = fit_otsu([pixels], MPP)
        mask = otsu(pixels)
        hits, n_pixels = (
            hits + 2 * (mask & (true > 0)).sum(),
            n_pixels + mask.sum() + (true > 0).sum(),
        )
        components = cv2.connectedComponents(mask.astype(np.uint8))[1]
        for scores, labels in ((whole, components), (cut, otsu.instances(pixels))):
            scores.append(jaccard_ratio(jaccard_areas(overlap_labels(labels, true))))
    assert hits / n_pixels > 0.75
    assert np.mean(cut) > np.mean(whole) + 0.05
