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


def describe_proposals(folder: Path) -> dict[str, Any] | None:
    """Method and number of the proposals in a slide's ``folder``, or None where there are none."""
    path = folder / PROPOSALS
    if not path.is_file():
        return None
    said = read_provenance(path)
    return {"method": said["proposer"]["method"], "n_nuclei": said["n_nuclei"]}


def draw_proposals(
    folder: Path, store: Store, info: SlideInfo, fields: list[Field], picture: Path
) -> tuple[Field, int] | None:
    """Write the PNG of the proposals in the first of ``fields``, or in their own densest where there are no fields.

    Returns:
        The field and the number of proposals centred in it; None where there is nothing to draw.
    """
    path = folder / PROPOSALS
    if not path.is_file():
        return None
    if not fields:
        fields = choose_fields(count_nuclei(stream_positions(path), info.size_px, info.mpp, 1))
    if not fields:
        return None
    classes = [NucleusClass(each["name"], tuple(each["color"])) for each in read_provenance(path)["card"]["classes"]]
    return fields[0], sum(draw_field(store, path, fields[0], classes, picture).values())
