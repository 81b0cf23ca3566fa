"""Stains: reference vectors, Macenko's estimate from an image, the map to a reference, and a third
stain.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

BROWN_DENSITY = 0.25  # density of blue; paler brown is haze
MAX_BLUE_TO_GREEN = (
    1.2  # exceeded by bile, haemosiderin and fringes of colour; eosin has 0.5 to 0.85
)

# Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution", Anal Quant
# Cytol Histol 2001: haematoxylin and eosin, optical density of r, g, b.
TEXTBOOK = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
TEXTBOOK.setflags(write=False)
ROUNDED_TEXTBOOK = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))  # trained models depend on these values

_DENSITY = -np.log((np.arange(256) + 1) / 256)
DENSITY = -np.log(
    (np.arange(256, dtype=np.float32) + 1) / 256
)  # float32 logarithms, which differ in the last digit
DENSITY.setflags(write=False)


def optical_density(pixels: np.ndarray) -> np.ndarray:
    """-ln((pixel + 1) / 256) of uint8 pixels of any shape, float64; ``DENSITY[pixels]`` is the
    float32 version.
    """
    return _DENSITY[pixels]


def weigh_density(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Sum of the optical densities of the channels of (h, w, 3) uint8, each times its weight (3,):
    (h, w) float32.

    With a column of the pseudo-inverse of two stain vectors as weights, this is the amount of that
    stain.
    """
    shares = cv2.LUT(
        np.ascontiguousarray(pixels), (_DENSITY[:, None] * weights).astype(np.float32)[None]
    )
    return cv2.transform(shares, np.ones((1, 3), np.float32))


def is_brown(density: np.ndarray) -> np.ndarray:
    """(...) bool: True where optical densities (..., 3) are highest in blue, unlike those of
    haematoxylin and eosin.
    """
    red, green, blue = np.moveaxis(density, -1, 0)
    return (blue > BROWN_DENSITY) & (blue > MAX_BLUE_TO_GREEN * green) & (blue > red)


MIN_DENSITY = 0.3  # |OD|; paler pixels are glass, whose direction is camera noise
MAX_DENSITY = 6.0  # |OD| of pixels of about (7, 7, 7): folds, dirt and black pen
MAX_RED_TO_GREEN = 1.3  # exceeded by ink and pigments; haematoxylin has 0.6 to 1.1, eosin far less
# weakest over strongest channel; exceeded by dust and black ink; both stains have less than 0.65
MAX_GREYNESS = 0.85
MIN_PIXELS = 500  # minimum number of stained pixels: 2,000 um2 at 2 um/px
ANGLE_PERCENTILE = 1.0  # Macenko's alpha
STRONG_PERCENTILE = 99.0
MIN_ANGLE_DEGREES = (
    12.0  # BRCA, CAMELYON and NuCLS pictures have 17 to 30; a single stain has less than 10
)
HUE_TOLERANCE = 0.1  # CAMELYON's haematoxylin absorbs blue (0.47) as much as red (0.45)


@dataclass(frozen=True)
class MacenkoFit:
    """The stains of a slide."""

    stains: np.ndarray  # (2, 3) float64 unit rows in optical density, haematoxylin first
    strong: np.ndarray  # (2,) float64, 99th percentile of each stain's concentration


def fit_macenko(pixels: np.ndarray) -> MacenkoFit | None:
    """Estimate the stains of (N, 3) uint8 RGB pixels; None if the fit would be implausible.

    The plane of the stains is spanned by the two largest singular vectors of the optical densities,
    through the origin as in Macenko's paper; the extreme directions in it, at the 1st and 99th
    percentile of angle, are the stains. A fit is implausible with fewer than ``MIN_PIXELS`` stained
    pixels, less than 12 degrees between the stains, or directions that are not blue-purple and
    pink.
    """
    density = optical_density(pixels)
    return fit_density(density.compress(is_stained(density), axis=0))


def fit_density(density: np.ndarray) -> MacenkoFit | None:
    """``fit_macenko`` of the densities (N, 3) of stained pixels."""
    if len(density) < MIN_PIXELS:
        return None
    stains = _extreme_directions(density)
    if not are_plausible(stains):
        return None
    concentration = density @ np.linalg.pinv(stains)
    return MacenkoFit(stains, np.percentile(concentration, STRONG_PERCENTILE, axis=0))


def is_stained(density: np.ndarray) -> np.ndarray:
    """(N,) bool: densities (N, 3) that can be a mixture of haematoxylin and eosin, neither too pale
    nor too dark.
    """
    red, green, blue = density.T
    size = np.sqrt(np.einsum("ij,ij->i", density, density))
    hue = (red < MAX_RED_TO_GREEN * green) & (blue < MAX_BLUE_TO_GREEN * green)
    weakest, strongest = (
        np.minimum(np.minimum(red, green), blue),
        np.maximum(np.maximum(red, green), blue),
    )
    hue &= weakest < MAX_GREYNESS * strongest
    return hue & (size > MIN_DENSITY) & (size < MAX_DENSITY)


def _extreme_directions(density: np.ndarray) -> np.ndarray:
    """(2, 3) unit rows; the first absorbs more red, so it is haematoxylin."""
    _, vectors = np.linalg.eigh(density.T @ density)  # eigenvalues are in ascending order
    plane = vectors[:, :0:-1]  # (3, 2), the strongest direction first
    plane = plane * np.where(plane.sum(0) < 0, -1.0, 1.0)
    along, across = (density @ plane).T
    angles = np.percentile(np.arctan2(across, along), [ANGLE_PERCENTILE, 100 - ANGLE_PERCENTILE])
    stains = np.stack([np.cos(angles), np.sin(angles)], 1) @ plane.T
    return stains[np.argsort(-stains[:, 0])]


