"""What runs a model: ONNX Runtime's providers by our names, which of them start here, and the choice among them."""

from __future__ import annotations

from muse_pipeline.errors import ProviderError
from muse_pipeline.surroundings import Finding

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
EXTRAS = {"cpu": "cpu", "cuda": "gpu", "tensorrt": "gpu", "openvino": "openvino"}
OPTIONS = {
    # cuDNN's exhaustive search times its kernels and may choose others at the next start: other digits, other bytes.
    "cuda": {"cudnn_conv_algo_search": "DEFAULT"},
    # As on our CPU provider: nothing is rounded to 16 bits on processors that could, and a call has one thread.
    "openvino": {"device_type": "CPU", "precision": "FP32", "num_of_threads": "1"},
}
# Only what takes the same kernels at every start, and what is faster wherever it starts.
AUTO, PREFERRED = "auto", ("cuda", "cpu")

# y = relu(x) of one number (ONNX 1.9): a provider that starts takes it.
_SMALLEST_MODEL = (
    b'\x08\x08:3\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x0e"
)


def choose_provider(provider: str) -> str:
    """``provider`` itself, there or not; for "auto" the first of ``PREFERRED`` that starts on this machine.

    Whoever plans a run chooses once for all its shards: results on a GPU differ from those on a CPU in the last digits.

    Raises:
        ProviderError: there is no provider of that name.
    """
    if provider == AUTO:
        return next((name for name in PREFERRED if starts(name)), "cpu")
    if provider not in PROVIDERS:
        raise ProviderError(f"provider '{provider}' is unknown; choose one of {', '.join([AUTO, *PROVIDERS])}")
    return provider


def runtime_arguments(provider: str) -> list[tuple[str, dict[str, str]]]:
    """What ONNX Runtime takes as ``providers`` for a session.

    Raises:
        ProviderError: it is not in what is installed.
    """
    if not is_installed(provider):
        raise ProviderError(
            f"provider '{provider}' was asked for and is not in this installation of ONNX Runtime; install the extra "
            f"`{EXTRAS[provider]}` in place of the one there is, or choose provider 'cpu'"
        )
    return [(PROVIDERS[provider], OPTIONS.get(provider, {}))]


def is_installed(provider: str) -> bool:
    """Whether the ONNX Runtime that is installed was built with it."""
    import onnxruntime

    return PROVIDERS[provider] in onnxruntime.get_available_providers()


def starts(provider: str) -> bool:
    """Whether it is installed and finds the device and the libraries that it needs."""
    import onnxruntime

    if not is_installed(provider):
        return False
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(_SMALLEST_MODEL, options, providers=runtime_arguments(provider))
    except Exception:  # ONNX Runtime raises its own unrelated classes
        return False
    return PROVIDERS[provider] in session.get_providers()


def require_start(provider: str) -> None:
    """Make sure that a provider can be used on this machine.

    Raises:
        ProviderError: it is not in what is installed, or does not find what it needs.
    """
    runtime_arguments(provider)
    if not starts(provider):
        raise does_not_start(provider)


def does_not_start(provider: str) -> ProviderError:
    """What to raise where a provider that is installed leaves its work to another."""
    return ProviderError(
        f"provider '{provider}' is installed but could not start here; check its drivers (`muse doctor`) "
        "or choose provider 'cpu'"
    )


def examine_providers() -> list[Finding]:
    """A finding for every provider, and what "auto" takes; none where there is no ONNX Runtime."""
    try:
        found = [Finding(f"provider {name}", *_examine(name)) for name in PROVIDERS]
    except ImportError:
        return []
    return [*found, Finding("provider auto", True, f"takes {choose_provider(AUTO)}")]


def _examine(provider: str) -> tuple[bool, str]:
    if not is_installed(provider):
        return False, f"not in this ONNX Runtime; install the extra `{EXTRAS[provider]}` in place of the one there is"
    return (True, "starts") if starts(provider) else (False, "installed, but does not start here; check its drivers")
