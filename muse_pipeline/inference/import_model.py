"""Import of networks of others: a card is added to the ONNX file, and its graph is unchanged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.core.errors import ModelError
from muse_pipeline.core.files import complete_file, sha256_of
from muse_pipeline.core.types import NucleusClass
from muse_pipeline.inference.card import METADATA_KEY, ImportedCard
from muse_pipeline.inference.graph import add_metadata
from muse_pipeline.inference.maps import MAPS, channels_first, describe_maps, scale_pixels
from muse_pipeline.inference.model import open_session, run_session
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.tissue.stain import IDENTITY

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
N_RAYS = 32  # of an outline that a watershed gives
LEAST_RAYS = 3


def import_model(
    network: Path,
    output: Path,
    *,
    kind: str,
    classes: Sequence[NucleusClass],
    input_px: int | None,
    halo_um: float,
    maps: Sequence[str],
    **facts: Any,
) -> ImportedCard:
    """Write ``network`` with a card to ``output``, after a trial on an empty window.

    Args:
        network: ONNX file without a card.
        output: file to write.
        kind: content of its maps, a key of ``inference.maps.MAPS``.
        classes: classes of its nuclei, without the background.
        input_px: side of a window; None if the graph fixes it.
        halo_um: border of the maps that belongs to neighbouring windows.
        maps: names of the outputs in the order of ``inference.maps.MAPS``; none to find them by name or number.
        facts: further entries of the card.

    Raises:
        ConfigError: a window has no core.
        ModelError: the file is not such a network.
    """
    import onnxruntime

    session = open_session(network, onnxruntime.SessionOptions(), "cpu")
    if METADATA_KEY in session.get_modelmeta().custom_metadata_map:
        raise ModelError(f"{network}: already has a model card; run it as it is, with `--model`")
    batch, side, is_first, dtype = _read_input(network, session, input_px)
    card = ImportedCard(
        input_px=side,
        halo_px=0,
        stride_px=1,
        batch=batch,
        capacity=(side // CELL_PX) ** 2,
        classes=tuple(classes),
        n_rays=N_RAYS,
        readout="pixel",
        kind=kind,
        maps=_choose_outputs(network, session, kind, len(classes), maps),
        dtype=dtype,
        channels_first=is_first,
        source={"network_sha256": sha256_of(network), "command": f"muse import-model --kind {kind}"},
        **facts,
    )
    blank = np.full((batch, side, side, 3), 200, np.uint8)
    inputs = {session.get_inputs()[0].name: scale_pixels(blank, card)}
    card = _fit(network, card, run_session(session, network, list(card.maps), inputs), halo_um)
    with complete_file(output) as unfinished:
        unfinished.write_bytes(add_metadata(network.read_bytes(), METADATA_KEY, card.to_json()))
        Predictor(unfinished)(blank, IDENTITY)
    return card


def _read_input(network: Path, session: InferenceSession, input_px: int | None) -> tuple[int, int, bool, str]:
    """Windows per call, side, whether channels are first, and type of the graph's input."""
    ports = session.get_inputs()
    shape = ports[0].shape
    if len(ports) != 1 or len(shape) != 4 or 3 not in (shape[1], shape[3]) or ports[0].type not in DTYPES:
        found = ", ".join(f"{port.name} {port.type} {port.shape}" for port in ports)
        raise ModelError(
            f"{network}: takes {found}; give a network with one input, of RGB windows in float32, float16 or uint8"
        )
    is_first = shape[1] == 3
    sides = {side for side in (shape[2:] if is_first else shape[1:3]) if isinstance(side, int)}
    if not sides and input_px is None:
        raise ModelError(f"{network}: takes windows of any size; give --input-px, for example 512")
    if len(sides | ({input_px} - {None})) != 1:
        raise ModelError(
            f"{network}: takes windows of {' x '.join(map(str, sorted(sides)))} px only; they must be square, and "
            "--input-px may be left out"
        )
    batch = shape[0] if isinstance(shape[0], int) else 1
    return batch, input_px or sides.pop(), is_first, DTYPES[ports[0].type]


def _choose_outputs(
    network: Path, session: InferenceSession, kind: str, n_classes: int, given: Sequence[str]
) -> tuple[str, ...]:
    """The given outputs, else those with the names of ``MAPS``, else all."""
    names = [port.name for port in session.get_outputs()]
    if unknown := set(given) - set(names):
        raise ModelError(f"{network}: has no output '{min(unknown)}' but {', '.join(names)}; correct --outputs")
    usual = MAPS[kind][: len(describe_maps(kind, n_classes))]
    return tuple(given or (usual if set(usual) <= set(names) else names))


def _fit(network: Path, card: ImportedCard, values: list[np.ndarray], halo_um: float) -> ImportedCard:
    """The card with the sizes of the maps that the network gave.

    Raises:
        ModelError: they are not the maps of the card's kind, or a window has no core.
    """
    expected = describe_maps(card.kind, len(card.classes))
    if card.kind == "stardist" and len(values) == 1:  # all in one
        expected = [(", ".join(content for content, _ in expected), ())]
    maps = [channels_first(each) if each.ndim in (3, 4) else None for each in values]
    is_square = all(each is not None and each.shape[2] == each.shape[3] == maps[0].shape[2] for each in maps)
    fits = len(maps) == len(expected) and all(
        not allowed or each.shape[1] in allowed for each, (_, allowed) in zip(maps, expected, strict=True)
    )
    n_rays = card.n_rays
    if is_square and fits and card.kind == "stardist":
        n_others = len(card.classes) + 1 if len(card.classes) > 1 else 0
        n_rays = maps[1].shape[1] if len(maps) > 1 else maps[0].shape[1] - 1 - n_others
    if not is_square or not fits or n_rays < LEAST_RAYS:
        wanted = " and ".join(f"{content} ({' or '.join(map(str, n)) or 'any number'})" for content, n in expected)
        found = ", ".join(f"{name} {list(each.shape)}" for name, each in zip(card.maps, values, strict=True))
        raise ModelError(
            f"{network}: a network of kind '{card.kind}' with {len(card.classes)} of --classes has square maps, with "
            f"channels: {wanted}; found {found}; choose them by --outputs, correct --classes or --kind"
        )
    side, map_px = card.input_px, maps[0].shape[2]
    stride_px = side // map_px if side % map_px == 0 else 1
    margin_px, odd = divmod(side - map_px * stride_px, 2)
    halo_px = math.ceil((margin_px + halo_um / card.mpp) / stride_px) * stride_px
    if odd or margin_px < 0 or 2 * halo_px >= side:
        raise ModelError(
            f"{network}: of windows of {side} px the maps have {map_px} px, and without {halo_um:g} um on either side "
            "nothing is left; give a larger --input-px or a smaller --halo-um"
        )
    return replace(card, stride_px=stride_px, margin_px=margin_px, halo_px=halo_px, n_rays=n_rays)
