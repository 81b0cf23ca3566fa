"""Find nuclei as dark blobs of haematoxylin with filters of their radius, and outline them where
the density falls off.

The outline around a centre is star-convex. The value of a ray is the sum of (density - threshold)
along it. Dynamic programming finds the closed outline of greatest total value whose neighbouring
rays differ by at most one step. This outline follows blurred edges, may surround a pale centre and
does not leak through gaps. Neighbouring nuclei are separated by the power diagram of their centres
and radii.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import cv2
import numpy as np

# loads its modules at first use, so that `muse step proposer`, which only reads settings, loads
# none of them
import scipy
from numpy import ndarray

from muse_pipeline.core.config import Between
from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.rays import ray_directions
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.proposals import PROPOSERS
from muse_pipeline.proposals.base import (
    N_RAYS,
    Proposer,
    SlideSample,
    proposer_facts,
    shrink,
    shrink_factor,
)
from muse_pipeline.proposals.otsu_mask import blend_stains, haematoxylin, otsu_threshold
from muse_pipeline.tissue.background import clear_foreign_colours

STEP_UM = 0.35
MIN_RADIUS_UM = 1.0
NEIGHBOUR_UM = 20.0
# radius that is surely inside a nucleus; radius at which the background begins
INSIDE_UM, AROUND_UM = 2.5, 5.0
BLOCK = 1024  # nuclei processed at a time: (1024, 32, 30) floats
TRESPASS = 10.0  # cost per step into a neighbour's territory


def trace_outlines(
    density: ndarray,
    mpp: float,
    xy: ndarray,
    radius_um: ndarray,
    least_density: float,
    n_rays: int,
    max_radius_um: float,
) -> ndarray:
    """Outlines, as rays (N, n_rays) float32 in um, of nuclei with centres ``xy`` (N, 2) in px and
    radii (N,).

    ``density`` (h, w) is that of haematoxylin, slightly smoothed. ``least_density`` is the
    threshold on a pale background; on a dense one, the threshold is halfway between the densities
    of nucleus and background.
    """
    reach_um = np.minimum(territories(xy * mpp, radius_um, n_rays), max_radius_um)
    steps_um = np.arange(1, int(max_radius_um / STEP_UM) + 1) * STEP_UM
    rays = np.zeros((len(xy), n_rays), np.float32)
    for start in range(0, len(xy), BLOCK):
        block = slice(start, start + BLOCK)
        profiles = _profiles(density, mpp, xy[block], steps_um, n_rays)
        threshold = np.maximum(_halfway(profiles, steps_um), least_density)
        worth = np.cumsum(profiles - threshold[:, None, None], axis=2)
        worth -= TRESPASS * np.maximum(steps_um - reach_um[block, :, None], 0)
        best = steps_um[_best_closed_path(worth)]
        # average with both neighbouring rays
        smooth = (np.roll(best, 1, 1) + 2 * best + np.roll(best, -1, 1)) / 4
        rays[block] = np.clip(smooth, MIN_RADIUS_UM, np.maximum(reach_um[block], MIN_RADIUS_UM))
    return rays


def territories(xy_um: ndarray, radius_um: ndarray, n_rays: int) -> ndarray:
    """(N, n_rays) um: distance along each ray to the border of its cell in the power diagram of the
    nuclei.
    """
    reach = np.full((len(xy_um), n_rays), np.inf)
    if len(xy_um) < 2:
        return reach
    pairs = scipy.spatial.cKDTree(xy_um).query_pairs(NEIGHBOUR_UM, output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    if not len(pairs):
        return reach
    own, other = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].T
    apart = xy_um[other] - xy_um[own]
    # A ray meets the line of equal power where its dot product with the vector to the neighbour has
    # this value.
    border = ((apart**2).sum(1) + radius_um[own] ** 2 - radius_um[other] ** 2) / 2
    towards = apart @ ray_directions(n_rays).T
    distance = np.where(towards > 1e-6, border[:, None] / np.maximum(towards, 1e-6), np.inf)
    first = np.flatnonzero(np.diff(own, prepend=-1))
    reach[own[first]] = np.minimum.reduceat(distance, first, axis=0)
    return reach


def _profiles(density: ndarray, mpp: float, xy: ndarray, steps_um: ndarray, n_rays: int) -> ndarray:
    """Density (N, n_rays, T) in the middle of each of T steps along each ray."""
    # (n_rays, T, 2)
    offsets = ray_directions(n_rays)[:, None] * (steps_um - STEP_UM / 2)[:, None] / mpp
    at = (xy[:, None] - 0.5 + offsets.reshape(1, -1, 2)).astype(np.float32)
    sampled = cv2.remap(density, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return sampled.reshape(len(xy), n_rays, len(steps_um))


def _halfway(profiles: ndarray, steps_um: ndarray) -> ndarray:
    """Density (N,) halfway between each nucleus and its background.

    The nucleus, which may be vesicular, is represented by its upper quartile, and the background,
    which may contain other nuclei, by its lower quartile.
    """
    n = len(profiles)
    core = np.percentile(profiles[:, :, steps_um <= INSIDE_UM].reshape(n, -1), 75, axis=1)
    around = np.percentile(profiles[:, :, steps_um > AROUND_UM].reshape(n, -1), 25, axis=1)
    return ((core + around) / 2).astype(np.float32)


def _best_closed_path(worth: ndarray) -> ndarray:
    """Step index (N, R) of the path of greatest ``worth`` (N, R, T) that changes by at most one
    step from ray to ray.

    So that its ends meet, the path is extended by half a turn at both ends; the extensions are then
    discarded.
    """
    n, n_rays, n_steps = worth.shape
    lead = n_rays // 2
    order = np.arange(-lead, n_rays + lead) % n_rays
    total = worth[:, order[0]]
    moves = np.empty((len(order), n, n_steps), np.int8)
    low = np.full((n, 1), -np.inf, worth.dtype)
    for i, ray in enumerate(order[1:], 1):
        inner = np.hstack([low, total[:, :-1]])
        outer = np.hstack([total[:, 1:], low])
        move = np.where(inner > total, -1, 0).astype(np.int8)
        best = np.maximum(inner, total)
        move[outer > best] = 1
        moves[i] = move
        total = np.maximum(best, outer) + worth[:, ray]
    path = np.empty((n, n_rays), int)
    at, rows = total.argmax(1), np.arange(n)
    for i in range(len(order) - 1, lead - 1, -1):
        if i < lead + n_rays:
            path[:, order[i]] = at
        at = at + moves[i][rows, at]
    return path


PACKAGES = ("muse-pipeline", "numpy", "opencv-python-headless", "scipy")
CORE_UM = 1.5  # sigma of the smoothing for the density at a peak
EDGE_UM = 0.4  # sigma of the smoothing for outlines, less than the blur of a 0.5 um pixel
# upper limit of the density, in units of ``edge_density``; darker pixels are grain, folds or dirt
CAP = 2.0
# minimum density at the edge of a nucleus; eosin, red cells and glass are below it
MIN_DENSITY = 0.12
MIN_VALUES = 20  # minimum number of peaks or pixels from which a threshold is estimated
NOISE = 0.01  # filter response to a camera's noise on glass; lower maxima are not peaks
# filter response to a disc of 4 um radius that is denser than its surroundings by 0.12
MIN_ANSWER = 0.09


@dataclass(frozen=True)
class HaematoxylinSettings:
    """Settings of the proposer.

    Attributes:
        radii_um: radii of the nuclei to find.
        min_distance_um: minimum distance between two peaks; of a closer pair, only the stronger
            peak is kept.
        strictness: factor of the slide's threshold for peaks; higher values give fewer, more
            certain nuclei.
        max_radius_um: longest ray of an outline; the background of a nucleus is measured within
            this radius.
    """

    radii_um: tuple[Annotated[float, Between(0.5, 20)], ...] = (3.0, 4.0, 5.0)
    min_distance_um: Annotated[float, Between(0.5, 50)] = 3.0
    strictness: Annotated[float, Between(0.05, 5)] = 0.7
    max_radius_um: Annotated[float, Between(6, 20)] = 10.0

    def __post_init__(self) -> None:
        if not self.radii_um:
            raise ValueError("radii_um is empty; give at least one radius in um")


@PROPOSERS.register("haematoxylin")
@dataclass(frozen=True, eq=False)
class HaematoxylinFinder(Proposer):
    """Finds the nuclei in a slide's windows."""

    Settings = HaematoxylinSettings
    name = "haematoxylin"

    settings: HaematoxylinSettings  # settings of the proposer
    stains: ndarray  # (2, 3) unit stain vectors, haematoxylin first
    edge_density: float  # density that separates nuclei from their background in the slide's sample
    min_answer: float  # minimum filter response of a peak

    @classmethod
    def fit(cls, sample: SlideSample, settings: HaematoxylinSettings) -> HaematoxylinFinder:
        """Estimate both thresholds from the sample by Otsu's method, with a lower limit for
        each.
        """
        stains = blend_stains(sample.stains).round(6)
        # A finder without thresholds, which measures the sample from which they are estimated.
        loose = cls(sample.mpp, settings, stains, np.inf, NOISE)
        densities = [loose.density(picture) for picture in sample.pictures]
        smooth = [
            cv2.GaussianBlur(density, (0, 0), CORE_UM / loose.work_mpp) for density in densities
        ]
        stained = np.concatenate(
            [density[density > 0] for density in smooth] or [np.zeros(0, np.float32)]
        )
        edge = _threshold(stained, MIN_DENSITY)
        capped = (np.minimum(density, CAP * edge) for density in densities)
        answers = [loose.blobs(density)[1] for density in capped]
        answer = _threshold(
            np.concatenate([np.zeros(0), *answers]), MIN_ANSWER, settings.strictness
        )
        return cls(sample.mpp, settings, stains, edge, answer)

    @property
    def work_mpp(self) -> float:
        """Um per pixel of the shrunk windows, in which nuclei are found."""
        return self.mpp * shrink_factor(self.mpp)

    def find(self, pixels: ndarray) -> Nuclei:
        """The nuclei (frame: window) of (h, w, 3) uint8 ``pixels`` of any size, highest score
        first.
        """
        density = np.minimum(self.density(pixels), CAP * self.edge_density)
        xy, answer, radius = self.blobs(density)
        core = cv2.GaussianBlur(density, (0, 0), CORE_UM / self.work_mpp)
        core = core[tuple(xy[:, ::-1].astype(int).clip(0, np.array(density.shape) - 1).T)]
        kept = np.flatnonzero(core > self.edge_density)[: self.card.capacity]
        xy = xy[kept]
        answer = answer[kept]
        radius = radius[kept]
        smooth = cv2.GaussianBlur(density, (0, 0), EDGE_UM / self.work_mpp)
        reach_um = self.settings.max_radius_um
        rays = trace_outlines(
            smooth, self.work_mpp, xy, radius, self.edge_density, N_RAYS, reach_um
        )
        return Nuclei(
            xy * shrink_factor(self.mpp),
            Frame.WINDOW,
            rays=rays,
            label=np.zeros(len(xy)),
            score=answer / (answer + self.min_answer),
            prob=np.ones((len(xy), 1)),
        )

    def density(self, pixels: ndarray) -> ndarray:
        """Density of haematoxylin (h, w) float32 at ``work_mpp``; 0 on ink, pigment and brown
        chromogen.
        """
        pixels = shrink(pixels, shrink_factor(self.mpp))
        return clear_foreign_colours(haematoxylin(pixels, self.stains), pixels)

    def blobs(self, density: ndarray) -> tuple[ndarray, ndarray, ndarray]:
        """``find_blobs`` with the finder's settings."""
        settings = self.settings
        return find_blobs(
            density, self.work_mpp, settings.radii_um, settings.min_distance_um, self.min_answer
        )

    def facts(self) -> dict[str, Any]:
        """Settings and estimates of the proposer, with their checksum."""
        fitted = {
            "edge_density": self.edge_density,
            "min_answer": self.min_answer,
            "stains": self.stains.tolist(),
        }
        proposer = {"method": "haematoxylin", "settings": asdict(self.settings), "fitted": fitted}
        return proposer_facts(proposer, self.stains.tolist(), PACKAGES)


