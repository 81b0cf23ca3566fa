"""Run the graph of a model, which takes windows of pixels and returns nuclei or maps of regions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import ModelError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.types import Frame
from muse_pipeline.inference.card import (
    DENSITY,
    EMBEDDING,
    MAP,
    OUTPUTS,
    PIXELS,
    Card,
    ModelCard,
    RegionCard,
)
from muse_pipeline.inference.model import (
    DENSITIES,
    TORCH,
    card_text,
    choose_provider,
    open_session,
    run_session,
)
from muse_pipeline.inference.outlines import OutlineRefiner, fit_outlines
from muse_pipeline.nuclei.table import Nuclei

# reasons why a network's output for a window is useless
NOT_FINITE, CONSTANT = "no numbers (NaN or infinity)", "one value everywhere"
STRUCTURED = 10.0  # standard deviation of grey levels of a window with something to see


def find_faults(outputs: Sequence[ndarray], pixels: ndarray | None = None) -> list[str]:
    """The fault of a network's ``outputs`` (B, ...) for each window, or "".

    Maps are also compared with the windows' ``pixels`` (B, H, W, 3): they must not be constant
    unless the window is.
    """
    faults = []
    for window in range(len(outputs[0])):
        of_window = [values[window] for values in outputs]
        if not all(np.isfinite(values).all() for values in of_window):
            faults.append(NOT_FINITE)
        elif pixels is None or pixels[window].std() < STRUCTURED:
            faults.append("")
        else:
            faults.append("" if any(np.ptp(values) for values in of_window) else CONSTANT)
    return faults


def nuclei_of_windows(outputs: Sequence[ndarray], temperature: float = 1.0) -> list[Nuclei]:
    """The nuclei in each window (frame: window), by descending score, from xy, score, prob, rays
    and any embedding.

    For ``temperature``, see ``inference.card.ModelCard``.
    """
    faults = find_faults(outputs)
    xy, score, prob, rays, *embedding = outputs
    score = np.where(np.array(faults, bool)[:, None], 0, score)
    if temperature != 1:
        prob = temper(prob, temperature)
    return [
        Nuclei(
            xy[b, :n],
            Frame.WINDOW,
            rays=rays[b, :n],
            label=prob[b, :n].argmax(1),
            score=score[b, :n],
            prob=prob[b, :n],
            embedding=embedding[0][b, :n] if embedding else None,
            fault=faults[b],
        )
        for b, n in enumerate((score > 0).sum(1))
    ]


def temper(prob: ndarray, temperature: float) -> ndarray:
    """Class probabilities (..., C) with their logits divided by ``temperature`` (Guo et al., ICML
    2017).

    The likeliest class does not change.
    """
    logit = np.log(np.maximum(prob, np.finfo(np.float32).tiny)) / temperature
    raised = np.exp(logit - logit.max(-1, keepdims=True))
    return (raised / raised.sum(-1, keepdims=True)).astype(np.float32)


class GraphRunner:
    """Runs the graph of a model of any kind, whose card each subclass reads; safe to call from
    several threads.

    Each call uses one thread, so that results are the same for any number of threads. Densities are
    looked up in a table, for graphs that take them (``export.cut``).

    Args:
        path: path of an ONNX file with a card.
        provider: provider, or "auto" (``inference.model.choose_provider``).

    Attributes:
        port: name of the graph's first input.
        any_size: True if windows of any size are accepted; False for providers that have to prepare
            for each size.
        device: name of PyTorch's device; "" for other providers.
    """

    card: Card

    def __init__(self, path: Path, provider: str = "cpu"):
        import onnxruntime

        self.path, self.provider = Path(path), choose_provider(provider)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = open_session(self.path, options, self.provider)
        self._table = None
        self.port = self.session.get_inputs()[0].name
        if self.port == DENSITY and self.provider not in TORCH:
            of_pixels = open_session(DENSITIES, options, "cpu")
            (self._table,) = run_session(
                of_pixels, DENSITIES, None, {PIXELS: np.arange(256, dtype=np.uint8)}
            )
        self.device = self.session.device_name if self.provider in TORCH else ""
        sides = self.session.get_inputs()[0].shape[2:]
        self.any_size = self.provider in {"cpu", "torch-cpu"} and not any(
            isinstance(side, int) for side in sides
        )
        self.sha256 = sha256_of(self.path)

    def __reduce__(self) -> tuple:
        # sessions cannot be copied to other processes
        return type(self), (self.path, self.provider)

    def run(self, outputs: list[str], pixels: ndarray, colour: ndarray) -> list[ndarray]:
        """The named outputs for windows of ``pixels`` (B, H, W, 3) uint8 and a ``colour`` map (3,
        4) float32.
        """
        return run_session(self.session, self.path, outputs, self.inputs(pixels, colour))

    def inputs(self, pixels: ndarray, colour: ndarray) -> dict[str, ndarray]:
        """The session's inputs for ``pixels`` and ``colour``, by name."""
        planes = np.empty((len(pixels), 3, *pixels.shape[1:3]), np.uint8)
        for window, channels in zip(pixels, planes, strict=True):
            cv2.split(window, list(channels))  # six times as fast as NumPy's transpose
        if self._table is None:
            return {PIXELS: planes, "colour": colour}
        density = cv2.LUT(planes.reshape(-1, planes.shape[-1]), self._table).reshape(planes.shape)
        return {DENSITY: density, "colour": colour}

    def describe(self) -> dict[str, Any]:
        """The description for the provenance of the results."""
        return {
            "sha256": self.sha256,
            "provider": self.provider,
            "card": json.loads(self.card.to_json()),
        }

    def require_shapes(self, stated: dict[str, tuple[int, ...]]) -> None:
        """Check that the graph's inputs and outputs have the sizes ``stated`` by its card, if the
        graph fixes them.
        """
        ports = (*self.session.get_inputs(), *self.session.get_outputs())
        if missing := stated.keys() - {port.name for port in ports}:
            raise ModelError(
                f"{self.path}: the graph lacks the outputs {sorted(missing)}; export it with `muse"
                " export`"
            )
        for port in ports:
            sizes = port.shape
            expected = stated.get(port.name, port.shape)
            fits = len(sizes) == len(expected) and all(
                size == n for size, n in zip(sizes, expected, strict=True) if isinstance(size, int)
            )
            if not fits:
                raise ModelError(
                    f"{self.path}: its card states '{port.name}' as {tuple(expected)}, while the"
                    f" graph has {tuple(sizes)}; export it with `muse export`"
                )


