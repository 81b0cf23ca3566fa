"""The step `partner`, which registers a second picture of a slide's tissue."""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.core.types import Written
from muse_pipeline.registration import record
from muse_pipeline.registration.partner import open_pair_of_files, write_partner_store
from muse_pipeline.registration.register import inspect_for_pair, register_partner
from muse_pipeline.registration.transform import read_given
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.slides.isolation import call_isolated
from muse_pipeline.tissue.mask import TissueMask


def partner(
    slide: Path,
    partner: Path,
    info: Path,
    tissue: Path,
    output: Written,
    start: Path | None = None,
    mpp: float = 0.5,
    max_corrupt: float = 0.01,
    threads: int = 1,
) -> None:
    """Register a slide's partner as `muse register` does, and write it as a store in the slide's
    frame.

    A partner that cannot be used is recorded in partner.json and does not fail the step.

    Args:
        slide: the H&E slide.
        partner: a slide or picture of the same tissue.
        info: slide.json of the H&E slide.
        tissue: tissue.npz of the H&E slide.
        output: store to write, in the folder RESULTS/<slide_id>/partner.
        start: landmarks, matrix or transform.json from which registration starts.
        mpp: um per pixel of the store.
        max_corrupt: fraction of the tissue that may be undecodable.
        threads: processor threads.
    """
    header, folder = read_info(info), output.parent
    with record.record_outcome(partner, output, header.slide_id) as facts:
        is_known = start is not None and start.suffix.lower() == ".json"
        partner_mpp = record.read_registered(start).partner["mpp"][0] if is_known else None
        advice = (
            "run `muse register` with --partner-mpp, and name its transform.json in the sheet's"
            " partner_transform"
        )
        partner_info = call_isolated(inspect_for_pair, partner, partner.stem, partner_mpp, advice)
        with open_pair_of_files(slide, header, partner, partner_info, threads) as pair:
            given = read_given(start, header, partner_info) if start else None
            content = record.write_registration(register_partner(pair, given), folder)
            print(record.summary_text(content))
            registered = record.read_registered(folder / record.TRANSFORM)
            mask = TissueMask.load(tissue, header)
            write_partner_store(pair, registered, mask, output, mpp=mpp, max_corrupt=max_corrupt)
        facts["residuals"] = content["residuals"]
    if "residuals" not in facts:
        print(f"cannot be used: {record.read_outcome(folder)['reason']}")
