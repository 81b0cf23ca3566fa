"""The proposals of a slide in one field, to lie beside the nuclei of the same field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.report.density import Field, choose_fields, count_nuclei
from muse_pipeline.report.nuclei_file import stream_positions
from muse_pipeline.report.overlays import draw_field
from muse_pipeline.tiles.store import Store
from muse_pipeline.types import SlideInfo

PROPOSALS = "proposals.parquet"


def find_proposals(folder: Path, info: SlideInfo) -> Path | None:
    """The proposals in a slide's ``folder`` that were found in this slide; None where there are none.

    A run that does not ask for proposals leaves those of before, which may be of another file of the slide's name.
    """
    path = folder / PROPOSALS
    return path if path.is_file() and read_provenance(path)["fingerprint"] == info.fingerprint else None


def describe_proposals(path: Path | None) -> dict[str, Any] | None:
    """Method and number of proposals, if there are any."""
    if path is None:
        return None
    said = read_provenance(path)
    return {"method": said["proposer"]["method"], "n_nuclei": said["n_nuclei"]}


def draw_proposals(
    path: Path | None, store: Store, info: SlideInfo, fields: list[Field], picture: Path
) -> tuple[Field, int] | None:
    """Write the PNG of the proposals at ``path`` in the first of ``fields``, or in their densest where there are none.

    Returns:
        The field and the number of proposals centred in it; None where there is nothing to draw.
    """
    if path is None:
        return None
    if not fields:
        fields = choose_fields(count_nuclei(stream_positions(path, "label"), info.size_px, info.mpp, 1))
    if not fields:
        return None
    classes = [NucleusClass(each["name"], tuple(each["color"])) for each in read_provenance(path)["card"]["classes"]]
    caption = f"proposals, {fields[0].caption}"
    return fields[0], sum(draw_field(store, path, fields[0], classes, picture, caption=caption).values())
