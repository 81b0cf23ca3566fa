"""Run the graph of a model, which takes windows of pixels and returns nuclei or maps of regions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from muse_pipeline.core.errors import ModelError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.types import Frame
from muse_pipeline.inference.card import ModelCard, RegionCard
from muse_pipeline.inference.graph import cut_after_single_values
from muse_pipeline.inference.model import (
    RUNTIMES,
    TORCH,
    card_text,
    choose_provider,
    does_not_start,
    open_session,
    run_session,
)
from muse_pipeline.inference.outlines import OutlineRefiner, fit_outlines
from muse_pipeline.nuclei.table import Nuclei

if TYPE_CHECKING:
    import onnxruntime

OUTPUTS, EMBEDDING = ("xy", "score", "prob", "rays"), "embedding"  # outputs of every detector, and an optional one
MAP = "map"  # output of region models
DENSE = "dense"  # output of networks up to the head: the backbone's map
LARGEST_CUT = 64 << 20  # bytes; larger graphs are not cut, because operations on pixels take little of their time


def nuclei_of_windows(outputs: Sequence[np.ndarray], temperature: float = 1.0) -> list[Nuclei]:
    """The nuclei in each window (frame: window), by descending score, from the outputs of a graph.

    Args:
        outputs: xy, score, prob, rays and, for models with embeddings, embedding.
        temperature: divisor of the logits, as in ``inference.card.ModelCard``.
    """
    xy, score, prob, rays, *embedding = outputs
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
        )
        for b, n in enumerate((score > 0).sum(1))
    ]


def temper(prob: np.ndarray, temperature: float) -> np.ndarray:
    """Class probabilities (..., C) with their logits divided by ``temperature`` (Guo et al., ICML 2017).

    The likeliest class does not change.
    """
    logit = np.log(np.maximum(prob, np.finfo(np.float32).tiny)) / temperature
    raised = np.exp(logit - logit.max(-1, keepdims=True))
    return (raised / raised.sum(-1, keepdims=True)).astype(np.float32)


class GraphRunner:
    """Runs the graph of a model of any kind; safe to call from several threads.

    Each call uses one thread, so that results are the same for any number of threads. On the CPU, the elementwise
    operations with which a graph begins are replaced by a table of their results for all values of a pixel.

    Args:
        path: path of an ONNX file with a card.
        provider: provider, or "auto" (``inference.model.choose_provider``).
        graph: graph derived from that of the file, to run instead; None to run the file's own graph.

    Attributes:
        any_size: True if windows of any size are accepted; False for providers that have to prepare for each size.
        device: name of PyTorch's device; "" for other providers.
    """

    def __init__(self, path: Path, provider: str = "cpu", graph: bytes | None = None):
        import onnxruntime

        self.path, self.provider = Path(path), choose_provider(provider)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session, self._table = open_session(self.path, options, self.provider, graph), None
        is_ours = "colour" in [port.name for port in self.session.get_inputs()]
        if self.provider == "cpu" and is_ours:
            with suppress(ModelError):  # ONNX Runtime rejects the parts of some graphs, which then run whole
                self._tabulate_values(graph or self.path.read_bytes(), options)
        self.device = self.session.device_name if self.provider in TORCH else ""
        # ONNX Runtime falls back to the CPU if the libraries of a provider are missing.
        if self.provider in RUNTIMES and RUNTIMES[self.provider] not in self.session.get_providers():
            raise does_not_start(self.provider)
        sides = self.session.get_inputs()[0].shape[2:]
        self.any_size = self.provider in {"cpu", "torch-cpu"} and not any(isinstance(side, int) for side in sides)
        self.sha256 = sha256_of(self.path)

    def _tabulate_values(self, graph: bytes, options: onnxruntime.SessionOptions) -> None:
        if len(graph) <= LARGEST_CUT and (parts := cut_after_single_values(graph)):
            of_values, rest = (open_session(self.path, options, self.provider, part) for part in parts)
            (table,) = run_session(of_values, self.path, None, {"pixels": np.arange(256, dtype=np.uint8)})
            self.session, self._table = rest, table

    def run(self, outputs: list[str], pixels: np.ndarray, colour: np.ndarray) -> list[np.ndarray]:
        """The named outputs for windows of ``pixels`` (B, H, W, 3) uint8 and a ``colour`` map (3, 4) float32."""
        return run_session(self.session, self.path, outputs, self.inputs(pixels, colour))

    def inputs(self, pixels: np.ndarray, colour: np.ndarray) -> dict[str, np.ndarray]:
        """The session's inputs for ``pixels`` and ``colour``, by name."""
        planes = np.empty((len(pixels), 3, *pixels.shape[1:3]), np.uint8)
        for window, channels in zip(pixels, planes, strict=True):
            cv2.split(window, list(channels))  # six times as fast as NumPy's transpose
        if self._table is not None:
            planes = cv2.LUT(planes.reshape(-1, planes.shape[-1]), self._table).reshape(planes.shape)
        return {"pixels": planes, "colour": colour}

    def require_shapes(self, stated: dict[str, tuple[int, ...]]) -> None:
        """Check that the graph's inputs and outputs have the sizes ``stated`` by its card, if the graph fixes them."""
        ports = (*self.session.get_inputs(), *self.session.get_outputs())
        if missing := stated.keys() - {port.name for port in ports}:
            raise ModelError(
                f"{self.path}: the graph lacks the outputs {sorted(missing)}; export it with `muse export`"
            )
        for port in ports:
            sizes, expected = port.shape, stated.get(port.name, port.shape)
            fits = len(sizes) == len(expected) and all(
                size == n for size, n in zip(sizes, expected, strict=True) if isinstance(size, int)
            )
            if not fits:
                raise ModelError(
                    f"{self.path}: its card states '{port.name}' as {tuple(expected)}, while the graph has "
                    f"{tuple(sizes)}; export it with `muse export`"
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
            "pixels": (card.batch, 3, side, side),
            "xy": (card.batch, slots, 2),
            "score": (card.batch, slots),
            "prob": (card.batch, slots, len(card.classes)),
            "rays": (card.batch, slots, card.n_rays),
            EMBEDDING: (card.batch, slots, card.embedding_dim),
        }
        self.require_shapes({name: shapes[name] for name in ("pixels", *self.outputs)})

    def __call__(self, pixels: np.ndarray, colour: np.ndarray) -> list[Nuclei]:
        """Find nuclei in windows.

        Args:
            pixels: (B, S, S, 3) uint8, S = the card's ``input_px``; with ``any_size``, (B, H, W, 3), where H and W are
                multiples of the card's ``stride_px``.
            colour: (3, 4) float32 map, see ``inference.stains``.

        Returns:
            The nuclei in each window (frame: window), by descending score.
        """
        if self.card.is_imported:
            found = self._find_in_maps(pixels)
        else:
            found = nuclei_of_windows(self.run(self.outputs, pixels, colour), self.card.temperature)
        return fit_outlines(found, pixels, self.card.mpp, self.card.snap_um, self.refiner)

    def _find_in_maps(self, pixels: np.ndarray) -> list[Nuclei]:
        from muse_pipeline.inference.maps import nuclei_of_maps, scale_pixels  # loads SciPy

        card = self.card
        (port,) = self.session.get_inputs()
        inputs = {port.name: scale_pixels(pixels, card)}
        found = nuclei_of_maps(run_session(self.session, self.path, list(card.maps), inputs), card)
        return [replace(nuclei, prob=temper(nuclei.prob, card.temperature)) for nuclei in found]


class RegionPredictor(GraphRunner):
    """Runs a region model."""

    def __init__(self, path: Path, provider: str = "cpu"):
        super().__init__(path, provider)
        self.card = card = RegionCard.from_json(card_text(self.session, self.path), str(self.path))
        side, cells = card.input_px, card.input_px // card.cell_px
        self.require_shapes({"pixels": (card.batch, 3, side, side), MAP: (card.batch, len(card.classes), cells, cells)})

    def __call__(self, pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
        """Map regions in windows.

        Args:
            pixels: windows of pixels, as for ``Predictor``.
            colour: (3, 4) float32 map, see ``inference.stains``.

        Returns:
            (B, C, H / cell_px, W / cell_px) float32 probabilities.
        """
        return self.run([MAP], pixels, colour)[0]