def _threshold(values: ndarray, floor: float, share: float = 1.0) -> float:
    """Otsu's threshold of ``values`` (N,) times ``share``, or ``floor`` if that is higher or there
    is no threshold.
    """
    cut = otsu_threshold(values) if len(values) >= MIN_VALUES else 0.0
    return round(max(share * cut, floor) if np.isfinite(cut) else floor, 6)


GRAIN = 0.7  # minimum distance between maxima of the same filter, as a fraction of its radius
REFERENCE_UM = 4.0  # radius at which the filter response has weight 1


def find_blobs(
    density: ndarray, mpp: float, radii_um: tuple[float, ...], min_distance_um: float, least: float
) -> tuple[ndarray, ndarray, ndarray]:
    """Blobs in (h, w) float32 ``density`` with a filter response above ``least``, strongest first.

    A blob is dropped if its distance from a stronger one is below ``min_distance_um`` or the
    stronger one's radius. Returns xy (N, 2) float64 in px, pixel (0, 0) centred on (0.5, 0.5);
    response (N,) and radius (N,) in um.
    """
    positions, answers = zip(
        *(_maxima_of_radius(density, mpp, radius, least) for radius in radii_um), strict=True
    )
    xy = np.concatenate(positions)
    answer = np.concatenate(answers)
    radius = np.repeat(radii_um, [*map(len, answers)])
    order = np.lexsort((xy[:, 0], xy[:, 1], -answer))
    xy = xy[order]
    answer = answer[order]
    radius = radius[order]
    kept = _suppress(xy * mpp, np.maximum(radius, min_distance_um))
    return xy[kept], answer[kept], radius[kept]


