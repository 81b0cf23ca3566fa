"""A finished model file with facts in its card that were found out after its export."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import onnx

from muse_pipeline.core.errors import ModelError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.pictures import list_pictures, read_rgb
from muse_pipeline.export.onnx import embed_card
from muse_pipeline.inference.appearance import describe_training
from muse_pipeline.inference.card import AppearanceReference, ModelCard
from muse_pipeline.inference.model import read_card
from muse_pipeline.tissue.colour import measure_picture


def recard(model: Path, output: Path, **facts: AppearanceReference | float | str) -> ModelCard:
    """Write ``model`` to ``output``, which may be the same file, with ``facts`` in its card; its graph stays as it is.

    Raises:
        ModelError: the file is not ONNX or has no card.
    """
    card = dataclasses.replace(read_card(model), **facts)
    graph = embed_card(onnx.load(model), card)
    with complete_file(output) as partial:
        onnx.save_model(graph, partial)
    return card


def measure_folders(folders: Iterable[tuple[Path, float]]) -> AppearanceReference:
    """Appearance of the pictures of folders, each with its um per pixel.

    Raises:
        LabelError: a picture cannot be read.
        ModelError: a folder holds no picture, or nothing can be measured.
    """
    reference = describe_training([measure_picture(read_rgb(path), mpp) for path, mpp in _pictures(folders)])
    if reference is None:
        raise ModelError("the pictures hold nothing that can be measured; give those that the model was trained on")
    return reference


def _pictures(folders: Iterable[tuple[Path, float]]) -> list[tuple[Path, float]]:
    found = []
    for folder, mpp in folders:
        paths = list_pictures(folder)
        if not paths:
            raise ModelError(f"{folder}: holds no pictures; give a folder of those that the model was trained on")
        found += [(path, mpp) for path in paths]
    return found
