"""The ledger says how a step ended, and nothing of one that was killed."""

from pathlib import Path

import numpy as np
import pytest

from muse_pipeline.cli.output import record_step
from muse_pipeline.core.errors import MppError
from muse_pipeline.core.files import read_json


def test_an_interrupted_step_has_not_failed(tmp_path):
    with pytest.raises(KeyboardInterrupt), record_step(tmp_path / "l.json", "tissue"):
        raise KeyboardInterrupt
    entry = read_json(tmp_path / "l.json")
    assert (entry["status"], entry["reason"]) == ("interrupted", "was interrupted; run it again")


def test_a_step_that_ends_well(tmp_path):
    with record_step(tmp_path / "ledger/tile.json", "tile"):
        pass
    entry = read_json(tmp_path / "ledger/tile.json")
    assert (entry["step"], entry["status"], entry["reason"]) == ("tile", "ok", "")
    assert entry["seconds"] >= 0
    assert entry["peak_memory_mib"] > 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [(MppError("no mpp;\n give it"), "no mpp; give it"), (KeyError("x"), "unexpected KeyError: 'x'")],
)
def test_a_step_that_fails(tmp_path, error, reason):
    with pytest.raises(type(error)), record_step(tmp_path / "tile.json", "tile"):
        raise error
    entry = read_json(tmp_path / "tile.json")
    assert (entry["status"], entry["reason"]) == ("failed", reason)


def test_a_step_under_way_has_no_entry(tmp_path):
    """So that one killed from outside is not taken for the run before it."""
    path = tmp_path / "tile.json"
    path.write_text("{}")
    with record_step(path, "tile"):
        assert not path.exists()


def test_a_step_without_a_ledger(tmp_path):
    with record_step(None, "tile"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux lets the peak start anew")
def test_the_peak_is_the_step_s_own(tmp_path):
    with record_step(tmp_path / "large.json", "tile"):
        np.ones(200 << 17)  # 200 MiB
    with record_step(tmp_path / "small.json", "stitch"):
        pass
    large, small = (read_json(tmp_path / name)["peak_memory_mib"] for name in ("large.json", "small.json"))
    assert large - small > 150
