"""Files that users give by mistake are named for what they are, wherever they are given."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from muse_pipeline.cohort.sheet import read_table
from muse_pipeline.core.errors import MuseError
from muse_pipeline.core.files import read_lines
from muse_pipeline.inference.model import read_card
from muse_pipeline.models.weights import read_pickle
from muse_pipeline.nuclei.masks import read_mask
from muse_pipeline.qupath.regions import read_areas
from muse_pipeline.slides.base import open_slide


def zipped(name: str, content: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


OF_TORCH, OBJECTS = "is a file of PyTorch from another program", "the `_seg.npy` of Cellpose"
CONTENTS = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "of Git LFS"),
    "page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
    "imagescope": (b'<Annotations MicronsPerPixel="0.5"/>', "only GeoJSON is read"),
    "asap": (b'<?xml version="1.0"?>\n<ASAP_Annotations/>', "only GeoJSON is read"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    "keras 3": (zipped("model.weights.h5"), "is an HDF5 file"),
    "workbook": (zipped("xl/workbook.xml"), "is an Excel workbook"),
    "old workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "is an Excel workbook"),
    "script": (zipped("scripted/data.pkl", b"\x80\x02}"), OF_TORCH),
    "pickle": (b"\x80\x02}q\0.", OF_TORCH),
    "tensors": (b'\x20\0\0\0\0\0\0\0{"a":{"dtype":"F32"}}', OF_TORCH),
    "checkpoint": (zipped("c/data.pkl", b"muse_pipeline 3"), "`muse export` makes a model from it"),
    "seg": (saved(np.array({"masks": np.zeros((2, 2))}, object)), OBJECTS),
}
DOWNLOADED = {"pointer", "page"}
PLACES = {
    open_slide: ("a.svs", CONTENTS),
    read_areas: ("a.geojson", {*DOWNLOADED, "imagescope", "asap", "keras", "old workbook"}),
    read_mask: ("a.npy", {*DOWNLOADED, "seg", "workbook"}),
    read_lines: ("a.csv", CONTENTS),
    read_table: ("a.tsv", CONTENTS),
    read_card: ("a.onnx", CONTENTS),
    read_pickle: ("a.pt", {*DOWNLOADED, "keras", "keras 3", "script", "tensors"}),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_file_is_named_for_what_it_is(tmp_path, place):
    name, kinds = PLACES[place]
    path: Path = tmp_path / name
    for kind in sorted(kinds):
        content, words = CONTENTS[kind]
        path.write_bytes(content)
        with pytest.raises(MuseError) as caught:
            place(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and "\n" not in message
        assert words in message, f"{kind}: {message}"
