"""A model file in ONNX Runtime: windows of pixels in, nuclei out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from muse_pipeline.core.errors import ModelError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.types import Frame
from muse_pipeline.inference.card import ModelCard
from muse_pipeline.inference.model import PROVIDERS, card_inside, choose_provider, does_not_start, open_session
from muse_pipeline.nuclei.table import Nuclei

OUTPUTS, EMBEDDING = ("xy", "score", "prob", "rays"), "embedding"  # of every graph; of those with an embedding_dim


def nuclei_of_windows(outputs: Sequence[np.ndarray], temperature: float = 1.0) -> list[Nuclei]:
    """The graph's outputs, with or without embeddings, as each window's nuclei (frame: window), by descending score.

    Args:
        outputs: xy, score, prob, rays and perhaps embedding.
        temperature: see ``inference.card.ModelCard``.
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

    Which class is the likeliest stays as it is.
    """
    logit = np.log(np.maximum(prob, np.finfo(np.float32).tiny)) / temperature
    raised = np.exp(logit - logit.max(-1, keepdims=True))
    return (raised / raised.sum(-1, keepdims=True)).astype(np.float32)


class Predictor:
    """Runs one model; safe to call from several threads, each call on one thread of its own on a CPU.

    One thread per call, whatever the number of callers, keeps results identical for any number of threads.

    Args:
        path: an ONNX file with a card.
        provider: see ``inference.model.choose_provider``.

    Attributes:
        any_size: whether windows of any size are taken as readily as the card's; a GPU starts anew for every size.

    Raises:
        ModelError: the file is not ONNX, has no card, or its card speaks of another graph.
        ProviderError: the provider is not installed.
    """

    def __init__(self, path: Path, provider: str = "cpu"):
        import onnxruntime

        self.path, self.provider = Path(path), choose_provider(provider)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = open_session(self.path, options, self.provider)
        self._refuse_silent_fallback()
        self.card = self._read_card()
        sides = self.session.get_inputs()[0].shape[2:]
        self.any_size = self.provider == "cpu" and not any(isinstance(side, int) for side in sides)
        self.outputs = [*OUTPUTS, EMBEDDING] if self.card.embedding_dim else list(OUTPUTS)
        self.sha256 = sha256_of(self.path)

    def __call__(self, pixels: np.ndarray, colour: np.ndarray) -> list[Nuclei]:
        """Find nuclei in windows.

        Args:
            pixels: (B, S, S, 3) uint8, S = the card's ``input_px``; with ``any_size`` (B, H, W, 3), both sides
                multiples of the card's ``stride_px``.
            colour: (3, 4) float32.

        Returns:
            For each window its nuclei (frame: window), by descending score.
        """
        inputs = {"pixels": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), "colour": colour}
        return nuclei_of_windows(self.session.run(self.outputs, inputs), self.card.temperature)

    def _refuse_silent_fallback(self) -> None:
        if PROVIDERS[self.provider] not in self.session.get_providers():
            raise does_not_start(self.provider)

    def _read_card(self) -> ModelCard:
        card = card_inside(self.session, self.path)
        outputs = {output.name for output in self.session.get_outputs()}
        missing = {*OUTPUTS, *([EMBEDDING] if card.embedding_dim else [])} - outputs
        if missing:
            raise ModelError(
                f"{self.path}: the graph lacks the outputs {sorted(missing)}; export it with `muse export`"
            )
        self._require_shapes(card)
        return card

    def _require_shapes(self, card: ModelCard) -> None:
        """Whether the graph is of the sizes that its card states; sizes that the graph leaves open suit any."""
        side, slots, n_classes = card.input_px, card.capacity, len(card.classes)
        stated = {
            "pixels": (card.batch, 3, side, side),
            "xy": (card.batch, slots, 2),
            "score": (card.batch, slots),
            "prob": (card.batch, slots, n_classes),
            "rays": (card.batch, slots, card.n_rays),
            EMBEDDING: (card.batch, slots, card.embedding_dim),
        }
        for port in (*self.session.get_inputs(), *self.session.get_outputs()):
            sizes, expected = port.shape, stated.get(port.name, port.shape)
            fits = len(sizes) == len(expected) and all(
                size == n for size, n in zip(sizes, expected, strict=True) if isinstance(size, int)
            )
            if not fits:
                raise ModelError(
                    f"{self.path}: its card says that '{port.name}' is {tuple(expected)}, while the graph has "
                    f"{tuple(sizes)}; export it with `muse export`"
                )
