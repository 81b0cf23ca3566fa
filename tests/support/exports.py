"""Exports that take less time than those of users."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from muse_pipeline.export.onnx import trace_windows


@contextmanager
def single_window_size(module: str) -> Iterator[None]:
    """Let ``muse_pipeline.export.<module>`` trace graphs for a single window size, which takes half
    as long.
    """
    with pytest.MonkeyPatch.context() as patch:
        name = f"muse_pipeline.export.{module}.trace_windows"
        patch.setattr(name, lambda *graph: trace_windows(*graph[:3], False))
        yield
