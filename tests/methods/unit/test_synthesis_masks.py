"""Synthesised masks: exact instances, the same for the same seed, with the statistics of the
published examples.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import regionprops

from muse_pipeline.core.pictures import draw_page
from muse_pipeline.methods.unit import synthesis_masks
from muse_pipeline.methods.unit.synthesis_masks import (
    CONTOUR,
    EPITHELIAL,
    FILL_RANGE,
    KINDS,
    MIN_AREA_UM2,
    ROUGHNESS,
    STROMA,
    NucleusPlan,
    TissueSettings,
    contours,
    draw_rings,
    fills,
    paint,
    plan_nuclei,
    stylise,
    synthesise_mask,
)

# The six 256-px example masks of UNITPathSSL's framework figure at 0.25 um/px, measured without
# contour pixels and nuclei at the border: quantiles by measure, None if not measured; totals are
# the minimum and maximum over the six.
REFERENCE = {
    "Epithelial": {
        "area_um2": (9.5, 16.8, 33.4, 45.8, 83.8),
        "major_um": (None, 8.0, 9.0, 10.5, None),
        "minor_um": (None, 3.5, 4.5, 5.75, None),
        "ratio": (0.13, 0.42, 0.51, 0.70, 0.96),
    },
    "Stroma": {
        "area_um2": (8.4, 10.4, 19.4, 32.3, 64.3),
        "major_um": (None, 5.25, 7.25, 9.25, None),
        "minor_um": (None, 2.5, 3.75, 5.75, None),
        "ratio": (0.18, 0.39, 0.64, 0.76, 0.89),
    },
}
REFERENCE_TOTALS = {"nuclei": (14, 22), "epithelial": (0.0, 0.86), "covered": (0.055, 0.175)}
REFERENCE_PX, REFERENCE_MPP = 256, 0.25
QUANTILES = (5, 25, 50, 75, 95)

TISSUE = TissueSettings()
CROSS = ndimage.generate_binary_structure(2, 1)


@pytest.fixture(scope="module")
def masks():
    return [synthesise_mask(index, 0, REFERENCE_PX, REFERENCE_MPP, TISSUE) for index in range(150)]


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.9])
def test_instances_are_contiguous_connected_without_holes_and_large_enough(mpp):
    for index in range(6):
        mask = synthesise_mask(index, 1, 200, mpp, TISSUE)
        numbers = np.unique(mask.instances)
        assert numbers.tolist() == list(range(len(mask.kinds) + 1))
        for number in numbers[1:]:
            one = mask.instances == number
            assert ndimage.label(one, CROSS)[1] == 1
            assert (ndimage.binary_fill_holes(one) == one).all()
            assert one.sum() >= max(MIN_AREA_UM2 / mpp**2, 9)


def test_fills_end_inside_contours_and_no_instance_is_lost():
    instances = np.zeros((20, 20), np.int32)
    instances[2:10, 2:10], instances[2:10, 10:15], instances[15:17, 3:8] = 1, 2, 3
    filled = fills(instances)
    assert (filled[3:9, 3:9] == 1).all() and (filled == 1).sum() == 36
    assert (filled[3:9, 11:14] == 2).all() and (filled == 2).sum() == 18
    assert ((filled == 3) == (instances == 3)).all()


def test_quartiles_lie_between_the_5_and_95_percentiles_of_the_published_masks(masks):
    tables = {name: [] for name in KINDS}
    totals = []
    for mask in masks:
        inner = np.where(contours(mask.instances), 0, mask.instances)
        rim = np.concatenate([*mask.instances[[0, -1]], *mask.instances.T[[0, -1]]])
        for found in regionprops(inner):
            if found.label not in rim:
                axes = found.axis_major_length, found.axis_minor_length
                measures = found.area * REFERENCE_MPP, *axes, axes[1] / axes[0] / REFERENCE_MPP
                tables[KINDS[mask.kinds[found.label - 1]]].append(measures)
        share = (mask.kinds == EPITHELIAL).mean()
        totals.append((len(mask.kinds), share, (inner > 0).mean()))
    for kind, measures in REFERENCE.items():
        found = np.percentile(np.array(tables[kind]) * REFERENCE_MPP, QUANTILES, axis=0).T
        assert len(tables[kind]) > 500
        for (low, _, _, _, high), (_, first, middle, third, _), known in zip(
            found, found, measures.values(), strict=True
        ):
            assert known[1] <= middle <= known[3], kind
            if known[0] is not None:
                assert known[0] <= first and third <= known[4], kind
                assert known[0] / 2 < low and high < 2 * known[4]
    quartiles = np.percentile(totals, (25, 75), axis=0).T
    for (low, high), (least, most) in zip(quartiles, REFERENCE_TOTALS.values(), strict=True):
        assert least <= low and high <= most


def test_epithelial_nuclei_line_rims_and_stroma_stays_outside():
    """Neighbours on a rim are close, with long axes perpendicular to the line between them; stroma
    nuclei are apart.
    """
    rng = np.random.default_rng(0)
    plan = plan_nuclei(400.0, TISSUE, rng)
    rim, rest = plan.where(plan.kind == EPITHELIAL), plan.where(plan.kind == STROMA)
    distance, nearest = cKDTree(rim.xy).query(rim.xy, k=2)
    assert np.median(distance[:, 1]) < TISSUE.epithelial.major_um
    x, y = (rim.xy[nearest[:, 1]] - rim.xy).T
    across = abs(np.cos(rim.angle - np.arctan2(y, x)))
    assert np.median(across) < np.cos(np.radians(60))
    distance, _ = cKDTree(rest.xy).query(rest.xy, k=2)
    assert distance[:, 1].min() >= 0.8 * TISSUE.stroma.mean_diameter_um


def test_nuclei_are_as_large_as_planned(monkeypatch):
    """OpenCV paints every pixel that an outline touches; ``paint`` corrects for that."""
    n = 100
    rng = np.random.default_rng(0)
    row, column = np.divmod(np.arange(n), 10)
    axes = np.stack([rng.uniform(6, 12, n), rng.uniform(3, 6, n)], 1)
    centre = np.stack([column, row], 1) * 14.0 + 8.3
    plan = NucleusPlan(centre, axes, rng.uniform(0, np.pi, n), np.zeros(n, np.uint8))
    monkeypatch.setattr(synthesis_masks, "ROUGHNESS", (0.0, 0.0))
    mask = paint(plan, 296, 0.5, rng)
    found = regionprops(mask.instances)
    area = np.array([each.area for each in found]) / 4
    major, minor = (
        np.array([getattr(each, f"axis_{name}_length") for each in found]) / 2
        for name in ("major", "minor")
    )
    assert area.sum() == pytest.approx((np.pi / 4 * axes.prod(1)).sum(), rel=0.03)
    assert major.mean() == pytest.approx(axes[:, 0].mean(), rel=0.03)
    assert minor.mean() == pytest.approx(axes[:, 1].mean(), rel=0.03)


def test_a_magnification_scales_all_nuclei_of_a_mask_by_one_factor():
    def log_areas(tissue: TissueSettings) -> np.ndarray:
        masks = [synthesise_mask(index, 0, 160, 0.5, tissue) for index in range(30)]
        return np.log([np.median(np.bincount(mask.instances.ravel())[1:]) for mask in masks])

    plain, scaled = log_areas(TISSUE), log_areas(replace(TISSUE, magnification=1.5))
    assert scaled.mean() == pytest.approx(plain.mean(), abs=0.2)
    assert scaled.std() > 1.5 * plain.std()


def test_the_stroma_of_masks_is_thinned_by_different_fractions(monkeypatch):
    monkeypatch.setattr(synthesis_masks, "GLANDS_PER_MM2", 0)

    def stroma(tissue: TissueSettings) -> np.ndarray:
        masks = [synthesise_mask(index, 0, 160, 0.5, tissue) for index in range(60)]
        return np.array([len(mask.kinds) for mask in masks])

    plain, thinned = stroma(TISSUE), stroma(replace(TISSUE, sparsest=0.1))
    assert thinned.mean() == pytest.approx(0.55 * plain.mean(), rel=0.15)
    assert thinned.min() < 0.3 * plain.min() and thinned.max() > 0.8 * plain.mean()


def test_a_nucleus_that_loses_too_much_or_encloses_another_is_left_out():
    def painted(*nuclei):
        xy, axes = (np.array([nucleus[i] for nucleus in nuclei], float) for i in (0, 1))
        plan = NucleusPlan(xy, axes, np.zeros(len(xy)), np.arange(len(xy)) % len(KINDS))
        return paint(plan, 128, 0.25, np.random.default_rng(0)).kinds.tolist()

    assert painted(((10, 16), (10, 8)), ((19, 16), (10, 8))) == [0, 1]
    assert painted(((10, 16), (10, 8)), ((13, 16), (10, 8))) == [0]
    assert painted(((16, 16), (4.5, 4.5)), ((16, 16), (20, 20))) == [0]
    assert painted(((16, 16), (20, 20)), ((16, 16), (4.5, 4.5))) == [0]


def test_the_colours_of_a_mask():
    mask = synthesise_mask(1, 0, 128, 0.5, TISSUE)
    picture = stylise(mask, 0.5, np.random.default_rng(0))
    edge = contours(mask.instances)
    assert ((picture[..., 0] == CONTOUR) == edge).all()
    for kind, channel in ((STROMA, 1), (EPITHELIAL, 2)):
        filled = np.isin(mask.instances, 1 + np.flatnonzero(mask.kinds == kind)) & ~edge
        assert ((picture[..., channel] > 0) == filled).all()
        assert (
            picture[filled][:, channel].min() >= FILL_RANGE[0]
            and picture[filled][:, channel].max() <= FILL_RANGE[1]
        )
        assert picture[filled][:, channel].std() > 10
    page = draw_page([picture] * 5, 3)
    assert (
        page.shape == (2 * (128 + 6) + 6, 3 * (128 + 6) + 6, 3)
        and (page[-100:, -100:] == 255).all()
    )


def test_outlines_are_rough_and_of_the_planned_size():
    plan = NucleusPlan(
        np.full((200, 2), 50.0),
        np.tile([12.0, 8.0], (200, 1)),
        np.zeros(200),
        np.zeros(200, np.uint8),
    )
    rings = draw_rings(plan, 0.25, np.random.default_rng(0)) * 0.25
    offset = (rings + 0.125 - 50) / (np.array([12.0, 8.0]) - 0.3) * 2
    radius = np.hypot(*np.moveaxis(offset, -1, 0))
    assert radius.mean() == pytest.approx(1, abs=0.01)
    assert ROUGHNESS[0] < radius.std() < ROUGHNESS[1]
