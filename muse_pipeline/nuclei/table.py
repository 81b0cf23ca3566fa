"""The type ``Nuclei``, for proposals, predictions and ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import FrameError
from muse_pipeline.core.types import Frame


@dataclass
class Nuclei:
    """N nuclei in one frame; columns that are not given have their defaults."""

    xy: ndarray  # (N, 2) float64 centres in pixels of ``frame``
    frame: Frame
    # (N, R) float32 distances from the centre to the outline in um, at angles 2 pi k / R from +x
    # towards +y (clockwise on screen); (N, 0) if outlines are unknown
    rays: ndarray = None
    label: ndarray = None  # (N,) int32 class index; -1 if unknown
    score: ndarray = None  # (N,) float32 confidence that there is a nucleus; 1 by default
    # (N, C) float32 class probabilities, given that there is a nucleus; (N, 0) if unknown
    prob: ndarray = None
    embedding: ndarray = None  # (N, D) float32 features; (N, 0) if there are none
    # (N, 1) float32 mean optical density (base 10) of DAB; (N, 0) if not measured
    dab_od: ndarray = None
    fault: str = ""  # reason why a network's output for this window is useless; "" if it is not

    def __post_init__(self) -> None:
        self.xy = np.asarray(self.xy, np.float64).reshape(-1, 2)
        n = len(self.xy)
        defaults = {"label": np.full(n, -1, np.int32), "score": np.ones(n, np.float32)}
        for name in COLUMNS[1:]:
            values = getattr(self, name)
            default = defaults.get(name, np.zeros((n, 0), np.float32))
            setattr(self, name, default if values is None else np.asarray(values, default.dtype))
        lengths = {name: len(getattr(self, name)) for name in COLUMNS}
        if set(lengths.values()) != {n}:
            raise ValueError(f"columns of unequal length: {lengths}")

    def __len__(self) -> int:
        return len(self.xy)

    def __getitem__(self, index: ndarray | slice) -> Nuclei:
        """The nuclei chosen by a mask, an index array or a slice."""
        return replace(self, **{name: getattr(self, name)[index] for name in COLUMNS})

    def require(self, frame: Frame) -> Nuclei:
        """Return self if the positions are in ``frame``."""
        if self.frame is not frame:
            raise FrameError(
                f"positions are in the {self.frame} frame, but {frame} is expected; convert them"
                " first"
            )
        return self

    @staticmethod
    def concatenate(parts: Sequence[Nuclei]) -> Nuclei:
        """All nuclei of ``parts`` (at least one, all in the same frame), in their order."""
        frame = parts[0].frame
        columns = {
            name: np.concatenate([getattr(p.require(frame), name) for p in parts])
            for name in COLUMNS
        }
        return Nuclei(frame=frame, **columns)


COLUMNS = ("xy", "rays", "label", "score", "prob", "embedding", "dab_od")
