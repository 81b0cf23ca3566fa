"""Register a partner by the outline of its tissue: a coarse map for areas, where nuclei cannot be matched."""

from __future__ import annotations

import cv2
import numpy as np

from muse_pipeline.core.errors import RegistrationError
from muse_pipeline.registration.match import tiles_on_tissue
from muse_pipeline.registration.placement import FINEST_UM, GLASS, HIGH_POWERS, Pair, find_placements
from muse_pipeline.registration.register import LIMIT_UM, MIN_COVERED, OutlineFit, Registration, TileResiduals
from muse_pipeline.registration.transform import Transform, matrix_in_um

SIDE_PX = 512  # longer side of a slide in the fit
BLUR_PX = 11
STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-6)
MIN_DICE = 0.5


def register_outline(pair: Pair, start: Transform | None = None) -> Registration:
    """Find the affine map under which tissue and density of both slides agree best; no tile of it is kept.

    Args:
        pair: both slides.
        start: approximate transform; if None, it is searched for.
    """
    starts = [start] if start else find_placements(pair.low, pair.partner_low, pair.threads)
    um = max(FINEST_UM, *(np.max(low.picture.size_um) / SIDE_PX for low in (pair.low, pair.partner_low)))
    (slide, slide_mpp), (partner, partner_mpp) = (low.maps(um) for low in (pair.low, pair.partner_low))
    fits = []
    for initial in starts:
        matrix = initial.matrix_px(slide_mpp, partner_mpp)
        matrix[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5  # from corners to centres of pixels
        images = slide.sum(-1), partner.sum(-1)
        try:
            score, matrix = cv2.findTransformECC(
                *images, matrix.astype(np.float32), cv2.MOTION_AFFINE, STEPS, None, BLUR_PX
            )
        except cv2.error:  # the pictures do not overlap
            continue
        fits.append((score, matrix.astype(float)))
    matrix = max(fits, key=lambda fit: fit[0])[1] if fits else np.zeros((2, 3))
    outline = _compare(slide[..., 0], partner[..., 0], matrix, slide_mpp.mean())
    if outline.dice < MIN_DICE:
        raise RegistrationError(
            f"{pair.partner_info.path}: its tissue does not have the outline of slide '{pair.info.slide_id}': they "
            f"overlap by {outline.dice:.0%} (Dice), and {MIN_DICE:.0%} are needed; check both um per pixel, or give an "
            "initial transform"
        )
    matrix[:, 2] += 0.5 - matrix[:, :2] @ [0.5, 0.5]
    power = HIGH_POWERS[-1]
    centre = tiles_on_tissue(pair.low.mask, pair.low.picture.mpp, power.tile_um, power.tile_um, MIN_COVERED)
    unknown, none = np.full(len(centre), np.nan), np.zeros(len(centre), bool)
    tiles = TileResiduals(power.tile_um, centre, unknown, np.zeros(len(centre)), none, ~none, LIMIT_UM)
    transform = Transform(matrix_in_um(matrix, slide_mpp, partner_mpp))
    return Registration(pair.info, pair.partner_info, transform, power, tiles, outline)


def _compare(slide: np.ndarray, partner: np.ndarray, matrix: np.ndarray, um: float) -> OutlineFit:
    """Compare maps of tissue (h, w) at ``um`` per pixel; ``matrix`` maps pixels of the slide to the partner."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(partner, matrix, slide.shape[::-1], flags=flags, borderValue=GLASS)
    tissues = [(each > (1 + GLASS) / 2).astype(np.uint8) for each in (slide, warped)]
    dice = 2 * float((tissues[0] & tissues[1]).sum()) / max(sum(float(each.sum()) for each in tissues), 1.0)
    edges = [each - cv2.erode(each, np.ones((3, 3), np.uint8)) for each in tissues]
    distance_um = cv2.distanceTransform(1 - edges[1], cv2.DIST_L2, 5)[edges[0] > 0] * um
    middle, high = np.percentile(distance_um, [50, 95]) if len(distance_um) else (0.0, 0.0)
    return OutlineFit(round(dice, 3), round(float(middle), 1), round(float(high), 1))
