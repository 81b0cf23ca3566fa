"""Compare the nuclei of a slide with its truth: the counts from which the scores of a cohort are computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from scipy.spatial import cKDTree

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.errors import LabelError, NucleiError, StoreError
from muse_pipeline.core.files import read_json
from muse_pipeline.evaluation.detection import RADIUS_UM, Matches, match_nuclei
from muse_pipeline.evaluation.overlaps import PanopticCounts, count_panoptic, jaccard_areas, overlap_polygons
from muse_pipeline.evaluation.reliability import CalibrationCounts, count_calibration
from muse_pipeline.evaluation.slide_pairs import SlidePair
from muse_pipeline.evaluation.truth import ClassMap, Truth, read_region, read_truth
from muse_pipeline.nuclei.parquet import ROW_GROUP, iterate_rows, parse_outlines, read_nuclei, read_provenance
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.mask import TissueMask

FAR_UM = 100.0  # in tissue, nearly every nucleus has a neighbour within this distance


@dataclass(frozen=True)
class Rules:
    """Rules for scoring.

    Attributes:
        radius_um: largest distance of a match.
        min_score: minimum score of the detected nuclei that are used; None to use all in the table.
        frame: "qupath" if positions in GeoJSON start at the corner of the scanner's bounds, otherwise "openslide".
        class_map: map of the classes of the truth, as in ``truth.read_truth``.
    """

    radius_um: float = RADIUS_UM
    min_score: float | None = None
    frame: str = "qupath"
    class_map: ClassMap | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class SlideScore:
    """Counts of one slide.

    Attributes:
        slide_id: id of the slide.
        patient: patient of the slide.
        model: name of the model that found the nuclei.
        classes: class names of the model.
        mpp: (x, y) um per level-0 pixel.
        threshold: score threshold of the model, if its card has one.
        n_found: number of nuclei in the table with at least the minimum score.
        n_left_out: number of nuclei in the table, of any score, that the totals of a report leave out.
        n_true: number of true nuclei that count: on the slide and in the region.
        n_unknown: number of these true nuclei without a class.
        matches: matched nuclei.
        calibration: counts, by class probability, of found nuclei whose true class is known; None without classes.
        panoptic: sums for PQ, or None if the truth has no outlines.
        jaccard: (2,) areas of intersection and of union for AJI, or None if the truth has no outlines.
        region_mm2: area of the annotated region, or None if the whole slide counts.
        outside_region: number of true nuclei outside this region, which are ignored.
        outside_slide: (n, 2) positions of true nuclei outside the slide, which are ignored.
        checked_against_slide: True if the size of the slide was known.
        true_in_tissue: number of true nuclei that count and lie in the searched tissue; None if unknown.
        roi: name of the file of the region in which nuclei were searched for; None for the whole slide.
        found_far: number of found nuclei that are judged and lie farther than ``FAR_UM`` from every true nucleus.
        names_classes: True if any nucleus of the truth, even an ignored one, has a class.
    """

    slide_id: str
    patient: str
    model: str
    classes: tuple[str, ...]
    mpp: tuple[float, float]
    threshold: float | None
    n_found: int
    n_left_out: int
    n_true: int
    n_unknown: int
    matches: Matches
    calibration: CalibrationCounts | None
    panoptic: PanopticCounts | None
    jaccard: np.ndarray | None
    region_mm2: float | None
    outside_region: int
    outside_slide: np.ndarray
    checked_against_slide: bool
    true_in_tissue: int | None
    roi: str | None
    found_far: int
    names_classes: bool


def score_slide(pair: SlidePair, rules: Rules) -> SlideScore:
    """Read and score one slide."""
    provenance = read_provenance(pair.nuclei)
    classes, mpp, threshold = tuple(provenance.class_names), provenance.slide_mpp, provenance.threshold
    size_px, offset_px = _read_size(pair.nuclei), qupath_offset_px(provenance.bounds, rules.frame)
    if rules.min_score is not None and threshold is not None and rules.min_score < threshold:
        raise NucleiError(
            f"{pair.nuclei}: contains only nuclei with a score of {threshold:g} or more, above --score "
            f"{rules.min_score:g}; raise --score, or export the model with a lower threshold and detect again"
        )
    truth = read_truth(pair.truth, classes, mpp, offset_px, size_px, rules.class_map)
    region = read_region(pair.region, size_px, offset_px) if pair.region else truth.region
    on_slide = ((truth.nuclei.xy >= 0) & (truth.nuclei.xy <= (np.inf if size_px is None else size_px))).all(1)
    found = read_nuclei(pair.nuclei)
    _require_order(pair.truth, truth.nuclei.xy, found.xy, mpp, rules.radius_um)
    _require_on_slide(pair, truth.nuclei.xy, on_slide, region, size_px)
    in_region = on_slide & _inside(region, truth.nuclei.xy)
    counted = truth[in_region]

    kept = np.ones(len(found), bool) if rules.min_score is None else found.score >= rules.min_score
    found = found[kept]
    judged = _inside(region, found.xy)
    matches = match_nuclei(found, counted.nuclei, len(classes), mpp, rules.radius_um, judged)
    if counted.accepted is not None:
        # This may change the labels of true nuclei, so classes are matched once more.
        _choose_accepted(counted, matches)
        matches = match_nuclei(found, counted.nuclei, len(classes), mpp, rules.radius_um, judged)
    panoptic, jaccard = _score_outlines(pair.nuclei, kept, counted, matches, len(classes), mpp)
    # Infinite beyond FAR_UM, and if there are no true nuclei.
    nearest_um, _ = cKDTree(counted.nuclei.xy * mpp).query(found.xy * mpp, distance_upper_bound=FAR_UM)
    return SlideScore(
        slide_id=pair.slide_id,
        patient=pair.patient,
        model=provenance.model.name,
        classes=classes,
        mpp=mpp,
        threshold=threshold,
        n_found=len(found),
        n_left_out=provenance.n_left_out,
        n_true=len(counted.nuclei),
        n_unknown=int((counted.nuclei.label < 0).sum()),
        matches=matches,
        calibration=_calibrate(found, matches),
        panoptic=panoptic,
        jaccard=jaccard,
        region_mm2=None if region is None else region.area * mpp[0] * mpp[1] / 1e6,
        outside_region=int((on_slide & ~in_region).sum()),
        outside_slide=truth.nuclei.xy[~on_slide],
        checked_against_slide=size_px is not None,
        true_in_tissue=_count_in_tissue(SlideFiles(pair.nuclei.parent).mask, counted.nuclei.xy, mpp),
        roi=provenance.roi.name if provenance.roi else None,
        found_far=int((judged & np.isinf(nearest_um)).sum()),
        names_classes=bool((truth.nuclei.label >= 0).any()),
    )


def _require_on_slide(
    pair: SlidePair,
    xy: np.ndarray,
    on_slide: np.ndarray,
    region: shapely.Geometry | None,
    size_px: tuple[int, int] | None,
) -> None:
    """Require that a true nucleus, and some of the region, are on the slide."""
    if len(on_slide) and not on_slide.any():
        x, y = xy[0]
        raise LabelError(
            f"{pair.truth}: no true nucleus lies on slide '{pair.slide_id}' (the first at x {x:.0f}, y {y:.0f}); "
            "give the truth of this slide, in its level-0 pixels, x before y"
        )
    if region is not None and size_px is not None and not region.intersects(shapely.box(0, 0, *size_px)):
        where = pair.region or pair.truth
        raise LabelError(f"{where}: its region is outside slide '{pair.slide_id}'; give annotations of this slide")


LEAST_TRUE, MOST = 5, 0.5  # minimum number of true nuclei; minimum fraction near found ones (by chance up to 0.25)


def _require_order(path: Path, true_xy: np.ndarray, found_xy: np.ndarray, mpp: tuple, radius_um: float) -> None:
    """Reject truth whose x and y seem to be exchanged.

    At least half of the nuclei, and over twice as many as before, must lie near detected nuclei after an exchange.
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
            f"{path}: {given:.0%} of its nuclei match found ones as they are, but {exchanged:.0%} with x and y "
            "exchanged; exchange them"
        )


