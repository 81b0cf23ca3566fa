"""Model files and providers: built-in models and checkpoints by name, cards, and sessions that run
a graph.
"""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from muse_pipeline.core.content import name_content
from muse_pipeline.core.environment import Finding, reserve_gpu
from muse_pipeline.core.errors import ConfigError, ModelError, ProviderError
from muse_pipeline.core.files import read_json, sha256_of
from muse_pipeline.core.text import suggest
from muse_pipeline.core.types import FROM_NUCLEI, PROVIDERS
from muse_pipeline.inference.card import METADATA_KEY, REGIONS, Card, RegionCard, read_any_card

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime

    from muse_pipeline.inference.torch_runtime import TorchSession

AnyCard = TypeVar("AnyCard", bound=Card)
BUILT_IN = Path(__file__).parent / "built_in"
# graph from pixels in uint8 to log((pixel + 1) / 256)
DENSITIES = BUILT_IN / "density/density.onnx"
_RUN = (
    "is a training run; `muse finetune` and `muse export` it, or name it as `model` in the"
    " workflow's config"
)


def find_model(model: str, provider: str = "cpu") -> Path:
    """Find the file of a model, from a path or the name of a built-in model.

    The precision of a built-in model is chosen by ``precisions_for``, unless the name contains it,
    as in ``compact-fp32``.
    """
    if path := _find_file(model, provider):
        return path
    files = [file.stem for file in BUILT_IN.glob("*.onnx")]
    names = sorted({*files, *(name.partition("-")[0] for name in files)})
    hint = suggest(model, names, "correct the name or path")
    raise ModelError(
        f"model '{model}': neither a file nor a built-in model ({', '.join(names)}); {hint}"
    )


def find_region_model(model: str, provider: str = "cpu") -> Path:
    """Find the file of a region model."""
    path = _find_file(model, provider)
    if path and path.suffix.lower() in {".onnx", ".yaml", ".yml"}:
        return path
    what = "there is no such file"
    if path:
        what = name_content(path) or "is no model"
    elif model == "epithelium":
        what = "the built-in model is withdrawn"
    raise ConfigError(
        f"regions '{model}': {what}; give `{FROM_NUCLEI}`, which maps regions from the classes of"
        " the nuclei, a GeoJSON file of areas with classes, or the .onnx file of a region model"
    )


def _find_file(model: str, provider: str) -> Path | None:
    for name in (model, *(f"{model}-{precision}" for precision in precisions_for(provider))):
        named = BUILT_IN / f"{name}.onnx"
        if named.is_file():
            return named
    path = Path(model)
    if not path.is_file() and (path / "checkpoint.pt").is_file():
        raise ModelError(
            f"{path}: is the folder of a training run; `muse export {path}/checkpoint.pt` makes a"
            " model from it"
        )
    return path if path.is_file() else None


def find_graph(path: Path) -> Path:
    """The file with the graph of a model: NAME.cut for a built-in model
    (``docs/make_cut_graphs.py``), or the model.
    """
    graph = path.with_suffix(".cut")
    return graph if path.parent == BUILT_IN and graph.is_file() else path


def name_model(path: Path) -> str:
    """The name by which ``find_model`` finds this file: that of a built-in model with its
    precision, or the path.
    """
    return path.stem if path.parent == BUILT_IN else str(path)


def find_checkpoint(path: Path) -> Path:
    """The checkpoint of the built-in model that ``path`` names, or ``path`` itself if it names
    none.
    """
    return BUILT_IN / f"{path}.pt" if str(path) in list_checkpoints() else path


def list_checkpoints() -> list[str]:
    """Names of the built-in models that have a checkpoint."""
    return sorted(file.stem for file in BUILT_IN.glob("*.pt"))


def checkpoint_from(folder: Path, path: Path) -> Path:
    """``path`` if it names a built-in model, or else ``folder / path``: a path for
    ``find_checkpoint``.
    """
    return path if find_checkpoint(path) != path else folder / path


def precisions_for(provider: str) -> tuple[str, ...]:
    """The precisions that suit a provider, best first: "int8" on processors, "fp32" and "fp16" on
    GPUs.
    """
    return ("int8",) if provider == "cpu" else ("fp32", "fp16")


def read_card(path: Path, kind: type[AnyCard] = Card) -> AnyCard:
    """Read the card of a model, which must be of ``kind``; by default, any kind is accepted."""
    return kind.from_json(card_text(_open_for_metadata(path), path), str(path))


