"""Recognise files that users often give by mistake, from their first bytes."""

from __future__ import annotations

import re
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

OUR_CHECKPOINT = "is a checkpoint; `muse export` makes a model from it"
OF_TORCH = (
    "is a file of PyTorch from another program; load it there, and write an ONNX file with"
    " `torch.onnx.export` for `muse import-model`"
)
_OF_KERAS = (
    "is an HDF5 file, such as weights of Keras; load it in the program that wrote it, and write an"
    " ONNX file with tf2onnx for `muse import-model`"
)
_WORKBOOK = "is an Excel workbook; save its sheet as text with tabs or commas (.tsv or .csv)"
_BEGINNINGS = (
    (
        rb"version https://git-lfs",
        "is a pointer of Git LFS instead of the file; download the file (`git lfs pull`)",
    ),
    (
        rb"\s*<(!doctype html|html)",
        "is a web page instead of the file; download the file again, signed in if necessary",
    ),
    (
        rb"\s*(<\?xml|<\w*annotations)",
        "is XML, such as annotations of ImageScope or ASAP; only GeoJSON is read, which QuPath"
        " exports",
    ),
    (rb"\x89HDF\r\n", _OF_KERAS),
    (rb"\xd0\xcf\x11\xe0", _WORKBOOK),
    (
        rb"\x93NUMPY.{0,30}'descr': '\|O'",
        "contains Python objects, like the `_seg.npy` of Cellpose"
        "; save its `masks` as PNG, TIFF or NPY",
    ),
    (rb'\x80[\x02-\x05]|.{7}\0\{"', OF_TORCH),  # pickle, and safetensors
)
_HEAD_BYTES = 512


def name_content(path: Path | str) -> str:
    """Describe a file of another kind than expected, and what to do; "" if it is not recognised."""
    with suppress(OSError, zipfile.BadZipFile, RuntimeError, zlib.error):  # also encrypted archives
        with Path(path).open("rb") as file:
            head = file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf")
        if head.startswith(b"PK"):
            return _name_archive(Path(path))
        for beginning, meaning in _BEGINNINGS:
            if re.match(beginning, head, re.DOTALL | re.IGNORECASE):
                return meaning
    return ""


def _name_archive(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        members = {name.rpartition("/")[2]: name for name in archive.namelist()}
        if "workbook.xml" in members:
            return _WORKBOOK
        if "model.weights.h5" in members:
            return _OF_KERAS
        if "data.pkl" in members:
            is_ours = b"muse_pipeline " in archive.read(members["data.pkl"])
            return OUR_CHECKPOINT if is_ours else OF_TORCH
    return ""
