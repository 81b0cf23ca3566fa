"""Provenance of nuclei: files of version 0.1.0 are read, and rewritten with the same bytes."""

import json
from pathlib import Path

import pytest
from nuclei_example import PROVENANCE

from muse_pipeline.core.errors import NucleiError
from muse_pipeline.core.provenance import Provenance

# Four provenances: of nuclei with regions and artefacts, on an IHC slide, or from a model with one
# class; of proposals.
REGIONS, BROWN, CLUSTERS, PROPOSALS = (
    Path(__file__).with_name("provenance.jsonl").read_text("utf-8").splitlines()
)


@pytest.mark.parametrize("text", [REGIONS, BROWN, CLUSTERS, PROPOSALS])
def test_a_file_of_today_is_written_again_with_the_same_bytes(text):
    assert (
        json.dumps(
            Provenance.from_dict(json.loads(text)).to_dict(), sort_keys=True, ensure_ascii=False
        )
        == text
    )


def test_fields_of_later_versions_are_ignored():
    known = Provenance.from_dict(PROVENANCE)
    assert Provenance.from_dict(PROVENANCE | {"of_later": 1}) == known
    assert known.to_dict() == PROVENANCE and (known.n_left_out, known.left_out_mm2) == (0, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"name": "compact"}},
        {"card": {}},
        {"card": {"classes": [{"name": "A", "color": [1, 2, 300]}]}},
        {"slide_mpp": [0.5]},
        {"quality": {"subtract": "blurred"}},
        {"full_windows": None},
    ],
)
def test_what_is_no_provenance_is_named(changes):
    with pytest.raises(NucleiError, match="provenance"):
        Provenance.from_dict(PROVENANCE | changes)