class Predictor(GraphRunner):
    """Runs a detector."""

    def __init__(self, path: Path, provider: str = "cpu"):
        super().__init__(path, provider)
        self.card = card = ModelCard.from_json(card_text(self.session, self.path), str(self.path))
        self.refiner = OutlineRefiner() if card.refine else None
        if card.is_imported:
            self.any_size = False  # results may depend on the size of a window
            return
        self.outputs = [*OUTPUTS, EMBEDDING] if card.embedding_dim else list(OUTPUTS)
        side, slots = card.input_px, card.capacity
        shapes = {
            self.port: (card.batch, 3, side, side),
            "xy": (card.batch, slots, 2),
            "score": (card.batch, slots),
            "prob": (card.batch, slots, len(card.classes)),
            "rays": (card.batch, slots, card.n_rays),
            EMBEDDING: (card.batch, slots, card.embedding_dim),
        }
        self.require_shapes({name: shapes[name] for name in (self.port, *self.outputs)})

    def __call__(self, pixels: ndarray, colour: ndarray) -> list[Nuclei]:
        """Find the nuclei in each window (frame: window), by descending score.

        Args:
            pixels: (B, S, S, 3) uint8, S = the card's ``input_px``; with ``any_size``, (B, H, W,
                3), where H and W are multiples of the card's ``stride_px``.
            colour: (3, 4) float32 map, see ``inference.stains``.
        """
        if self.card.is_imported:
            nuclei = self._find_in_maps(pixels)
        else:
            nuclei = nuclei_of_windows(
                self.run(self.outputs, pixels, colour), self.card.temperature
            )
        return fit_outlines(nuclei, pixels, self.card.mpp, self.card.snap_um, self.refiner)

    def _find_in_maps(self, pixels: ndarray) -> list[Nuclei]:
        from muse_pipeline.inference.maps import nuclei_of_maps, scale_pixels  # loads SciPy

        card = self.card
        (port,) = self.session.get_inputs()
        inputs = {port.name: scale_pixels(pixels, card)}
        maps = run_session(self.session, self.path, list(card.maps), inputs)
        faults = find_faults(maps, pixels)
        useless = np.array(faults, bool)
        maps = [np.where(useless.reshape(-1, *[1] * (m.ndim - 1)), 0, m) for m in maps]
        windows = []
        for nuclei, fault in zip(nuclei_of_maps(maps, card), faults, strict=True):
            sound = nuclei[:0] if fault else nuclei
            prob = temper(sound.prob, card.temperature)
            windows.append(replace(sound, prob=prob, fault=fault))
        return windows


class RegionPredictor(GraphRunner):
    """Runs a region model."""

    def __init__(self, path: Path, provider: str = "cpu"):
        super().__init__(path, provider)
        self.card = card = RegionCard.from_json(card_text(self.session, self.path), str(self.path))
        side, cells = card.input_px, card.input_px // card.cell_px
        self.require_shapes(
            {
                self.port: (card.batch, 3, side, side),
                MAP: (card.batch, len(card.classes), cells, cells),
            }
        )

    def __call__(self, pixels: ndarray, colour: ndarray) -> ndarray:
        """Probabilities (B, C, H / cell_px, W / cell_px) float32 of the classes; arguments as for
        ``Predictor``.
        """
        (maps,) = self.run([MAP], pixels, colour)
        if any(find_faults([maps])):
            raise ModelError(f"{self.path}: returns {NOT_FINITE}; export it again in float32")
        return maps