def _open_for_metadata(path: Path) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # The graph is not run, so optimising it would waste time.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_session(path, options, "cpu")


def describe_model(model: str, provider: str) -> dict[str, Any]:
    """Describe a built-in model or an .onnx file; the entry "model" is its name or path."""
    path = find_model(model, provider)
    card = read_card(path)
    return {
        "name": card.name,
        **({"kind": REGIONS} if isinstance(card, RegionCard) else {}),
        "model": name_model(path),
        "precision": card.precision,
        "mpp": card.mpp,
        "classes": [one.name for one in card.classes],
        "file": None if path.parent == BUILT_IN else str(path),
        "sha256": sha256_of(path),
        "provider": provider,
    }


def open_session(
    path: Path, options: onnxruntime.SessionOptions, provider: str
) -> onnxruntime.InferenceSession | TorchSession:
    """Open an ONNX Runtime session for a file, and silence the runtime's own warnings.

    For the providers in ``TORCH``, open a ``TorchSession``, which has the same methods and runs the
    file's checkpoint.
    """
    import onnxruntime

    if provider in TORCH:
        return _open_in_torch(path, provider)
    if fault := _lacks(provider):
        raise _unusable(provider, fault)
    if provider in ON_GPU:
        reserve_gpu()
    options.log_severity_level = max(options.log_severity_level, 3)
    providers = [(RUNTIMES[provider], OPTIONS.get(provider, {}))]
    try:
        session = onnxruntime.InferenceSession(str(find_graph(path)), options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        what = _RUN if path.suffix.lower() in {".yaml", ".yml"} else name_content(path)
        broken = f"not usable as an ONNX model ({_reason(error)}); export it again"
        raise ModelError(f"{path}: {what or broken}") from error
    # ONNX Runtime falls back to the CPU, without an error, if the libraries of a provider are
    # missing.
    if RUNTIMES[provider] not in session.get_providers():
        raise _unusable(provider, DOES_NOT_START)
    return session


def _open_in_torch(path: Path, provider: str) -> TorchSession:
    require_start(provider)
    from muse_pipeline.inference.torch_runtime import TorchSession, find_device

    file = _open_for_metadata(path)
    card = read_any_card(card_text(file, path), str(path))
    return TorchSession(find_device(provider), file, card, _find_origin(path, card))


def _find_origin(path: Path, card: Card) -> Path:
    """The checkpoint, next to a model's file, that the model was exported from.

    The weights of built-in models without a published checkpoint are in a folder of their own,
    because no training can start from them.
    """
    if card.precision == "int8":
        raise ModelError(
            f"{path}: is in int8, which provider 'torch' does not run; choose a floating-point"
            " model"
        )
    checksum = card.source.get("checkpoint_sha256")
    if path.parent == BUILT_IN and (weights := BUILT_IN / "torch" / f"{card.name}.pt").is_file():
        return weights
    for name in (
        path.with_suffix(".pt"),
        path.with_name(f"{card.name}.pt"),
        path.with_name("checkpoint.pt"),
    ):
        if name.is_file() and sha256_of(name) == checksum:
            return name
    copy = f"copy it to {path.with_suffix('.pt').name}, or " if checksum else ""
    raise ModelError(
        f"{path}: provider 'torch' runs the checkpoint that a model was exported from, which is not"
        f" in its folder; {copy}choose provider 'cuda' or 'cpu'"
    )


def card_text(session: onnxruntime.InferenceSession, path: Path) -> str:
    """The card in a session's metadata as JSON; ``path`` is the model's file.

    Entries that were measured later for a built-in model are read from a separate JSON file,
    because ids of nuclei depend on the checksum of the model's file.
    """
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: its metadata are not text; copy or export it again") from error
    if METADATA_KEY not in metadata:
        raise ModelError(
            f"{path}: this ONNX file has no card; export it with `muse export` or `muse"
            " import-model`"
        )
    text, measured = metadata[METADATA_KEY], read_measured(path)
    return json.dumps(json.loads(text) | measured) if measured else text


def read_measured(path: Path) -> dict[str, Any]:
    """Entries of the card that were measured later for a built-in model; empty for others."""
    measured = path.with_name(f"{path.stem.partition('-')[0]}.json")
    return read_json(measured) if path.parent == BUILT_IN and measured.is_file() else {}


def run_session(
    session: onnxruntime.InferenceSession,
    path: Path,
    outputs: list[str] | None,
    inputs: dict[str, np.ndarray],
) -> list[np.ndarray]:
    """Run a graph and return the named outputs, or all of them; ``path`` is named in errors."""
    try:
        return session.run(outputs, inputs)
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise ModelError(
            f"{path}: the runtime cannot run it ({_reason(error)}); export it again, "
            "or run it on a machine with more free memory"
        ) from error


_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?")
_SOURCE = re.compile(  # such as "/src/model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&) "
    r"\S+\.(cc|cpp|cu|cuh|h|hpp):\d+ ([\w:<>~*& ]+\(([^()]|\([^()]*\))*\)( const)? |\S+ )"
)


def _reason(error: Exception) -> str:
    """The reason that an error of ONNX Runtime states, without its code, the model's path and lines
    of its source.
    """
    stated = str(error).rpartition("Status Message: ")[2].strip() or type(error).__name__
    return _SOURCE.sub("", _CODE.sub("", stated.splitlines()[0]))


RUNTIMES = {  # provider -> its name in ONNX Runtime
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
# PyTorch's providers: the accelerator that it finds (CUDA, ROCm, XPU or MPS), and the processor.
TORCH = ("torch", "torch-cpu")
ON_GPU = ("cuda", "tensorrt", "torch")
EXTRAS = {"cpu": "cpu", "cuda": "gpu", "tensorrt": "gpu", "openvino": "openvino"}
OPTIONS = {
    # cuDNN's exhaustive search times its kernels and may choose differently each time, which
    # changes the last digits.
    "cuda": {"cudnn_conv_algo_search": "DEFAULT"},
    # As with the CPU provider, nothing is rounded to 16 bits, even if the processor could, and a
    # call uses one thread.
    "openvino": {"device_type": "CPU", "precision": "FP32", "num_of_threads": "1"},
}
# "auto" considers only providers that use the same kernels in every run; of these, "cuda" is
# faster.
AUTO, PREFERRED = "auto", ("cuda", "cpu")


def choose_provider(provider: str) -> str:
    """``provider`` itself, installed or not; for "auto" the first of ``PREFERRED`` that starts on
    this machine.

    The choice is made once for all shards of a run: results on a GPU differ from those on a CPU in
    the last digits.
    """
    if provider == AUTO:
        return next((name for name in PREFERRED if not find_fault(name)), "cpu")
    if provider not in PROVIDERS:
        raise ProviderError(
            f"provider '{provider}' is unknown; choose one of {', '.join(PROVIDERS)}"
        )
    return provider


DOES_NOT_START = "installed, but does not start here; check its drivers (`muse doctor`)"


def _lacks(provider: str) -> str:
    """The installation that a provider lacks, and the remedy; "" if it lacks none."""
    if provider in TORCH:
        if find_spec("torch"):
            return ""
        return "part of PyTorch, which is not installed here; install the extra `train`"
    import onnxruntime

    if RUNTIMES[provider] in onnxruntime.get_available_providers():
        return ""
    return (
        f"not in this installation of ONNX Runtime; install the extra `{EXTRAS[provider]}` in place"
        " of the present one"
    )


def find_fault(provider: str) -> str:
    """The reason why a provider cannot be used on this machine, and the remedy; "" if it starts."""
    if lacks := _lacks(provider):
        return lacks
    if provider in TORCH:
        if provider in ON_GPU:
            reserve_gpu()
        from muse_pipeline.inference.torch_runtime import find_device

        return "" if find_device(provider) else DOES_NOT_START
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        open_session(DENSITIES, options, provider)
    except (ModelError, ProviderError):
        return DOES_NOT_START
    return ""


def require_start(provider: str) -> None:
    """Raise an error unless a provider can be used on this machine."""
    if fault := find_fault(provider):
        raise _unusable(provider, fault)


def _unusable(provider: str, fault: str) -> ProviderError:
    return ProviderError(f"provider '{provider}' is {fault}, or choose provider 'cpu'")


def examine_providers() -> list[Finding]:
    """Findings about every provider and about the choice of "auto"; empty if ONNX Runtime is not
    installed.
    """
    try:
        faults = {name: find_fault(name) for name in (*RUNTIMES, *TORCH)}
    except ImportError:
        return []
    findings = [
        Finding(f"provider {name}", not fault, fault or "starts") for name, fault in faults.items()
    ]
    return [*findings, Finding("provider auto", True, f"chooses {choose_provider(AUTO)}")]
