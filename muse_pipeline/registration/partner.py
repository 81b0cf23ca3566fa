"""Register a partner from its file, and write it as a store in the frame of its slide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from muse_pipeline.core.files import write_json
from muse_pipeline.core.types import GEOJSON_FRAMES, SlideInfo
from muse_pipeline.registration.checkerboard import write_checkerboard
from muse_pipeline.registration.given import read_given
from muse_pipeline.registration.outcome import CHECKERBOARD, RESIDUALS, TRANSFORM
from muse_pipeline.registration.partner_store import write_partner_store
from muse_pipeline.registration.record import describe, read_registered, write_residuals
from muse_pipeline.registration.register import LIMIT_UM, inspect_partner, open_pair, register_partner
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.isolation import call_isolated
from muse_pipeline.tissue.mask import TissueMask


def register_files(
    slide: Path,
    info: SlideInfo,
    partner: Path,
    folder: Path,
    *,
    partner_mpp: float | None = None,
    start: Path | None = None,
    frame: str = GEOJSON_FRAMES[0],
    limit_um: float = LIMIT_UM,
    threads: int = 1,
) -> dict[str, Any]:
    """Register a partner to its slide; write transform.json, residuals.tsv and checkerboard.png.

    Args:
        slide: file of the H&E slide.
        info: header of the H&E slide.
        partner: file of the partner.
        folder: folder of the written files.
        partner_mpp: um per level-0 pixel of the partner, if its file does not state it.
        start: landmarks, a matrix or a transform.json to refine; None to search.
        frame: frame of the coordinates in ``start``, "qupath" or "openslide".
        limit_um: largest residual of a tile that is kept.
        threads: number of threads that compare tiles.

    Returns:
        The content of transform.json.

    Raises:
        MppError: the size of the partner's pixels is not stated anywhere.
        RegistrationError: the partner does not fit, or ``start`` cannot be read.
        SlideError: the partner cannot be read.
    """
    partner_info = call_isolated(inspect_partner, partner, partner_mpp)
    given = read_given(start, info, partner_info, frame) if start else None
    with open_slide(slide, info.reader) as opened, open_slide(partner, partner_info.reader) as opened_partner:
        pair = open_pair(opened, info, opened_partner, partner_info, threads)
        found = register_partner(pair, given, limit_um)
        write_checkerboard(folder / CHECKERBOARD, pair, found)
    write_residuals(folder / RESIDUALS, found)
    content = describe(found)
    write_json(folder / TRANSFORM, content)
    return content


def tile_partner(
    partner: Path,
    transform: Path,
    info: SlideInfo,
    tissue: Path,
    output: Path,
    *,
    mpp: float = 0.5,
    threads: int = 1,
    max_corrupt: float = 0.01,
) -> None:
    """Write a registered partner as a store, by ``partner_store.write_partner_store``.

    Args:
        partner: file of the partner.
        transform: transform.json of ``register_files``.
        info: the H&E slide.
        tissue: tissue.npz of the H&E slide.
        output: the store.
        mpp: um per pixel.
        threads: number of chunks read at a time.
        max_corrupt: share of the tissue that may be undecodable.
    """
    registered = read_registered(transform)
    partner_mpp = tuple(registered.partner["mpp"])
    partner_info = replace(inspect_partner(partner, partner_mpp[0]), mpp=partner_mpp)
    how = {"mpp": mpp, "threads": threads, "max_corrupt": max_corrupt}
    with open_slide(partner, partner_info.reader) as opened:
        write_partner_store(opened, partner_info, registered, info, TissueMask.load(tissue, info), output, **how)
