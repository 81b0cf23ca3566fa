"""A model file in ONNX Runtime: windows of pixels in, nuclei out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from muse_pipeline.errors import ModelError
from muse_pipeline.inference.card import METADATA_KEY, ModelCard
from muse_pipeline.inference.providers import PROVIDERS, choose_provider, does_not_start, runtime_arguments
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.surroundings import has_vnni
from muse_pipeline.types import Frame

if TYPE_CHECKING:
    import onnxruntime

OUTPUTS, EMBEDDING = ("xy", "score", "prob", "rays"), "embedding"  # of every graph; of those with an embedding_dim
BUILT_IN_OF_MODE = {"supervised": "compact", "label-free": "label_free"}
BUILT_IN = Path(__file__).parent / "built_in"
_RUN = "is a training run; `muse finetune` and `muse export` it, or name it as `model` in the workflow's config"
NOT_YET_MODELS = {".pt": "is a checkpoint; `muse export` makes the model of it", ".yaml": _RUN, ".yml": _RUN}


def find_model(model: str, provider: str = "cpu") -> Path:
    """The file of a built-in model's name or of a path.

    A built-in model that is there in fp32 and in int8 is chosen as ``faster_precision`` says; with its precision, as in
    ``compact-fp32``, a name means the same file everywhere.

    Raises:
        ModelError: there is neither.
    """
    for name in (model, f"{model}-{faster_precision(provider)}"):
        named = BUILT_IN / f"{name}.onnx"
        if named.is_file():
            return named
    path = Path(model)
    if path.is_file():
        return path
    files = [file.stem for file in BUILT_IN.glob("*.onnx")]
    known = sorted({*files, *(name.partition("-")[0] for name in files)})
    near = get_close_matches(model, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "correct the name or path"
    raise ModelError(f"model '{model}': neither a file nor a built-in model ({', '.join(known)}); {hint}")


def name_model(path: Path) -> str:
    """What ``find_model`` finds this very file by, on any machine."""
    return path.stem if path.parent == BUILT_IN else str(path)


def faster_precision(provider: str) -> str:
    """The precision "int8" on a processor with VNNI, else "fp32".

    Other processors add products of bytes in 16 bits, which may not hold them; GPUs gain nothing from this int8.
    """
    return "int8" if provider == "cpu" and has_vnni() else "fp32"


def precision_warnings(card: ModelCard, provider: str) -> list[str]:
    """A sentence if this processor cannot be trusted with the model's integers."""
    if card.precision != "int8" or provider != "cpu" or has_vnni():
        return []
    return [
        f"model '{card.name}' is in int8, and this processor does not say that it has VNNI: sums may overflow, and "
        "nuclei differ from those found elsewhere; choose the model in fp32 (compact-fp32)"
    ]


def read_card(path: Path) -> ModelCard:
    """The card of a model that is not to be run.

    Raises:
        ModelError: the file is not ONNX or has no card.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return _card_inside(_open_session(path, options, "cpu"), path)


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
        provider: see ``inference.providers.choose_provider``.

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
        self.session = _open_session(self.path, options, self.provider)
        self._refuse_silent_fallback()
        self.card = self._read_card()
        sides = self.session.get_inputs()[0].shape[2:]
        self.any_size = self.provider == "cpu" and not any(isinstance(side, int) for side in sides)
        self.outputs = [*OUTPUTS, EMBEDDING] if self.card.embedding_dim else list(OUTPUTS)
        self.sha256 = hashlib.sha256(self.path.read_bytes()).hexdigest()

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
        card = _card_inside(self.session, self.path)
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


def _open_session(path: Path, options: onnxruntime.SessionOptions, provider: str) -> onnxruntime.InferenceSession:
    import onnxruntime

    options.log_severity_level = 3
    providers = runtime_arguments(provider)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime raises its own unrelated classes on foreign bytes
        broken = f"not usable as an ONNX model ({_first_line(error)}); export it again"
        raise ModelError(f"{path}: {NOT_YET_MODELS.get(path.suffix.lower(), broken)}") from error


def _card_inside(session: onnxruntime.InferenceSession, path: Path) -> ModelCard:
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: what it says of itself is no text; copy it again, or export it anew") from error
    if METADATA_KEY not in metadata:
        raise ModelError(f"{path}: this ONNX file carries no model card; export it with `muse export`")
    return ModelCard.from_json(metadata[METADATA_KEY], str(path))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
