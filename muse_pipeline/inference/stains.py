"""Prepare the colours of a slide for a model: normalise stains, and measure or replace brown
(DAB).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import ModelError, StoreError
from muse_pipeline.core.files import read_json
from muse_pipeline.core.types import INTENSITIES_OD
from muse_pipeline.inference.card import ColourReference, NucleusClass
from muse_pipeline.nuclei.rays import points_along_rays, ray_directions
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.colour import SlideColour
from muse_pipeline.tissue.stain import (
    DAB,
    DENSITY,
    IDENTITY,
    ROUNDED_TEXTBOOK,
    TEXTBOOK,
    MacenkoFit,
    gain_ratio,
    stain_map,
)

MAX_GAIN_RATIO = 18.0  # pictures of H&E have ratios of 1 to 14, violet pictures mostly 20 to 60
# as in QuPath
CLASSES = (NucleusClass("Negative", (90, 90, 180)), NucleusClass("Positive", (200, 50, 50)))
LN_10 = float(np.log(10))  # densities use the natural logarithm in the code, base 10 in results
POSITIVE_OD = INTENSITIES_OD[0]  # threshold of the mean DAB of a nucleus, base 10
ABSOLUTE = round(POSITIVE_OD * LN_10, 6)  # the same threshold as a natural logarithm
# DAB density above which pixels are recoloured in part; from ``ABSOLUTE`` on, in full
FAINT = ABSOLUTE / 2
DARKEST = 1.3  # largest density of recoloured pixels; brown nuclei may be ten times as dense
# points on each ray from which the mean over a nucleus is computed; each represents the same area
N_RINGS = 4
CORE = 0.3  # part of the rays within which a brown nucleus is brown
N_STEPS = 16  # samples along a ray, to find where brown begins

STAINS = np.array(
    [stain / np.linalg.norm(stain) for stain in (TEXTBOOK[0], DAB, np.cross(TEXTBOOK[0], DAB))]
)
# without the third stain, which is a residual
_SHARES = np.linalg.inv(STAINS).T[:2].astype(np.float32)
BLUE = STAINS[0].astype(np.float32)


def read_colour(path: Path | str, fingerprint: str | None = None) -> SlideColour:
    """Read a ``colour.json``, and check its ``fingerprint`` if one is given."""
    try:
        colour = SlideColour.from_dict(read_json(path))
        fit = colour.macenko
        measures = np.array(list((colour.appearance or {}).values()), float)
        if not np.isfinite(measures).all() or not (fit is None or _is_fit(fit)):
            raise ValueError("numbers of the stains are impossible")
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror}); make it with `muse step tissue`"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(
            f"{path}: is not a colour.json of this version; make it with `muse step tissue`"
        ) from error
    if fingerprint and colour.fingerprint not in {None, fingerprint}:
        raise StoreError(
            f"{path}: belongs to a different slide than the image; give the file of the image's"
            " slide"
        )
    return colour


def _is_fit(fit: MacenkoFit) -> bool:
    """True if there are two stains with different directions and positive strengths."""
    if (fit.stains.shape, fit.strong.shape) != ((2, 3), (2,)) or not np.isfinite(fit.stains).all():
        return False
    return bool(np.linalg.matrix_rank(fit.stains) == 2 and (fit.strong > 0).all())


def colour_of_fit(reference: ColourReference, fit: MacenkoFit | None) -> ndarray:
    """(3, 4) float32 map of optical densities that normalises colours to a card's reference; the
    identity without fit.

    The reference's ``share`` interpolates between the identity and the map that turns the stains
    into the reference's. Colours are left unchanged if both stains are violet and the map amplifies
    one mixture of them more than ``MAX_GAIN_RATIO`` times as much as another: then the second stain
    is not eosin, and nuclei would disappear.
    """
    if reference.method == "identity":
        return IDENTITY.copy()
    if reference.method != "macenko":
        raise ModelError(
            f"the model's card asks for colour method '{reference.method}', which needs a newer"
            " muse-pipeline"
        )
    if fit is None:
        return IDENTITY.copy()
    whole_way = stain_map(fit.stains, fit.strong, reference.stains, reference.strong)
    red, _, blue = fit.stains[1]
    if red > blue and gain_ratio(whole_way, fit.stains) > MAX_GAIN_RATIO:
        return IDENTITY.copy()
    share = np.float32(reference.share)
    return (1 - share) * IDENTITY + share * whole_way


def reference_stains(reference: ColourReference) -> ndarray:
    """(2, 3) unit vectors of the reference's stains; textbook values if the reference leaves
    colours unchanged.
    """
    return np.array(reference.stains or ROUNDED_TEXTBOOK)


def stains_with(third: Sequence[float] | None) -> ndarray:
    """(3, 3) unit vectors of haematoxylin, DAB and the third stain; ``STAINS`` if ``third`` is
    None.
    """
    return STAINS if third is None else np.vstack([STAINS[:2], third])


def split_stains(pixels: ndarray, third: Sequence[float] | None = None) -> ndarray:
    """(h, w, 2) float32 densities, natural logarithms >= 0, of haematoxylin and DAB in pixels (h,
    w, 3) uint8.

    A ``third`` stain of the slide, a unit vector, is ignored in pixels where its amount is
    negative.
    """
    density = cv2.LUT(np.ascontiguousarray(pixels), DENSITY)
    two = np.maximum(cv2.transform(density, _SHARES), 0)
    if third is None:
        return two
    three = np.maximum(
        cv2.transform(density, np.linalg.inv(stains_with(third)).T.astype(np.float32)), 0
    )
    return np.where(three[..., 2:] > 0, three[..., :2], two)


def density_to_pixels(density: ndarray) -> ndarray:
    """Pixels (h, w, 3) uint8 of optical density (h, w, 3) float32: the inverse of ``DENSITY``."""
    return np.clip(np.rint(256 * cv2.exp(-density) - 1), 0, 255).astype(np.uint8)


def recolour_brown(pixels: ndarray, stains: ndarray) -> ndarray:
    """Replace brown with haematoxylin of equal density, up to ``DARKEST``; other pixels (h, w, 3)
    uint8 are unchanged.

    The ``stains`` come from ``split_stains``. A model trained on H&E misses many brown nuclei and
    outlines others only in part (figures: docs/guide/ihc.md).
    """
    share = np.clip((stains[..., 1:] - FAINT) / (ABSOLUTE - FAINT), 0, 1)
    density = cv2.LUT(np.ascontiguousarray(pixels), DENSITY)
    blue = np.minimum(stains.sum(-1, keepdims=True), DARKEST) * BLUE
    return density_to_pixels(density + share * (blue - density))


def mean_within(values: ndarray, nuclei: Nuclei, mpp: float) -> ndarray:
    """(N,) float64 means, over each nucleus (frame: window), of ``values`` (h, w) float32 at
    ``mpp`` um per pixel.
    """
    n, n_rays = nuclei.rays.shape
    if not n:
        return np.zeros(0)
    reach_px = nuclei.rays[..., None] * np.sqrt((np.arange(N_RINGS) + 0.5) / N_RINGS) / mpp
    # (N, R, rings, 2)
    xy = nuclei.xy[:, None, None] + reach_px[..., None] * ray_directions(n_rays)[:, None]
    positions = (xy.reshape(n, n_rays * N_RINGS, 2) - 0.5).astype(np.float32)
    samples = cv2.remap(values, positions, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    sector = np.square(nuclei.rays, dtype=float)  # proportional to the area of the sector
    return (samples.reshape(n, n_rays, N_RINGS).mean(-1, dtype=float) * sector).sum(
        -1
    ) / sector.sum(-1)


def is_brown_inside(dab: ndarray, nuclei: Nuclei, mpp: float) -> ndarray:
    """(N,) bool: nuclei whose inner part is positive; a brown membrane lies outside it."""
    inner = replace(nuclei, rays=nuclei.rays * np.float32(CORE))
    return mean_within(dab, inner, mpp) >= ABSOLUTE


def stop_at_brown(dab: ndarray, nuclei: Nuclei, mpp: float) -> Nuclei:
    """Blue nuclei (frame: window) with rays that end where the density ``dab`` (h, w) of a brown
    membrane begins.
    """
    if not len(nuclei):
        return nuclei
    steps = (np.arange(N_STEPS, dtype=np.float32) + np.float32(0.5)) / N_STEPS
    along = nuclei.rays * steps[:, None, None]
    points = [
        np.ascontiguousarray(axis.reshape(along.shape).transpose(1, 0, 2)).reshape(len(nuclei), -1)
        for axis in points_along_rays(nuclei.xy, along, mpp)
    ]  # a row per nucleus, since OpenCV limits the length of rows
    samples = cv2.remap(dab, *points, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    is_brown = samples.reshape(len(nuclei), N_STEPS, -1) >= ABSOLUTE
    n_blue = np.where(is_brown.any(1), is_brown.argmax(1), N_STEPS)
    share = np.maximum(n_blue, N_STEPS * CORE).astype(np.float32) / N_STEPS
    return replace(nuclei, rays=nuclei.rays * share)