def are_plausible(stains: np.ndarray) -> bool:
    """True if (2, 3) unit rows can be haematoxylin and eosin: far enough apart, one blue to purple,
    one pink.
    """
    haematoxylin, eosin = stains
    apart = np.degrees(np.arccos(np.clip(haematoxylin @ eosin, -1, 1))) >= MIN_ANGLE_DEGREES
    purple = haematoxylin[[0, 1]].min() > haematoxylin[2] - HUE_TOLERANCE  # blue is absorbed least
    pink = eosin[1] > eosin[[0, 2]].max() - HUE_TOLERANCE  # green is absorbed most
    return bool(apart and purple and pink and stains.min() > -HUE_TOLERANCE)


IDENTITY = np.eye(3, 4, dtype=np.float32)
IDENTITY.setflags(write=False)


def stain_map(
    stains: np.ndarray, strong: np.ndarray, to_stains: np.ndarray, to_strong: np.ndarray
) -> np.ndarray:
    """Map one pair of stains onto another, so that their vectors and the strong ends of their
    concentrations coincide.

    The component outside the plane of the two stains is kept unchanged, along the plane's normal,
    so that pigment and red cells remain distinct from the stains. Stains are (2, 3) unit vectors in
    optical density, haematoxylin first, and strong ends (2,) are 99th percentiles of
    concentrations. Columns 0-2 of the map (3, 4) float32 multiply the density, and column 3, zero
    here, is added.
    """
    bases = []
    for pair in (np.asarray(stains, float), np.asarray(to_stains, float)):
        normal = np.cross(pair[0], pair[1])
        bases.append(np.vstack([pair, normal / np.linalg.norm(normal)]).T)
    source, target = bases
    gain = np.diag([*(np.asarray(to_strong, float) / np.asarray(strong, float)), 1.0])
    linear = target @ gain @ np.linalg.inv(source)
    return np.hstack([linear, np.zeros((3, 1))]).astype(np.float32)


def gain_ratio(colour: np.ndarray, stains: np.ndarray) -> float:
    """Ratio of the largest to the smallest factor by which a map (3, 4) amplifies mixtures of two
    ``stains`` (2, 3).
    """
    plane, _ = np.linalg.qr(np.asarray(stains, float).T)
    largest, smallest = np.linalg.svd(colour[:, :3] @ plane, compute_uv=False)
    return float(largest / smallest) if smallest else np.inf


DAB = np.array(
    [0.268, 0.570, 0.776]
)  # OD of r, g, b by Ruifrok; also QuPath's default for "Brightfield (H-DAB)"
THIRD_DENSITY = 0.5  # |OD|; the directions of paler pixels are noise
MIN_RESIDUAL_DEGREES = (
    6.0  # angle to the best-fitting plane that 1 % of the pixels exceed; 3 to 5 with two stains
)
MIN_PLANE_DEGREES = (
    12.0  # angle to the plane of haematoxylin and DAB; at half of it, noise in DAB grows tenfold
)
MIN_FROM_BLUE_DEGREES = (
    20.0  # angle to Ruifrok's haematoxylin: up to 14 for that of slides, from 26 for other stains
)
NOT_FOUND = (
    "no third stain distinct from haematoxylin and DAB was found; DAB is measured without one"
)
PURE = 0.8  # fraction of the extreme angle; pixels beyond it are pure


def find_third_stain(pixels: np.ndarray) -> tuple[float, ...] | None:
    """Unit vector (3,) of a stain besides haematoxylin and DAB, such as a red chromogen, in pixels
    (N, 3) uint8.

    None if no stain is distinct from the first two.

    Densities of two stains lie in one plane, whatever the shade of haematoxylin; those of three
    stains do not. The pixels at the largest angle to the plane of haematoxylin and DAB are the
    purest of the third stain, just as in Macenko's method for two stains the pixels at the extreme
    angles within the plane are the purest ("A method for normalizing histology slides for
    quantitative analysis", ISBI 2009).
    """
    density = optical_density(pixels)
    size = np.linalg.norm(density, axis=1)
    density = density[(size > THIRD_DENSITY) & (size < MAX_DENSITY)]
    _, own = np.linalg.eigh(density.T @ density)
    if (
        not len(density)
        or np.abs(_extreme_angles(_plane_angles(density, own[:, 0]))).max() < MIN_RESIDUAL_DEGREES
    ):
        return None
    blue, brown = TEXTBOOK[0] / np.linalg.norm(TEXTBOOK[0]), DAB / np.linalg.norm(DAB)
    normal = np.cross(blue, brown)
    angle = _plane_angles(density, normal / np.linalg.norm(normal))
    for end in sorted(_extreme_angles(angle), key=abs, reverse=True):
        if abs(end) < MIN_PLANE_DEGREES:
            break
        stain = density[angle / end >= PURE].sum(0)
        stain /= np.linalg.norm(stain)
        if np.degrees(np.arccos(stain @ blue)) >= MIN_FROM_BLUE_DEGREES:
            return tuple(
                stain.round(6).tolist()
            )  # rounded, so the order of summation has no effect
    return None


def _plane_angles(density: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Angles (N,) in degrees between densities (N, 3) and the plane with this unit ``normal``."""
    return np.degrees(np.arcsin(np.clip(density @ normal / np.linalg.norm(density, axis=1), -1, 1)))


def _extreme_angles(angle: np.ndarray) -> np.ndarray:
    """Percentiles (2,) between which 98 % of the angles lie."""
    return np.percentile(angle, [ANGLE_PERCENTILE, 100 - ANGLE_PERCENTILE])
