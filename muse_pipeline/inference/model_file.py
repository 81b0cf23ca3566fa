"""Files of models: built-in ones by name, a checkpoint beside each graph, and the card that a graph carries."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from muse_pipeline.errors import ModelError
from muse_pipeline.inference.card import METADATA_KEY, ModelCard
from muse_pipeline.inference.providers import runtime_arguments
from muse_pipeline.surroundings import has_vnni

if TYPE_CHECKING:
    import onnxruntime

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
    if (path / "checkpoint.pt").is_file():
        raise ModelError(
            f"{path}: is the folder of a training run; `muse export {path}/checkpoint.pt` makes the model of it"
        )
    files = [file.stem for file in BUILT_IN.glob("*.onnx")]
    known = sorted({*files, *(name.partition("-")[0] for name in files)})
    near = get_close_matches(model, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "correct the name or path"
    raise ModelError(f"model '{model}': neither a file nor a built-in model ({', '.join(known)}); {hint}")


def name_model(path: Path) -> str:
    """What ``find_model`` finds this very file by, on any machine."""
    return path.stem if path.parent == BUILT_IN else str(path)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint beside the graph of a built-in model's name, or the path itself."""
    named = BUILT_IN / f"{path}.pt"
    return named if named.is_file() else path


def checkpoint_from(folder: Path, path: Path) -> Path:
    """A built-in model's name as it is, else the path from ``folder``; ``find_checkpoint`` finds either."""
    return path if find_checkpoint(path) != path else folder / path


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
    return card_inside(open_session(path, options, "cpu"), path)


def open_session(path: Path, options: onnxruntime.SessionOptions, provider: str) -> onnxruntime.InferenceSession:
    """ONNX Runtime's session of a file; what it logs itself is left out.

    Raises:
        ModelError: the file is not ONNX.
    """
    import onnxruntime

    options.log_severity_level = 3
    providers = runtime_arguments(provider)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime raises its own unrelated classes on foreign bytes
        broken = f"not usable as an ONNX model ({_first_line(error)}); export it again"
        raise ModelError(f"{path}: {NOT_YET_MODELS.get(path.suffix.lower(), broken)}") from error


def card_inside(session: onnxruntime.InferenceSession, path: Path) -> ModelCard:
    """The card in a session's metadata; ``path`` is for messages.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: what it says of itself is no text; copy it again, or export it anew") from error
    if METADATA_KEY not in metadata:
        raise ModelError(f"{path}: this ONNX file carries no model card; export it with `muse export`")
    return ModelCard.from_json(metadata[METADATA_KEY], str(path))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
