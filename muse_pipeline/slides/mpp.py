"""Size of a level-0 pixel, in um.

Sources, the most trusted first: the user's value, the scanner's, OME-XML, the resolution tags of
TIFF, and an estimate from the power of the objective. There is no default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from muse_pipeline.core.errors import MppError

if TYPE_CHECKING:
    from tifffile import TiffPage

# 10 um are 2,540 dpi: coarser tags describe screens and paper (72, 96, 300 dpi), not a microscope.
RESOLUTION_TAG_RANGE_UM = (0.02, 10.0)
PLAUSIBLE_RANGE_UM = (0.11, 2.0)  # the finest scanners have 0.115 um
# from finer than light can resolve to coarser than any image of cells or tissue
POSSIBLE_RANGE_UM = (0.01, 100.0)
LONGEST_SLIDE_MM = 300  # slides of whole organs are 200 mm long
MAX_ANISOTROPY = 0.02
IMPLAUSIBLE_ANISOTROPY = 0.2  # no scanner has pixels as oblong as this
MAX_DISAGREEMENT = 0.05
# sources that scanners write
SCANNER = ("openslide.mpp-x", "tiffslide.mpp-x", "CZI scaling", "OME-XML PhysicalSizeX")
# Range of an mpp, relative to the estimate from the objective: scanners with a magnifying adapter
# have pixels half as large as the power suggests, but none has larger ones.
BESIDE_POWER, GIVEN_BESIDE_POWER = (0.35, 1.5), (0.65, 1.5)
GIVEN = "given by the user"  # the source of an mpp that overrides the file
DOUBT = "the mpp, "  # prefix of warnings about a doubtful mpp

# Units of OME-XML, ImageJ and TIFF. The micro sign and Greek mu are different characters.
_UNITS_UM = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    "nm": 1e-3,
    "m": 1e6,
    **dict.fromkeys(("mm", "millimeter"), 1e3),
    **dict.fromkeys(("cm", "centimeter"), 1e4),
    **dict.fromkeys(("in", "inch"), 25_400.0),
}


@dataclass(frozen=True)
class MppCandidate:
    """A candidate for the size of a level-0 pixel, (x, y) um, with its source; an estimate comes
    from the objective.
    """

    mpp: tuple[float, float]
    source: str
    is_estimate: bool = False


def mpp_from_values(x: object, y: object, source: str) -> MppCandidate | None:
    """A candidate from values in um, or None if a value is missing or not a positive number."""
    mpp = _positive(x), _positive(y)
    return MppCandidate(mpp, source) if all(mpp) else None


def mpp_from_ome_xml(xml: str | None, size_px: tuple[int, int]) -> MppCandidate | None:
    """A candidate from PhysicalSizeX and PhysicalSizeY of the OME image of ``size_px``; None if
    they are unknown.
    """
    try:
        root = ElementTree.fromstring(xml) if xml else None
    except ElementTree.ParseError:
        return None
    for pixels in root.iterfind(".//{*}Pixels") if root is not None else ():
        if (pixels.get("SizeX"), pixels.get("SizeY")) == tuple(map(str, size_px)):
            units = (pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XY")
            x, y = (
                _positive(pixels.get(f"PhysicalSize{axis}")) * _UNITS_UM.get(unit, 0.0)
                for axis, unit in zip("XY", units, strict=True)
            )
            # if the file states only one side, pixels are taken to be square
            sizes = (x or y, y or x)
            return mpp_from_values(*sizes, "OME-XML PhysicalSizeX")
    return None


def mpp_from_resolution_tags(
    x: object, y: object, unit: str | None, description: str = ""
) -> MppCandidate | None:
    """A candidate from the resolution tags of TIFF; None if they have no unit or are the dpi of a
    screen or paper.

    The tags are pixels per ``unit`` along a row and a column. A unit that ImageJ wrote to the tag
    ImageDescription overrides ``unit``.
    """
    if description.startswith("ImageJ=") and (
        match := re.search(r"^unit=(.+)$", description, re.MULTILINE)
    ):
        unit = match[1].strip().replace("\\u00B5", "µ")
    per_unit = _UNITS_UM.get(unit or "", 0.0) or _UNITS_UM.get((unit or "").lower(), 0.0)
    x, y = _positive(x), _positive(y)
    if not (per_unit and x and y):
        return None
    mpp = per_unit / x, per_unit / y
    low, high = RESOLUTION_TAG_RANGE_UM
    if all(low <= side <= high for side in mpp):
        return MppCandidate(mpp, "TIFF resolution tags")
    return None


def mpp_from_page(page: TiffPage) -> MppCandidate | None:
    """A candidate from the resolution tags of a tifffile page; None as in
    ``mpp_from_resolution_tags``.
    """
    return mpp_from_resolution_tags(
        *page.get_resolution(), getattr(page.resolutionunit, "name", None), page.description
    )


def mpp_from_objective(power: object) -> MppCandidate | None:
    """An estimate by the rule of thumb 10 um / power, such as 0.25 um at 40x; None if the power is
    unknown.
    """
    power = _positive(power)
    if power:
        return MppCandidate(
            (10 / power, 10 / power), f"objective power {power:g}x", is_estimate=True
        )
    return None


def choose_mpp(
    candidates: Iterable[MppCandidate], given: float | None = None
) -> tuple[tuple[float, float], str, tuple[str, ...]]:
    """Choose the mpp of a slide from candidates, the most trusted first; one that the user gave
    overrides them.

    Returns (x, y) um, a description of the source, and warnings.
    """
    of_file = list(candidates)
    best = next(iter(of_file), None)
    estimate = next((mpp for mpp in of_file if mpp.is_estimate), None)
    if given is not None:
        side = require_mpp(given)
        chosen = MppCandidate((side, side), GIVEN)
        doubts = _disagreement(chosen, best)
        if best == estimate:
            doubts += _disagreement_with_power(chosen, estimate, GIVEN_BESIDE_POWER)
    elif best is not None:
        chosen, doubts = best, _disagreement_with_power(best, estimate, BESIDE_POWER)
    else:
        raise MppError(
            "the file does not state the size of a pixel; give um per pixel in the sheet's mpp"
            " column or with --mpp (in Python: mpp=)"
        )
    return chosen.mpp, chosen.source, (*_doubts(chosen), *doubts)


def require_possible(mpp: tuple[float, float], source: str, size_px: tuple[int, int]) -> None:
    """Reject an mpp in wrong units, before it costs hours of computation or exhausts memory."""
    low, high = POSSIBLE_RANGE_UM
    text = f"mpp {mpp[0]:.4g} x {mpp[1]:.4g} um ({source})"
    if not all(low <= side <= high for side in mpp):
        raise MppError(
            f"{text} is outside the range of slides, {low:g} to {high:g} um; check its unit"
        )
    longest_mm = max(side * n for side, n in zip(mpp, size_px, strict=True)) / 1000
    if longest_mm > LONGEST_SLIDE_MM:
        raise MppError(
            f"{text} would make the slide {longest_mm:,.0f} mm long; correct it in the sheet or"
            " with --mpp"
        )


def require_mpp(value: float) -> float:
    """Return the value as a float."""
    if not (mpp := _positive(value)):
        raise MppError(f"mpp {value!r} is not a positive number; give um per pixel, as in 0.25")
    low, high = POSSIBLE_RANGE_UM
    if not low <= mpp <= high:
        raise MppError(
            f"mpp {mpp:g} is outside the range of slides, {low:g} to {high:g} um; check its unit"
        )
    return mpp


def _doubts(chosen: MppCandidate) -> tuple[str, ...]:
    x, y = chosen.mpp
    doubts = []
    if chosen.is_estimate:
        doubts.append(
            f"{DOUBT}{x:.4g} um, is only an estimate from {chosen.source}; give it in the sheet if"
            " known"
        )
    if implausible := describe_implausible(chosen.mpp, chosen.source):
        doubts.append(implausible)
    elif not is_square((x, y)):
        doubts.append(
            f"mpp differs between x ({x:.4g} um) and y ({y:.4g} um) by"
            f" {max(x, y) / min(x, y) - 1:.1%}"
        )
    return tuple(doubts)


def describe_implausible(mpp: tuple[float, float], source: str) -> str:
    """A warning if pixels of ``mpp`` = (x, y) um from ``source`` are too fine, coarse or oblong; ""
    if they are not.
    """
    (x, y), (low, high) = mpp, PLAUSIBLE_RANGE_UM
    excess = max(mpp) / min(mpp) - 1
    if not low <= min(mpp) <= max(mpp) <= high:
        tenfold = {"ten times too fine? ": 10 * x, "ten times too coarse? ": x / 10}
        slip = next((text for text, side in tenfold.items() if low <= side <= high), "")
    elif excess > IMPLAUSIBLE_ANISOTROPY:
        slip = f"x and y differ by {excess:.0%}; "
    else:
        return ""
    size = f"{x:.4g} um" if is_square(mpp) else f"{x:.4g} x {y:.4g} um"
    return f"{DOUBT}{size} ({source}), is implausible for a microscope slide: {slip}check it"


def is_square(mpp: tuple[float, float]) -> bool:
    """True if pixels of (x, y) um are square, allowing for rounding by scanners."""
    return max(mpp) <= (1 + MAX_ANISOTROPY) * min(mpp)


def _disagreement(chosen: MppCandidate, stated: MppCandidate | None) -> tuple[str, ...]:
    if stated is None or stated.is_estimate:
        return ()
    if all(
        abs(side / other - 1) <= MAX_DISAGREEMENT
        for side, other in zip(chosen.mpp, stated.mpp, strict=True)
    ):
        return ()
    sides = stated.mpp[:1] if is_square(stated.mpp) else stated.mpp
    of_file = " x ".join(f"{side:.4g}" for side in sides)
    return (f"{DOUBT}{chosen.mpp[0]:.4g} um as given, overrides {of_file} um from {stated.source}",)


def _disagreement_with_power(
    chosen: MppCandidate, estimate: MppCandidate | None, limits: tuple[float, float]
) -> tuple[str, ...]:
    """A warning if an mpp, relative to the estimate from the objective, lies outside ``limits``."""
    if estimate is None or limits[0] <= chosen.mpp[0] / estimate.mpp[0] <= limits[1]:
        return ()
    doubt = (
        f"{DOUBT}{chosen.mpp[0]:.4g} um ({chosen.source}), does not suit the {estimate.source}"
        f" in the file, with which pixels have about {estimate.mpp[0]:.4g} um: check it"
    )
    return (doubt,)


def is_of_scanner(source: str) -> bool:
    """True if an mpp with this description of its source was written into the file by the
    scanner.
    """
    return source in SCANNER


def _positive(value: object) -> float:
    """The value as a number; strings may have a decimal comma. 0 if it is not finite and
    positive.
    """
    try:
        plain = value.replace(",", ".") if isinstance(value, str) else value
        number = float(plain)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 0.0
    return number if math.isfinite(number) and number > 0 else 0.0
