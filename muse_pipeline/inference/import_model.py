"""Import of third-party networks: a card is added to a copy of the ONNX file, and the graph is
unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.core.errors import MissingPackageError, ModelError
from muse_pipeline.core.files import complete_file, sha256_of
from muse_pipeline.core.types import ENCODER
from muse_pipeline.inference.card import METADATA_KEY, Card, EncoderCard, ImportedCard
from muse_pipeline.inference.encoder import BATCH, CORE_PX
from muse_pipeline.inference.families import FAMILIES
from muse_pipeline.inference.maps import (
    N_RAYS,
    RADIUS_UM,
    SCALINGS,
    nuclei_of_maps,
    read_maps,
    scale_pixels,
)
from muse_pipeline.inference.model import open_session, run_session
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.tissue.stain import IDENTITY

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
PLAUSIBLE_UM = 1.0, 30.0  # plausible range of the median ray of synthetic nuclei
PERIOD_UM = 16.0  # spacing of the synthetic nuclei
# colours of the synthetic nuclei and of the background
NUCLEI, TISSUE = (96, 72, 140), (232, 196, 214)
# Contents of maps of probabilities (``Family.list_maps``).
PROBABILITIES = ("nucleus", "classes", "classes and boundary", "background, inside and boundary")
ROUNDING = 0.01  # largest excess of a probability over 0 to 1, in half precision


def import_model(
    network: Path,
    output: Path,
    input_px: int | None,
    halo_um: float,
    outputs: Sequence[str],
    graph: Path | None = None,
    **facts: Any,
) -> ImportedCard:
    """Write ``network``, an ONNX file without a card, with a card to ``output``, after a trial on
    synthetic nuclei.

    Args:
        network: file of the network.
        output: file to write.
        input_px: side of a window; None if the graph fixes it.
        halo_um: width of the border of the maps that is left to neighbouring windows.
        outputs: names of the outputs in the order of ``Family.list_maps``; if empty, they are found
            by their usual names, or else taken in the order of the graph.
        graph: the network as ONNX file, if ``network`` is none.
        facts: entries of the card that the network does not contain.
    """
    session = _open_network(graph or network)
    family = FAMILIES[facts["kind"]]()
    if len(facts["classes"]) > 1 and not family.has_classes:
        raise ModelError(
            f"{network}: has no classes, like all networks of kind '{facts['kind']}'; give one"
            " --classes"
        )
    names = [port.name for port in session.get_outputs()]
    if unknown := set(outputs) - set(names):
        raise ModelError(
            f"{network}: has no output '{min(unknown)}', only {', '.join(names)}; correct --outputs"
        )
    usual = [of_map.name for of_map in family.list_maps(len(facts["classes"]))]
    card = ImportedCard(
        **_read_input(network, session, input_px, facts["scaling"]),
        **facts,
        maps=tuple(outputs or (usual if set(usual) <= set(names) else names)),
        # Sizes that are valid for the trial; ``_fit`` replaces them with sizes that follow from the
        # maps.
        halo_px=0,
        stride_px=1,
        capacity=1,
        n_rays=N_RAYS,
        readout="pixel",
        source={
            "network_sha256": sha256_of(network),
            "command": f"muse import-model --kind {facts['kind']}",
        },
    )
    field = _draw_field(card.mpp, card.input_px, card.batch)
    maps = run_session(
        session, network, list(card.maps), {session.get_inputs()[0].name: scale_pixels(field, card)}
    )
    card = _fit(network, card, maps, halo_um)
    if wrong := _find_fault(card, maps):
        raise ModelError(f"{network}: returns {wrong}, or export the network again")
    n_drawn = int(_lattice(card).sum())
    n_right = _count_right(card, maps)
    others = _try_scalings(network, session, card, field)
    if 2 * n_right < n_drawn:
        _require_scaling(network, card, n_right, others)
    trial = f"finds {n_right} of {n_drawn} synthetic nuclei"
    if as_many := [scaling for scaling, n in others.items() if n >= n_right > 0]:
        trial += f", and as many with --scaling {', '.join(as_many)}: give the one of its training"
    card = replace(card, source=card.source | {"trial": trial})
    with _with_card(graph or network, card, output) as unfinished:
        Predictor(unfinished)(field, IDENTITY)
    return card


def import_encoder(
    network: Path, output: Path, input_px: int | None, outputs: Sequence[str], **facts: Any
) -> EncoderCard:
    """Write ``network``, an encoder that computes a vector for a tile, with a card to ``output``.

    Args:
        network: ONNX file.
        output: file to write.
        input_px: side of a tile; None if the graph fixes it.
        outputs: name of the output with the vector; if empty, the graph's first output.
        facts: entries of the card that the network does not contain.
    """
    session = _open_network(network)
    ports = {port.name: port for port in session.get_outputs()}
    name = next(iter(outputs or ports))
    if len(outputs) > 1 or name not in ports:
        raise ModelError(
            f"{network}: an encoder has one vector, in one of {', '.join(ports)}; correct --outputs"
        )
    described = _read_input(network, session, input_px, facts["scaling"])
    tile_px = described.pop("input_px")
    batch = session.get_inputs()[0].shape[0]
    half_px = math.ceil(tile_px / 2) + 1  # tiles are cut at whole pixels
    card = EncoderCard(
        **described | {"batch": batch if isinstance(batch, int) else BATCH},
        **facts,
        input_px=CORE_PX + 2 * half_px,
        halo_px=half_px,
        stride_px=1,
        tile_px=tile_px,
        output=name,
        embedding_dim=1,  # replaced after the trial
        source={
            "network_sha256": sha256_of(network),
            "command": f"muse import-model --kind {ENCODER}",
        },
    )
    tiles = scale_pixels(_draw_field(card.mpp, tile_px, card.batch), card)
    (vectors,) = run_session(session, network, [name], {session.get_inputs()[0].name: tiles})
    if vectors.ndim != 2 or len(vectors) != card.batch or not vectors.size:
        raise ModelError(
            f"{network}: output '{name}' has shape {list(vectors.shape)} for {card.batch} tiles; an"
            " encoder gives a vector per tile: name another output with --outputs, or export the"
            " network with its pooling"
        )
    if not np.abs(vectors).max() < np.finfo(np.float16).max:
        raise ModelError(
            f"{network}: returns NaN, or values above 65,504, for a drawn tile; correct --scaling"
        )
    card = replace(card, embedding_dim=vectors.shape[1])
    with _with_card(network, card, output):
        return card


def _open_network(network: Path) -> InferenceSession:
    """Open an ONNX file without a card."""
    import onnxruntime

    if not network.is_file():
        raise ModelError(f"{network}: there is no such file; correct the path")
    session = open_session(network, onnxruntime.SessionOptions(), "cpu")
    if METADATA_KEY in session.get_modelmeta().custom_metadata_map:
        raise ModelError(f"{network}: already has a model card; run it as it is, with `--model`")
    return session


@contextmanager
def _with_card(network: Path, card: Card, output: Path) -> Iterator[Path]:
    """Write a copy of the network with a card, which becomes ``output`` unless the caller's trial
    of it fails.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "imported networks need the package 'onnx', which is not installed; install the extra"
            " `onnx`"
        ) from error
    model = onnx.load(network)
    model.metadata_props.add(key=METADATA_KEY, value=card.to_json())
    with complete_file(output) as unfinished:
        onnx.save(model, unfinished)
        yield unfinished


