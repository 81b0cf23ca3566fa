"""Records of a registration: write transform.json and residuals.tsv, and read transform.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline import __version__
from muse_pipeline.core.errors import RegistrationError
from muse_pipeline.core.files import complete_file, read_json
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.registration.register import ABOVE_LIMIT, KEPT, NO_MATCH, OUTSIDE, Registration, TileResiduals
from muse_pipeline.registration.transform import Transform

FORMAT = 1
DIRECTION = "slide to partner: partner_xy = matrix @ (x + bend_x, y + bend_y, 1)"
COLUMNS = ("x", "y", "side", "status", "residual_um", "measured", "correlation")


def describe(found: Registration) -> dict[str, Any]:
    """The content of transform.json."""
    transform, tiles = found.transform, found.tiles
    size_um = np.multiply(found.slide.size_px, found.slide.mpp)
    kept_grid = tiles.kept_grid(size_um)
    return {
        "format": FORMAT,
        "muse-pipeline": __version__,
        "direction": DIRECTION,
        "frame": "level0",
        "units": "px",
        "slide": _identify(found.slide),
        "partner": _identify(found.partner),
        **transform.to_dict(found.slide.mpp, found.partner.mpp),
        "mirrored": transform.is_mirrored,
        "degrees": round(transform.degrees, 3),
        "scale": round(transform.scale, 5),
        "bend_um": round(transform.bend_um, 2),
        "compared_at_um": found.power.um,
        "residuals": summarise(tiles),
        "tile_um": tiles.side_um,
        "kept_tiles": ["".join("01"[int(kept)] for kept in row) for row in kept_grid],
    }


def summarise(tiles: TileResiduals) -> dict[str, Any]:
    """Counts of tiles, and the residuals of those that are kept and were measured."""
    measured = tiles.residual_um[tiles.is_kept & tiles.is_measured]
    middle, high = np.percentile(measured, [50, 95]) if len(measured) else (0.0, 0.0)
    status = tiles.status
    counts = {word.replace(" ", "_"): int((status == word).sum()) for word in (KEPT, ABOVE_LIMIT, NO_MATCH, OUTSIDE)}
    um = {"limit_um": tiles.limit_um, "median_um": round(float(middle), 3), "p95_um": round(float(high), 3)}
    return {**um, "tiles": len(status), **counts}


def summary_text(content: dict[str, Any]) -> str:
    """Summary of a registration in a few lines, from the content of transform.json."""
    residuals = content["residuals"]
    bend = f"bent by up to {content['bend_um']:.1f} um" if content["bend"] else "not bent"
    side = "mirrored, " if content["mirrored"] else ""
    lines = [
        f"{content['partner']['path']} on slide '{content['slide']['slide_id']}'",
        f"  placement   {side}turned by {content['degrees']:.2f} degrees, scale {content['scale']:.4f}, {bend}",
        f"  residuals   median {residuals['median_um']:.2f} um, 95 % below {residuals['p95_um']:.2f} um",
        f"  tiles       {residuals['kept']} of {residuals['tiles']} kept; {residuals['above_limit']} above "
        f"{residuals['limit_um']:g} um, {residuals['no_match']} without a match, {residuals['outside']} outside of the "
        "partner",
    ]
    return "\n".join(lines)


def write_residuals(path: Path, found: Registration) -> None:
    """Write residuals.tsv, a row per tile: corner and side in level-0 px, status and measurements."""
    tiles, mpp = found.tiles, np.array(found.slide.mpp)
    corner_px = (tiles.centre_um - tiles.side_um / 2) / mpp
    with complete_file(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write("\t".join(COLUMNS) + "\n")
        for (x, y), status, residual, measured, correlation in zip(
            corner_px, tiles.status, tiles.residual_um, tiles.is_measured, tiles.correlation, strict=True
        ):
            um = "" if np.isnan(residual) else f"{residual:.2f}"
            side = f"{tiles.side_um / mpp[0]:.2f}"
            file.write(f"{x:.1f}\t{y:.1f}\t{side}\t{status}\t{um}\t{int(measured)}\t{correlation:.3f}\n")


@dataclass(frozen=True, eq=False)
class RegisteredPartner:
    """The content of transform.json that is needed to read the partner's pixels.

    Attributes:
        path: path of the file.
        slide: identity of the H&E slide, as written by ``describe``.
        partner: identity of the partner, as written by ``describe``.
        transform: transform from slide to partner.
        tile_um: side of a tile.
        kept: (rows, columns) bool, True for tiles that are kept, from the slide's corner.
    """

    path: Path
    slide: dict[str, Any]
    partner: dict[str, Any]
    transform: Transform
    tile_um: float
    kept: np.ndarray

    def is_kept(self, um: np.ndarray) -> np.ndarray:
        """True for positions (..., 2) on the slide, in um, in tiles that are kept and on the partner."""
        column, row = np.moveaxis(np.floor(um / self.tile_um).astype(int), -1, 0)
        within = (row >= 0) & (row < self.kept.shape[0]) & (column >= 0) & (column < self.kept.shape[1])
        at = row.clip(0, self.kept.shape[0] - 1), column.clip(0, self.kept.shape[1] - 1)
        on_partner = self.transform.to_partner(um)
        size_um = np.multiply(self.partner["size_px"], self.partner["mpp"])
        return within & self.kept[at] & ((on_partner >= 0) & (on_partner < size_um)).all(-1)

    def require(self, slide: SlideInfo, partner: SlideInfo) -> None:
        """Require that the transform belongs to these two slides.

        Raises:
            RegistrationError: it belongs to others.
        """
        for known, info in ((self.slide, slide), (self.partner, partner)):
            if known["fingerprint"] != info.fingerprint:
                raise RegistrationError(
                    f"{self.path}: is of {known['path']}, not of {info.path}; run `muse register` for these slides"
                )


def read_registered(path: Path) -> RegisteredPartner:
    """Read transform.json.

    Raises:
        RegistrationError: the file is missing or was not written by `muse register`.
    """
    try:
        content = read_json(path)
        slide, partner = content["slide"], content["partner"]
        transform = Transform.from_dict(content, slide["mpp"], partner["mpp"])
        kept = np.array([[sign == "1" for sign in row] for row in content["kept_tiles"]])
        if content["format"] != FORMAT or kept.ndim != 2:
            raise ValueError("another format")
        return RegisteredPartner(path, slide, partner, transform, float(content["tile_um"]), kept)
    except OSError as error:
        raise RegistrationError(f"{path}: cannot be read ({error.strerror}); make it with `muse register`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RegistrationError(
            f"{path}: is not a transform.json of this version; run `muse register` again"
        ) from error


def _identify(info: SlideInfo) -> dict[str, Any]:
    return {
        "slide_id": info.slide_id,
        "path": info.path,
        "fingerprint": info.fingerprint,
        "size_px": list(info.size_px),
        "mpp": list(info.mpp),
    }