def _maxima_of_radius(
    density: ndarray, mpp: float, radius_um: float, least: float
) -> tuple[ndarray, ndarray]:
    """Maxima (N, 2) in px of the response to the filter of ``radius_um``, and their weighted
    responses (N,).
    """
    # The Laplacian of a Gaussian responds most to discs with a radius of sigma * sqrt(2). The
    # factor sigma ** 2 makes the responses at all radii equal, and the last factor favours large
    # discs.
    sigma = radius_um / mpp / np.sqrt(2)
    smooth = cv2.GaussianBlur(density, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    answer = cv2.Laplacian(
        smooth, cv2.CV_32F, ksize=1, scale=-sigma * sigma * radius_um / REFERENCE_UM
    )
    reach = max(1, round(GRAIN * radius_um / mpp))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    row, column = np.nonzero((answer >= cv2.dilate(answer, disc)) & (answer > least))
    return _between_pixels(answer, row, column), answer[row, column]


def _between_pixels(answer: ndarray, row: ndarray, column: ndarray) -> ndarray:
    """Subpixel maxima (N, 2) x, y, from parabolas through each maximum and its neighbours in both
    directions.
    """
    padded = cv2.copyMakeBorder(answer, 1, 1, 1, 1, cv2.BORDER_REPLICATE).astype(np.float64)
    top = padded[row + 1, column + 1]
    shifts = []
    for before, after in (
        (padded[row + 1, column], padded[row + 1, column + 2]),
        (padded[row, column + 1], padded[row + 2, column + 1]),
    ):
        bend = np.maximum(2 * top - before - after, 1e-12)
        shifts.append(np.clip((after - before) / (2 * bend), -0.5, 0.5))
    return np.stack([column + 0.5 + shifts[0], row + 0.5 + shifts[1]], 1)


def _suppress(xy_um: ndarray, reach_um: ndarray) -> ndarray:
    """(N,) bool: positions (N, 2), best first, to keep; a kept position removes all worse ones
    within its reach.
    """
    kept = np.ones(len(xy_um), bool)
    if len(xy_um) < 2:
        return kept
    # lower index first
    pairs = scipy.spatial.cKDTree(xy_um).query_pairs(reach_um.max(), output_type="ndarray")
    distance = np.hypot(*(xy_um[pairs[:, 0]] - xy_um[pairs[:, 1]]).T)
    pairs = pairs[distance < reach_um[pairs[:, 0]]]
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    first = np.searchsorted(pairs[:, 0], np.arange(len(kept) + 1)).tolist()
    for better in np.unique(pairs[:, 0]).tolist():
        if kept[better]:
            kept[pairs[first[better] : first[better + 1], 1]] = False
    return kept
