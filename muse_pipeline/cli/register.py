"""Register a second picture of the same tissue to its H&E slide, and check the result tile by tile.

The partner may be rotated, mirrored or stained differently, and may cover only a part of the slide.
Writes transform.json, but nothing for a partner that does not fit.
"""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.cli.signature import Positive
from muse_pipeline.core.types import GEOJSON_FRAMES, Written


def run(
    slide: Path,
    partner: Path,
    /,
    output: Written,
    slide_id: str | None = None,
    mpp: float | None = None,
    partner_mpp: Positive | None = None,
    start: Path | None = None,
    frame: str = GEOJSON_FRAMES[0],
    max_residual: Positive | None = None,
    threads: int = 1,
) -> None:
    """Register the partner.

    Args:
        slide: the H&E slide
        partner: a slide or picture of the same tissue
        output: folder for transform.json
        slide_id: name of the H&E slide (default: that of its file)
        mpp: um per level-0 pixel of the H&E slide
        partner_mpp: um per level-0 pixel of the partner
        start: initial transform, not a search: landmarks (.csv), a matrix or a transform.json
        frame: origin of --start: the corner of the scanner's bounds, as in QuPath, or of level 0
        max_residual: largest residual of a tile (default: 5 um)
        threads: processor threads
    """
    from muse_pipeline.core.errors import MisfitError, MppError
    from muse_pipeline.registration.partner import open_pair_of_files
    from muse_pipeline.registration.record import summary_text, write_registration
    from muse_pipeline.registration.register import LIMIT_UM, inspect_for_pair, register_partner
    from muse_pipeline.registration.transform import read_given
    from muse_pipeline.slides.isolation import call_isolated

    name, advice = slide_id or slide.stem, "give it with --partner-mpp"
    info = call_isolated(inspect_for_pair, slide, name, mpp, "give it with --mpp")
    partner_info = call_isolated(inspect_for_pair, partner, partner.stem, partner_mpp, advice)
    given = read_given(start, info, partner_info, frame) if start else None
    try:
        with open_pair_of_files(slide, info, partner, partner_info, threads) as pair:
            registration = register_partner(pair, given, max_residual or LIMIT_UM)
            print(summary_text(write_registration(registration, output)))
    except MppError as error:
        what = str(error).partition("; ")[0]
        raise MppError(f"{what}; correct --mpp or --partner-mpp") from error
    except MisfitError as error:
        raise MisfitError(
            f"{error}; correct --mpp or --partner-mpp, give an initial transform with --start, or"
            " accept larger residuals with --max-residual"
        ) from error