def _find_fault(card: ImportedCard, outputs: list[ndarray]) -> str:
    """Describe a fault in the maps of synthetic nuclei, and what to correct; "" if there is
    none.
    """
    if not all((values < np.inf).all() for values in outputs):
        return "NaN or infinity for synthetic nuclei; correct --scaling"
    maps, family = read_maps(outputs, card), FAMILIES[card.kind]()
    names = card.maps * (len(maps) // len(card.maps))  # one output may have all maps
    for name, of_map, values in zip(names, family.list_maps(len(card.classes)), maps, strict=True):
        low, high = values.min(), values.max()
        are_probs = -ROUNDING <= low <= high <= 1 + ROUNDING
        if of_map.content in PROBABILITIES and are_probs == card.logits:
            what, flag = ("logits", "leave out") if card.logits else ("probabilities", "give")
            return (
                f"{low:.3g} to {high:.3g} as {what} ('{name}'); {flag} --logits, correct --scaling"
                " or --outputs"
            )
    return family.find_fault(maps, card) or _find_wrong_nuclei(card, outputs)


def _find_wrong_nuclei(card: ImportedCard, outputs: list[ndarray]) -> str:
    """Describe nuclei that are found but are no synthetic ones; "" if most are."""
    (nuclei, *_), n_right = nuclei_of_maps(outputs, card), _count_right(card, outputs)
    if not len(nuclei):
        return ""
    radius_um = np.median(nuclei.rays)
    if not PLAUSIBLE_UM[0] <= radius_um <= PLAUSIBLE_UM[1]:
        return (
            f"rays of {radius_um:,.1f} um for synthetic nuclei with a radius of {RADIUS_UM:g} um;"
            " correct --kind, --mpp, --scaling or --outputs"
        )
    if 2 * n_right < len(nuclei):
        return (
            f"{len(nuclei)} nuclei, of which {n_right} are where synthetic ones are; correct"
            " --kind, --scaling, --outputs or --logits"
        )
    return ""


def _lattice(card: ImportedCard) -> ndarray:
    """(n, n) bool: True for the synthetic nuclei of a window that its maps contain."""
    middle_px = (np.arange(card.input_px * card.mpp // PERIOD_UM) + 0.5) * PERIOD_UM / card.mpp
    is_in = (card.margin_px < middle_px) & (middle_px < card.input_px - card.margin_px)
    return is_in & is_in[:, None]


def _count_right(card: ImportedCard, outputs: list[ndarray]) -> int:
    """Number of synthetic nuclei that the network finds in the first window."""
    cell, offset = np.divmod(nuclei_of_maps(outputs, card)[0].xy * card.mpp, PERIOD_UM)
    is_on = np.hypot(*(offset - PERIOD_UM / 2).T) < RADIUS_UM
    return len(np.unique(cell[is_on], axis=0))


def _try_scalings(
    network: Path, session: InferenceSession, card: ImportedCard, field: ndarray
) -> dict[str, int]:
    """Number of synthetic nuclei that the network finds with each scaling other than the card's;
    without scalings that are at fault.
    """
    found = {}
    for scaling in SCALINGS if card.dtype != "uint8" else ():
        if scaling != card.scaling:
            other = replace(card, scaling=scaling)
            pixels = {session.get_inputs()[0].name: scale_pixels(field, other)}
            maps = run_session(session, network, list(card.maps), pixels)
            if not _find_fault(other, maps):
                found[scaling] = _count_right(other, maps)
    return found


def _require_scaling(
    network: Path, card: ImportedCard, n_right: int, others: dict[str, int]
) -> None:
    """Reject ``card.scaling``, with which the network finds ``n_right`` synthetic nuclei, if it
    finds over twice as many with one of the ``others`` (``_try_scalings``).
    """
    better = [scaling for scaling, n in others.items() if n > 2 * n_right]
    if better or (card.scaling == "none" and not n_right):
        number = n_right or "none"
        what = f"with --scaling {card.scaling}, the network finds {number} of the synthetic nuclei"
        remedy = "correct --mpp or --outputs, or lower --threshold"
        if better:
            remedy = (
                f"it finds more with {' or '.join(better)}; give the scaling with which it was"
                " trained"
            )
        raise ModelError(f"{network}: {what}; {remedy}")


def _draw_field(mpp: float, side_px: int, batch: int) -> ndarray:
    """(B, S, S, 3) uint8 windows with round nuclei on a lattice."""
    um = (np.arange(side_px) + 0.5) * mpp % PERIOD_UM - PERIOD_UM / 2
    is_nucleus = np.hypot(um, um[:, None])[..., None] < RADIUS_UM
    return np.where(is_nucleus, NUCLEI, TISSUE).astype(np.uint8)[None].repeat(batch, 0)


def _read_input(
    network: Path, session: InferenceSession, input_px: int | None, scaling: str
) -> dict[str, Any]:
    """Entries of the card that describe the graph's input."""
    ports = session.get_inputs()
    batch, *shape = ports[0].shape
    if (
        len(ports) != 1
        or len(shape) != 3
        or 3 not in (shape[0], shape[2])
        or ports[0].type not in DTYPES
    ):
        inputs = ", ".join(f"{port.name} {port.type} {port.shape}" for port in ports)
        raise ModelError(
            f"{network}: takes {inputs}; give a network with one input, of RGB windows in float32,"
            " float16 or uint8"
        )
    if ports[0].type == "tensor(uint8)" and scaling != "none":
        raise ModelError(f"{network}: takes pixels in uint8, from 0 to 255; give --scaling none")
    is_first = shape[0] == 3
    sides = {side for side in (shape[1:] if is_first else shape[:2]) if isinstance(side, int)}
    if not sides and input_px is None:
        raise ModelError(f"{network}: takes windows of any size; give --input-px, for example 512")
    if len(sides | ({input_px} - {None})) > 1:
        only = " x ".join(map(str, sorted(sides)))
        raise ModelError(
            f"{network}: takes only windows of {only} px; they must be square, with --input-px as"
            " side"
        )
    return {
        "batch": batch if isinstance(batch, int) else 1,
        "input_px": input_px or sides.pop(),
        "channels_first": is_first,
        "dtype": DTYPES[ports[0].type],
    }


def _fit(network: Path, card: ImportedCard, values: list[ndarray], halo_um: float) -> ImportedCard:
    """The card, completed with the sizes of the maps that the network returned."""
    n_rays = _count_rays(card, values)
    if not n_rays:
        expected = FAMILIES[card.kind]().list_maps(len(card.classes))
        wanted = ", ".join(
            f"{content} ({' or '.join(map(str, n)) or 'any'})" for _, content, n in expected
        )
        sizes = ", ".join(
            f"{name} {list(array.shape)}" for name, array in zip(card.maps, values, strict=True)
        )
        raise ModelError(
            f"{network}: a network of kind '{card.kind}' for"
            f" {', '.join(one.name for one in card.classes)} has square maps with channels:"
            f" {wanted}; found {sizes}; name the maps with --outputs, or correct --classes or"
            " --kind"
        )
    side, map_px = card.input_px, read_maps(values, card)[0].shape[2]
    # If the side of a map does not divide that of the window, the network has no padding and leaves
    # out a margin.
    stride_px = side // map_px if side % map_px == 0 else 1
    margin_px, odd = divmod(side - map_px * stride_px, 2)
    halo_px = math.ceil((margin_px + halo_um / card.mpp) / stride_px) * stride_px
    if odd or margin_px < 0 or 2 * halo_px >= side:
        raise ModelError(
            f"{network}: for windows of {side} px the maps have {map_px} px, and inside a border of"
            f" {halo_um:g} um nothing is left; give a larger --input-px or a smaller --halo-um"
        )
    sizes = {"stride_px": stride_px, "margin_px": margin_px, "halo_px": halo_px}
    return replace(card, **sizes, n_rays=n_rays, capacity=(side // CELL_PX) ** 2)


def _count_rays(card: ImportedCard, values: list[ndarray]) -> int:
    """Number of rays of an outline; 0 if the outputs are not the maps of the card's kind."""
    if any(of_map.ndim not in (3, 4) for of_map in values):
        return 0
    maps, family = read_maps(values, card), FAMILIES[card.kind]()
    allowed = [of_map.channels for of_map in family.list_maps(len(card.classes))]
    is_as_listed = len(maps) == len(allowed) and all(
        of_map.shape[2:] == (maps[0].shape[2],) * 2 and (not n or of_map.shape[1] in n)
        for n, of_map in zip(allowed, maps, strict=True)
    )
    return family.count_rays(maps) if is_as_listed else 0
