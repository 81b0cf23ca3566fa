"""Files with their final names are complete, and existing outputs are not lost."""

import errno
import gzip
import os
import shutil
import subprocess
import sys
import time

import pytest

from muse_pipeline.core import files
from muse_pipeline.core.errors import LabelError, OutputError
from muse_pipeline.core.files import complete_file, read_lines, write_json


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_json_has_no_number_that_is_not_finite(tmp_path, number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"sharpness": number})
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="half way"), complete_file(path) as partial:
        partial.write_text("half")
        raise ValueError("half way")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"] and path.read_text() == "1\n"


def test_a_file_never_takes_the_position_of_a_folder(tmp_path):
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides/a.svs").write_bytes(b"years of work")
    with pytest.raises(OutputError, match="is a folder"):
        write_json(tmp_path / "slides", 1)
    assert (tmp_path / "slides/a.svs").read_bytes() == b"years of work"
    assert [file.name for file in tmp_path.iterdir()] == ["slides"]


@pytest.mark.parametrize("name", ["file/a.json", "file/folder/a.json"])
def test_a_file_where_a_folder_should_be(tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        write_json(tmp_path / name, 1)


def test_an_input_that_cannot_be_read_is_not_an_output_that_cannot_be_written(tmp_path):
    denied = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "input/labels.json"))
    with (
        pytest.raises(PermissionError, match="input/labels"),
        complete_file(tmp_path / "output/a.json"),
    ):
        raise denied
    denied = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "output"))
    with (
        pytest.raises(OutputError, match="choose another output folder"),
        complete_file(tmp_path / "output/a.json"),
    ):
        raise denied


@pytest.mark.parametrize("name", ["a.json", "output/a.json"])
def test_an_output_in_the_working_folder_that_cannot_be_written_is_named(
    tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    for of_partial in (
        True,
        False,
    ):  # fails when the new file is renamed, or when the old output is moved aside
        with (
            pytest.raises(OutputError, match=f"^{name}: cannot be written"),
            complete_file(name) as partial,
        ):
            denied = partial.absolute() if of_partial else tmp_path / name
            raise PermissionError(errno.EPERM, "Operation not permitted", str(denied))


def test_what_a_killed_process_left_goes_after_a_day_and_what_may_still_be_written_stays(tmp_path):
    program = """if 1:
        import os, signal, sys
        from muse_pipeline.core.files import complete_file
        with complete_file(sys.argv[1]) as partial:
            partial.mkdir()
            (partial / "chunk").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    for name in ("image.zarr", "image.zarr", "image.zarr.json"):
        subprocess.run([sys.executable, "-c", program, tmp_path / name], check=False)
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 3
    of_yesterday, _ = sorted(name for name in left if not name.startswith(".image.zarr.json."))
    os.utime(tmp_path / of_yesterday, (time.time() - 90_000,) * 2)
    with complete_file(tmp_path / "image.zarr") as partial:
        partial.mkdir()
    assert {path.name for path in tmp_path.iterdir()} == left - {of_yesterday} | {"image.zarr"}


def test_an_older_folder_is_moved_aside_before_it_is_removed(tmp_path, monkeypatch):
    """If the folder were removed under its own name, an interruption would leave a part of it
    there.
    """
    (tmp_path / "image.zarr").mkdir()
    (tmp_path / "image.zarr/old").write_text("")

    def stop(*_, **__):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), complete_file(tmp_path / "image.zarr") as partial:
        partial.mkdir()
        (partial / "new").write_text("")
        monkeypatch.setattr(shutil, "rmtree", stop)
        monkeypatch.setattr(files.TemporaryDirectory, "cleanup", stop)
    assert [path.name for path in (tmp_path / "image.zarr").iterdir()] == ["new"]


def test_a_small_compressed_file_may_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_TEXT_BYTES", 4 << 20)
    path = tmp_path / "points.csv.gz"
    path.write_bytes(gzip.compress(b"x,y\n" * (1 << 20)))
    assert len(read_lines(path)) == 1 << 20
    path.write_bytes(gzip.compress(b"x,y\n" * (1 << 20) + b"1"))
    with pytest.raises(LabelError, match="has more than 4 MiB of text"):
        read_lines(path)
