"""Records of a registration: transform.json, and partner.json with its outcome."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from muse_pipeline import __version__
from muse_pipeline.core.errors import MuseError, OutputError, RegistrationError
from muse_pipeline.core.files import find_json, read_json, remove, write_json
from muse_pipeline.core.text import one_line
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.registration.register import (
    ABOVE_LIMIT,
    KEPT,
    NO_MATCH,
    OUTSIDE,
    Registration,
    TileResiduals,
)
from muse_pipeline.registration.transform import Transform, read_transform

TRANSFORM, RECORD = "transform.json", "partner.json"
OK, FAILED = "ok", "failed"

FORMAT = 1
DIRECTION = "slide to partner: partner_xy = matrix @ (x, y, 1)"


@contextmanager
def record_outcome(partner: Path, store: Path, slide_id: str) -> Iterator[dict[str, Any]]:
    """Write partner.json next to ``store`` when the block ends; after a failure, ``store`` is an
    empty folder.

    Errors are recorded and suppressed, because training can continue without a slide's partner;
    only an output that cannot be written, for example on a full disk, ends the block with an error.
    The block adds entries to the dictionary.
    """
    folder = store.parent
    remove(folder / RECORD)
    facts = {"slide_id": slide_id, "partner": str(partner)}
    try:
        yield facts
        outcome = {"status": OK, "reason": ""}
    except Exception as error:
        if isinstance(error, OutputError):
            raise
        reason = error if isinstance(error, MuseError) else f"{type(error).__name__}: {error}"
        outcome = {"status": FAILED, "reason": one_line(reason)}
        for path in (store, folder / TRANSFORM):
            remove(path)
        # The workflow requires that the job writes this folder.
        store.mkdir(parents=True)
    write_json(folder / RECORD, {**outcome, **facts})


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """The content of partner.json; None if there is none."""
    return find_json(folder / RECORD)


def write_registration(registration: Registration, folder: Path) -> dict[str, Any]:
    """Write transform.json, whose content is returned."""
    content = describe(registration)
    write_json(folder / TRANSFORM, content)
    return content


def describe(registration: Registration) -> dict[str, Any]:
    """The content of transform.json."""
    transform, tiles = registration.transform, registration.tiles
    size_um = np.multiply(registration.slide.size_px, registration.slide.mpp)
    kept_grid = tiles.kept_grid(size_um)
    return {
        "format": FORMAT,
        "muse-pipeline": __version__,
        "direction": DIRECTION,
        "frame": "level0",
        "units": "px",
        "slide": _identify(registration.slide),
        "partner": _identify(registration.partner),
        "matrix": transform.matrix_px(registration.slide.mpp, registration.partner.mpp).tolist(),
        "mirrored": transform.is_mirrored,
        "degrees": round(transform.degrees, 3),
        "scale": round(transform.scale, 5),
        "compared_at_um": registration.power.um,
        "residuals": summarise_residuals(tiles),
        "tile_um": tiles.side_um,
        "kept_tiles": ["".join("01"[int(kept)] for kept in row) for row in kept_grid],
    }


def summarise_residuals(tiles: TileResiduals) -> dict[str, Any]:
    """Counts of tiles, and the median and 95th percentile of the residuals that were measured in
    kept tiles.
    """
    measured = tiles.residual_um[tiles.is_kept & tiles.is_measured]
    middle, high = np.percentile(measured, [50, 95]) if len(measured) else (0.0, 0.0)
    status = tiles.status
    counts = {
        word.replace(" ", "_"): int((status == word).sum())
        for word in (KEPT, ABOVE_LIMIT, NO_MATCH, OUTSIDE)
    }
    um = {
        "limit_um": tiles.limit_um,
        "median_um": round(float(middle), 3),
        "p95_um": round(float(high), 3),
    }
    return {**um, "tiles": len(status), **counts}


def summary_text(content: dict[str, Any]) -> str:
    """Summarise the content of transform.json in a few lines of text."""
    residuals = content["residuals"]
    side = "mirrored, " if content["mirrored"] else ""
    return (
        f"{content['partner']['path']} on slide '{content['slide']['slide_id']}'\n"
        f"  placement   {side}turned by {content['degrees']:.2f} degrees, scale"
        f" {content['scale']:.4f}\n"
        f"  residuals   median {residuals['median_um']:.2f} um, 95 % below"
        f" {residuals['p95_um']:.2f} um\n"
        f"  tiles       {residuals['kept']} of {residuals['tiles']} kept;"
        f" {residuals['above_limit']} above {residuals['limit_um']:g} um,"
        f" {residuals['no_match']} without a match, {residuals['outside']} outside the partner"
    )


@dataclass(frozen=True, eq=False)
class RegisteredPartner:
    """The content of transform.json that is needed to read the partner's pixels."""

    path: Path  # path of transform.json
    slide: dict[str, Any]  # identity of the H&E slide, as written by ``describe``
    partner: dict[str, Any]  # identity of the partner, as written by ``describe``
    transform: Transform  # transform from slide to partner
    tile_um: float  # side of a tile; tiles lie side by side from the slide's corner
    kept: ndarray  # (rows, columns) bool, True for tiles that are kept

    def is_kept(self, um: ndarray) -> ndarray:
        """True for positions (..., 2) in um on the slide that are in a kept tile and on the
        partner.
        """
        column, row = np.moveaxis(np.floor(um / self.tile_um).astype(int), -1, 0)
        # A rest of less than half a tile, at the right and lower edge, belongs to the last tile.
        at = row.clip(0, self.kept.shape[0] - 1), column.clip(0, self.kept.shape[1] - 1)
        is_on = self.kept[at]
        for info, position in ((self.slide, um), (self.partner, self.transform.to_partner(um))):
            is_on = is_on & (
                (position >= 0) & (position < np.multiply(info["size_px"], info["mpp"]))
            ).all(-1)
        return is_on

    def require(self, slide: SlideInfo, partner: SlideInfo) -> None:
        """Require that the registration belongs to this slide and partner."""
        for own, info in ((self.slide, slide), (self.partner, partner)):
            if own["fingerprint"] != info.fingerprint:
                raise RegistrationError(
                    f"{self.path}: belongs to {own['path']}, not to {info.path}; run `muse"
                    " register` for these slides"
                )


def read_registered(path: Path) -> RegisteredPartner:
    """Read transform.json."""
    try:
        content = read_json(path)
        slide, partner = content["slide"], content["partner"]
        transform = read_transform(content, slide["mpp"], partner["mpp"])
        kept = np.array([[sign == "1" for sign in row] for row in content["kept_tiles"]])
        if content["format"] != FORMAT or kept.ndim != 2:
            raise ValueError("unknown format")
        return RegisteredPartner(path, slide, partner, transform, float(content["tile_um"]), kept)
    except OSError as error:
        raise RegistrationError(
            f"{path}: cannot be read ({error.strerror}); write it with `muse register`"
        ) from error
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
