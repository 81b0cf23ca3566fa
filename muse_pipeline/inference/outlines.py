"""Refinement of a detector's outlines by a second, small network, or by moving them to the edges of
stained nuclei.

Without the network, rays end where the picture lightens outwards. The network reads optical
densities at 17 radii around the end of each of 16 rays of a nucleus, relative to their mean and
spread, and returns the change of each ray's length, up to 3 um. It was trained on outlines drawn by
hand (`experiments/refined_outlines/`).
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.core.files import sha256_of
from muse_pipeline.inference.model import BUILT_IN, open_session, run_session
from muse_pipeline.nuclei.rays import points_along_rays
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.stain import DENSITY

EDGE_STEP_UM = 0.25  # step of the radii that are tried along a ray
LOYALTY = 1.0  # cost per squared relative change of a ray, in units of the nucleus' mean edge
FAINTEST = 5.0  # difference in grey level across an edge; fainter edges have less weight
# over neighbouring rays, as edges are noisy
SMOOTHING = np.array([1, 8, 28, 56, 70, 56, 28, 8, 1], np.float32) / 256
STAYING = 0.05  # weight of leaving a ray unchanged, relative to that of a mean edge
LEAST_EDGE_UM = 1.0  # minimum length of a ray that is moved to an edge
EDGE_BLOCK = 128  # number of nuclei at a time, so that their samples fit into a core's cache
MODEL = BUILT_IN / "outlines/refine.onnx"
N_REFINED = 16  # number of rays that the network reads and changes
STEP_UM = 0.375  # step of the samples along a ray
N_STEPS = 8  # samples on either side of the end, and largest change of a ray in steps
LEAST_UM = 0.5  # minimum length of a ray that the network refines
# number of nuclei at a time; fixed, since sums in a matrix product may depend on the number of rows
BLOCK = 64


def snap_to_edges(
    light: ndarray, xy: ndarray, rays: ndarray, mpp: float, reach_um: float
) -> ndarray:
    """Move outlines, rays (N, R) in um, to the clearest edge within ``reach_um``; those without an
    edge are unchanged.

    The edge along a ray is where the picture ``light`` (h, w) uint8, in which nuclei are dark,
    lightens most outwards. A ray changes by the mean distance to the edge along itself and its
    neighbours, weighted by the squared strengths of the edges. The centres ``xy`` (N, 2) are in
    pixels of the picture.
    """
    blocks = (slice(start, start + EDGE_BLOCK) for start in range(0, len(xy), EDGE_BLOCK))
    parts = [
        _snap(light, xy[block], rays[block], mpp, round(reach_um / EDGE_STEP_UM))
        for block in blocks
    ]
    return np.concatenate(parts) if parts else rays


def _snap(light: ndarray, xy: ndarray, rays: ndarray, mpp: float, n: int) -> ndarray:
    """``snap_to_edges`` for one block of nuclei, with a reach of ``n`` steps."""
    change = np.arange(-n, n + 1, dtype=np.float32) * np.float32(EDGE_STEP_UM)  # (S,)
    edge = _edges(light, xy, rays, mpp, n)
    own = np.maximum(edge.max(0).mean(1), FAINTEST)
    # Edges are relative to the nucleus' mean edge, so the contrast of a slide matters only below
    # ``FAINTEST``.
    edge = np.clip(edge / own[:, None], -1, 1)
    cost = np.float32(LOYALTY) * (change[:, None, None] / np.maximum(rays, 2 * LEAST_EDGE_UM)) ** 2
    best = (edge - cost).argmax(0)  # (N, R)
    weight = np.maximum(np.take_along_axis(edge, best[None], 0)[0], 0) ** 2
    pull, total = (_smooth(part) for part in (weight * change[best], weight))
    moved = rays + pull / (total + np.float32(STAYING))
    # A ray that is already shorter than the minimum must not become even shorter.
    return np.maximum(moved, np.minimum(rays, np.float32(LEAST_EDGE_UM)))


def _edges(light: ndarray, xy: ndarray, rays: ndarray, mpp: float, n: int) -> ndarray:
    """(2 n + 1, N, R) increase in grey level at radii from ``n`` steps before the end of a ray to
    ``n`` steps after it.

    The increase is the difference of the mean grey levels over 0.5 um outside and 0.5 um inside
    each radius.
    """
    offsets = (np.arange(-n - 2, n + 2, dtype=np.float32) + np.float32(0.5)) * np.float32(
        EDGE_STEP_UM
    )
    along = np.maximum(rays + offsets[:, None, None], 0)  # (samples, N, R) um
    levels = cv2.remap(
        light, *points_along_rays(xy, along, mpp), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    ).astype(np.float32)
    pairs = levels[1:] + levels[:-1]
    return ((pairs[2:] - pairs[:-2]) / 2).reshape(2 * n + 1, *rays.shape)


def _smooth(values: ndarray) -> ndarray:
    """(N, R) weighted means over neighbouring rays, without BLAS, whose sums depend on the number
    of nuclei.
    """
    half, n_rays = len(SMOOTHING) // 2, values.shape[1]
    around = np.take(values, np.arange(-half, n_rays + half), axis=1, mode="wrap")
    starts = range(2 * half, -1, -1)  # the last digits depend on this order
    return sum(
        share * around[:, start : start + n_rays]
        for share, start in zip(SMOOTHING, starts, strict=True)
    )


class OutlineRefiner:
    """The network that refines outlines, in ONNX Runtime; safe to call from several threads.

    Its ONNX file takes ``density`` (3, 17, 64, 16) and ``rays`` (64, 16) um, and returns ``change``
    (64, 16) um, all float32.
    """

    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = open_session(MODEL, options, "cpu")
        self.sha256 = sha256_of(MODEL)

    def __call__(self, pixels: ndarray, xy: ndarray, rays: ndarray, mpp: float) -> ndarray:
        """Refine the rays (N, R) in um of nuclei with centres ``xy`` (N, 2) in a picture (h, w, 3)
        uint8.
        """
        refined, n_rays = np.empty_like(rays), rays.shape[1]
        to_network = angle_weights(n_rays, N_REFINED)
        to_rays = angle_weights(N_REFINED, n_rays)
        for start in range(0, len(rays), BLOCK):
            # a short block repeats the last nucleus
            block = np.arange(start, start + BLOCK).clip(max=len(rays) - 1)
            own = rays[block] @ to_network
            samples = sample_along_rays(pixels, xy[block], own, mpp)
            density = cv2.LUT(samples.reshape(len(samples), -1), DENSITY).reshape(samples.shape)
            (change,) = run_session(
                self.session, MODEL, ["change"], {"density": density, "rays": own}
            )
            refined[block] = np.maximum(
                rays[block] + change @ to_rays, np.minimum(rays[block], LEAST_UM)
            )
        return refined


def sample_along_rays(pixels: ndarray, xy: ndarray, rays: ndarray, mpp: float) -> ndarray:
    """Colours around the end of each ray (N, R) um, from the inside outwards: (3, 17, N, R)
    uint8.
    """
    offsets = np.arange(-N_STEPS, N_STEPS + 1, dtype=np.float32) * np.float32(STEP_UM)
    along = np.maximum(rays + offsets[:, None, None], 0)
    points = points_along_rays(xy, along, mpp)
    samples = cv2.remap(pixels, *points, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.stack(cv2.split(samples)).reshape(3, *along.shape)


def angle_weights(n: int, m: int) -> ndarray:
    """Weights (n, m) float32 of linear interpolation from values at n angles to m angles."""
    position = np.arange(m) * n / m
    first, share = position.astype(int), position % 1
    weights = np.zeros((n, m), np.float32)
    np.add.at(weights, (first, np.arange(m)), 1 - share)
    np.add.at(weights, ((first + 1) % n, np.arange(m)), share)
    return weights


def fit_outlines(
    windows: list[Nuclei],
    pixels: ndarray,
    mpp: float,
    snap_um: float,
    refiner: OutlineRefiner | None,
) -> list[Nuclei]:
    """Refine the outlines of the nuclei in windows (B, H, W, 3) uint8, or move them to edges.

    Without a ``refiner``, outlines move by at most ``snap_um`` to the clearest edge in the red
    channel, in which haematoxylin is dark and eosin light; 0 leaves them unchanged.
    """
    if not refiner and not snap_um:
        return windows
    fitted = []
    for nuclei, window in zip(windows, pixels, strict=True):
        if refiner:
            rays = refiner(window, nuclei.xy, nuclei.rays, mpp)
        else:
            rays = snap_to_edges(
                cv2.extractChannel(window, 0), nuclei.xy, nuclei.rays, mpp, snap_um
            )
        fitted.append(replace(nuclei, rays=rays))
    return fitted