def _choose_accepted(truth: Truth, matches: Matches) -> None:
    """Set the label of true nuclei with several accepted classes to that of their match, if it is one of these."""
    taken = matches.taken[0]
    found = np.flatnonzero((taken >= 0) & (matches.predicted_label >= 0))
    right = found[truth.accepted[taken[found], matches.predicted_label[found]]]
    truth.nuclei.label[taken[right]] = matches.predicted_label[right]


def _read_size(nuclei: Path) -> tuple[int, int] | None:
    """The (width, height) of the slide in px; None without a ``slide.json`` next to the table."""
    info = SlideFiles(nuclei.parent).info
    try:
        return tuple(read_json(info)["size_px"]) if info.is_file() else None
    except (ValueError, KeyError, TypeError) as error:
        raise NucleiError(f"{info}: has no size of the slide; write it again with `muse inspect`") from error


def _inside(region: shapely.Geometry | None, xy: np.ndarray) -> np.ndarray:
    if region is None:
        return np.ones(len(xy), bool)
    shapely.prepare(region)
    return shapely.contains_xy(region, xy[:, 0], xy[:, 1])


def _count_in_tissue(tissue: Path, xy: np.ndarray, mpp: tuple[float, float]) -> int | None:
    try:
        return int(TissueMask.load(tissue).kept.contains(xy, mpp).sum()) if tissue.is_file() else None
    except StoreError:  # only a remark depends on it
        return None


def _calibrate(found: Nuclei, matches: Matches) -> CalibrationCounts | None:
    """Calibration counts over the matched nuclei; None for a model of one class."""
    if found.prob.shape[1] < 2:
        return None
    taken = matches.taken[0]
    paired = np.flatnonzero(taken >= 0)
    true_label = matches.true_label[taken[paired]]
    known = true_label >= 0
    return count_calibration(found.prob[paired[known]], true_label[known])


def _score_outlines(
    nuclei: Path, kept: np.ndarray, truth: Truth, matches: Matches, n_classes: int, mpp: tuple[float, float]
) -> tuple[PanopticCounts | None, np.ndarray | None]:
    if truth.outlines is None:
        return None, None
    columns = [
        table["geometry"].to_numpy(zero_copy_only=False) for table in iterate_rows(nuclei, ROW_GROUP, ["geometry"])
    ]
    outlines = parse_outlines(np.concatenate([np.zeros(0, object), *columns]))[kept]
    overlaps = overlap_polygons(outlines, truth.outlines, mpp)
    labels = matches.predicted_label, matches.true_label
    return count_panoptic(overlaps, *labels, n_classes, matches.judged), jaccard_areas(overlaps, matches.judged)
