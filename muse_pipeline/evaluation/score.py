"""Compare the nuclei of a slide with its truth: the counts from which the scores of a cohort are
computed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import shapely
from numpy import ndarray
from scipy.spatial import cKDTree

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.errors import LabelError, NucleiError, StoreError
from muse_pipeline.core.files import read_json
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.evaluation.detection import (
    RADIUS_UM,
    Matches,
    PanopticCounts,
    count_panoptic,
    jaccard_areas,
    match_nuclei,
    overlap_polygons,
)
from muse_pipeline.evaluation.reliability import CalibrationCounts, count_calibration
from muse_pipeline.evaluation.truth import ClassMap, SlidePair, Truth, read_region, read_truth
from muse_pipeline.nuclei.parquet import (
    ROW_GROUP,
    iterate_rows,
    parse_outlines,
    read_nuclei,
    read_provenance,
)
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.mask import TissueMask

FAR_UM = 100.0  # in tissue, nearly every nucleus has a neighbour within this distance


@dataclass(frozen=True)
class Rules:
    """Rules for scoring."""

    radius_um: float = RADIUS_UM  # largest distance of a match
    # minimum score of the detected nuclei that are used; None to use all in the table
    min_score: float | None = None
    # "qupath" if positions in GeoJSON start at the corner of the scanner's bounds, otherwise
    # "openslide"
    frame: str = "qupath"
    class_map: ClassMap | None = None  # map of the classes of the truth, as in ``truth.read_truth``


@dataclass(frozen=True, eq=False, kw_only=True)
class SlideScore:
    """Counts of one slide."""

    pair: SlidePair  # files and patient of the slide
    run: Provenance  # provenance of the detected nuclei
    n_found: int  # number of nuclei in the table with at least the minimum score
    n_true: int  # number of true nuclei that count: on the slide and in the region
    n_unknown: int  # number of these true nuclei without a class
    matches: Matches  # matched nuclei
    # counts, by class probability, of found nuclei whose true class is known; None without classes
    calibration: CalibrationCounts | None
    panoptic: PanopticCounts | None  # sums for PQ, or None if the truth has no outlines
    # (2,) areas of intersection and of union for AJI, or None if the truth has no outlines
    jaccard: ndarray | None
    region_mm2: float | None  # area of the annotated region, or None if the whole slide counts
    outside_region: int  # number of true nuclei outside this region, which are ignored
    # (n, 2) positions of true nuclei outside the slide, which are ignored
    outside_slide: ndarray
    # number of true nuclei that count and lie in the searched tissue; None if unknown
    true_in_tissue: int | None
    # number of found nuclei that are judged and lie farther than ``FAR_UM`` from every true nucleus
    found_far: int
    names_classes: bool  # True if any nucleus of the truth, even an ignored one, has a class


def score_slide(pair: SlidePair, rules: Rules) -> SlideScore:
    """Read and score one slide."""
    provenance = read_provenance(pair.nuclei)
    classes = tuple(provenance.class_names)
    mpp = provenance.slide_mpp
    threshold = provenance.threshold
    size_px = _read_size(pair.nuclei)
    offset_px = qupath_offset_px(provenance.bounds, rules.frame)
    if rules.min_score is not None and threshold is not None and rules.min_score < threshold:
        raise NucleiError(
            f"{pair.nuclei}: contains only nuclei with a score of {threshold:g} or more, above"
            f" --score {rules.min_score:g}; raise --score, or export the model with a lower"
            " threshold and detect again"
        )
    truth = read_truth(pair.truth, classes, mpp, offset_px, size_px, rules.class_map)
    region = read_region(pair.region, size_px, offset_px) if pair.region else truth.region
    on_slide = (
        (truth.nuclei.xy >= 0) & (truth.nuclei.xy <= (np.inf if size_px is None else size_px))
    ).all(1)
    detected = read_nuclei(pair.nuclei)
    _require_order(pair.truth, truth.nuclei.xy, detected.xy, mpp, rules.radius_um)
    _require_on_slide(pair, truth.nuclei.xy, on_slide, region, size_px)
    in_region = on_slide & _inside(region, truth.nuclei.xy)
    counted = truth[in_region]

    kept = (rules.min_score is None) | (detected.score >= (rules.min_score or 0))
    detected = detected[kept]
    judged = _inside(region, detected.xy)
    match = partial(match_nuclei, detected, counted.nuclei, len(classes), mpp, rules.radius_um)
    matches = match(judged)
    if counted.accepted is not None:
        _settle_classes(counted, matches)
        matches = match(judged)
    panoptic, jaccard = _score_outlines(pair.nuclei, kept, counted, matches, len(classes), mpp)
    # Infinite beyond FAR_UM, and if there are no true nuclei.
    nearest_um, _ = cKDTree(counted.nuclei.xy * mpp).query(
        detected.xy * mpp, distance_upper_bound=FAR_UM
    )
    return SlideScore(
        pair=pair,
        run=provenance,
        n_found=len(detected),
        n_true=len(counted.nuclei),
        n_unknown=int((counted.nuclei.label < 0).sum()),
        matches=matches,
        calibration=_calibrate(detected, matches),
        panoptic=panoptic,
        jaccard=jaccard,
        region_mm2=None if region is None else region.area * mpp[0] * mpp[1] / 1e6,
        outside_region=int((on_slide & ~in_region).sum()),
        outside_slide=truth.nuclei.xy[~on_slide],
        true_in_tissue=_count_in_tissue(
            SlideFiles(pair.nuclei.parent).mask, counted.nuclei.xy, mpp
        ),
        found_far=int((judged & np.isinf(nearest_um)).sum()),
        names_classes=bool((truth.nuclei.label >= 0).any()),
    )


def _settle_classes(truth: Truth, matches: Matches) -> None:
    """Give true nuclei with several accepted classes that of their match, if it is one of them."""
    taken = matches.taken[0]
    paired = np.flatnonzero((taken >= 0) & (matches.predicted_label >= 0))
    right = paired[truth.accepted[taken[paired], matches.predicted_label[paired]]]
    truth.nuclei.label[taken[right]] = matches.predicted_label[right]


def _require_on_slide(
    pair: SlidePair,
    xy: ndarray,
    on_slide: ndarray,
    region: shapely.Geometry | None,
    size_px: tuple | None,
) -> None:
    """Require that a true nucleus, and some of the region, are on the slide."""
    if len(on_slide) and not on_slide.any():
        x, y = xy[0]
        raise LabelError(
            f"{pair.truth}: no true nucleus lies on slide '{pair.slide_id}' (the first at x"
            f" {x:.0f}, y {y:.0f}); give the truth of this slide, in its level-0 pixels, x before y"
        )
    if (
        region is not None
        and size_px is not None
        and not region.intersects(shapely.box(0, 0, *size_px))
    ):
        where = pair.region or pair.truth
        raise LabelError(
            f"{where}: its region is outside slide '{pair.slide_id}'; give annotations of this"
            " slide"
        )


# minimum number of true nuclei; minimum fraction near found ones (by chance up to 0.25)
LEAST_TRUE, MOST = 5, 0.5


def _require_order(
    path: Path, true_xy: ndarray, found_xy: ndarray, mpp: tuple, radius_um: float
) -> None:
    """Reject truth whose x and y seem to be exchanged.

    At least half of the nuclei, and over twice as many as before, must lie near detected nuclei
    after an exchange.
    """
    true_xy = true_xy[np.isfinite(true_xy).all(1)]
    if not len(found_xy) or len(true_xy) < LEAST_TRUE:
        return
    tree = cKDTree(found_xy * mpp)
    given, exchanged = (
        np.isfinite(tree.query(xy * mpp, distance_upper_bound=radius_um)[0]).mean()
        for xy in (true_xy, true_xy[:, ::-1])
    )
    if exchanged >= MOST and exchanged > 2 * given:
        raise LabelError(
            f"{path}: {given:.0%} of its nuclei match found ones as they are, but {exchanged:.0%}"
            " with x and y exchanged; exchange them"
        )


def _read_size(nuclei: Path) -> tuple[int, int] | None:
    """The (width, height) of the slide in px; None without a ``slide.json`` next to the table."""
    info = SlideFiles(nuclei.parent).info
    try:
        return tuple(read_json(info)["size_px"]) if info.is_file() else None
    except (ValueError, KeyError, TypeError) as error:
        raise NucleiError(
            f"{info}: has no size of the slide; write it again with `muse step inspect`"
        ) from error


def _inside(region: shapely.Geometry | None, xy: ndarray) -> ndarray:
    if region is None:
        return np.ones(len(xy), bool)
    shapely.prepare(region)
    return shapely.contains_xy(region, xy[:, 0], xy[:, 1])


def _count_in_tissue(tissue: Path, xy: ndarray, mpp: tuple[float, float]) -> int | None:
    if tissue.is_file():
        with suppress(StoreError):  # only a remark depends on it
            return int(TissueMask.load(tissue).kept.contains(xy, mpp).sum())
    return None


def _calibrate(nuclei: Nuclei, matches: Matches) -> CalibrationCounts | None:
    """Calibration counts over the matched nuclei; None for a model of one class."""
    if nuclei.prob.shape[1] < 2:
        return None
    taken = matches.taken[0]
    paired = np.flatnonzero(taken >= 0)
    true_label = matches.true_label[taken[paired]]
    has_class = true_label >= 0
    return count_calibration(nuclei.prob[paired[has_class]], true_label[has_class])


def _score_outlines(
    nuclei: Path,
    kept: ndarray,
    truth: Truth,
    matches: Matches,
    n_classes: int,
    mpp: tuple[float, float],
) -> tuple[PanopticCounts | None, ndarray | None]:
    if truth.outlines is None:
        return None, None
    columns = [
        table["geometry"].to_numpy(zero_copy_only=False)
        for table in iterate_rows(nuclei, ROW_GROUP, ["geometry"])
    ]
    outlines = parse_outlines(np.concatenate([np.zeros(0, object), *columns]))[kept]
    overlaps = overlap_polygons(outlines, truth.outlines, mpp)
    labels = matches.predicted_label, matches.true_label
    return count_panoptic(overlaps, *labels, n_classes, matches.judged), jaccard_areas(
        overlaps, matches.judged
    )
