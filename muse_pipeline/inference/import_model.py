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
from muse_pipeline.inference.maps import Map, channels_first, list_maps, scale_pixels
from muse_pipeline.inference.model import open_session, run_session
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.tissue.stain import IDENTITY

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
N_RAYS = 32  # of an outline that a watershed gives


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
        kind: content of its maps, one of ``core.types.NETWORKS``.
        classes: classes of its nuclei, without the background.
        input_px: side of a window; None if the graph fixes it.
        halo_um: border of the maps that belongs to neighbouring windows.
        maps: names of the outputs in the order of ``inference.maps.list_maps``; none to find them by name or number.
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
        maps=_choose_outputs(network, session, list_maps(kind, len(classes)), maps),
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
    network: Path, session: InferenceSession, expected: list[Map], given: Sequence[str]
) -> tuple[str, ...]:
    """The given outputs, else those with the usual names, else all."""
    names = [port.name for port in session.get_outputs()]
    if unknown := set(given) - set(names):
        raise ModelError(f"{network}: has no output '{min(unknown)}' but {', '.join(names)}; correct --outputs")
    usual = [each.name for each in expected]
    return tuple(given or (usual if set(usual) <= set(names) else names))


def _fit(network: Path, card: ImportedCard, values: list[np.ndarray], halo_um: float) -> ImportedCard:
    """The card with the sizes of the maps that the network gave.

    Raises:
        ModelError: they are not the maps of the card's kind, or a window has no core.
    """
    n_rays = _count_rays(card, values)
    if not n_rays:
        expected = list_maps(card.kind, len(card.classes))
        wanted = ", ".join(f"{each.content} ({' or '.join(map(str, each.channels)) or 'any'})" for each in expected)
        found = ", ".join(f"{name} {list(each.shape)}" for name, each in zip(card.maps, values, strict=True))
        raise ModelError(
            f"{network}: a network of kind '{card.kind}' with {len(card.classes)} of --classes has square maps, with "
            f"channels: {wanted}; found {found}; choose them by --outputs, correct --classes or --kind"
        )
    side, map_px = card.input_px, channels_first(values[0]).shape[2]
    stride_px = side // map_px if side % map_px == 0 else 1
    margin_px, odd = divmod(side - map_px * stride_px, 2)
    halo_px = math.ceil((margin_px + halo_um / card.mpp) / stride_px) * stride_px
    if odd or margin_px < 0 or 2 * halo_px >= side:
        raise ModelError(
            f"{network}: of windows of {side} px the maps have {map_px} px, and without {halo_um:g} um on either side "
            "nothing is left; give a larger --input-px or a smaller --halo-um"
        )
    return replace(card, stride_px=stride_px, margin_px=margin_px, halo_px=halo_px, n_rays=n_rays)


def _count_rays(card: ImportedCard, values: list[np.ndarray]) -> int:
    """Rays of an outline, or 0 if the outputs are not the maps of the card's kind."""
    if any(each.ndim not in (3, 4) for each in values):
        return 0
    shapes = [channels_first(each).shape for each in values]
    expected, n = list_maps(card.kind, len(card.classes)), [shape[1] for shape in shapes]
    if any(shape[2:] != (shapes[0][2],) * 2 for shape in shapes):
        return 0
    if card.kind == "stardist" and len(n) == 1:  # all maps in one output
        others = [each.channels[0] for each in expected if each.channels]
        return max(n[0] - sum(others), 0)
    fits = [not each.channels or found in each.channels for each, found in zip(expected, n, strict=False)]
    return (n[1] if card.kind == "stardist" else N_RAYS) if len(n) == len(expected) and all(fits) else 0
