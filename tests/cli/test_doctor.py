import json
import os

import openslide
import pytest

from muse_pipeline.core import environment
from muse_pipeline.core.environment import count_cores, examine_environment
from muse_pipeline.inference.model import examine_providers


def test_plain_lines(muse):
    status, out, err = muse("doctor")
    assert (status, err) == (0, "")
    assert f"library {openslide.__library_version__}" in out
    lines = out.splitlines()[1:]
    assert len(lines) == len(examine_environment()) + len(examine_providers())
    assert all(line[2:4] in {"ok", "--"} for line in lines)


def test_json(muse):
    findings = json.loads(muse("doctor --json")[1])["findings"]
    usable = {finding["topic"]: finding["usable"] for finding in findings}
    assert usable["reader openslide"]
    assert usable["reader tiffslide"]
    assert usable["workflow"]
    assert usable["scratch"]
    assert usable["provider cpu"]
    assert "provider openvino" in usable


def test_cores_are_those_that_are_granted(monkeypatch):
    granted = {0} & os.sched_getaffinity(0) or {min(os.sched_getaffinity(0))}
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, granted)
        assert count_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    monkeypatch.setattr(
        environment,
        "_read_text",
        lambda path: "100000 100000\n" if path.endswith("cpu.max") else "",
    )
    assert count_cores() == 1


@pytest.mark.parametrize("name", ["/memory.max", "/memory/memory.limit_in_bytes"])
def test_memory_is_that_of_the_container(monkeypatch, name):
    limits = {f"/sys/fs/cgroup{name}": f"{3 << 29}\n"}
    monkeypatch.setattr(environment, "_read_text", lambda path: limits.get(path, ""))
    (memory,) = (one for one in examine_environment() if one.topic == "memory")
    assert memory.found.startswith("1.5 GiB usable of ")


def test_what_is_missing_is_reported_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    findings = {finding.topic: finding for finding in examine_environment()}
    assert not findings["gpu"].usable
    assert "no nvidia-smi" in findings["gpu"].found
    assert not findings["scratch"].usable
    assert "set TMPDIR" in findings["scratch"].found


def test_no_folder_for_temporary_files_is_a_finding(muse, monkeypatch, tmp_path):
    """Tested as if /tmp were full and the current folder read-only."""
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(tmp_path / "nowhere")])
    status, out, err = muse("doctor")
    assert (status, err) == (
        0,
        "",
    ) and "every folder for temporary files cannot be written (No usable" in out
