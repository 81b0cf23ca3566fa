"""The type ``Nuclei``, for proposals, predictions and ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from muse_pipeline.core.errors import FrameError
from muse_pipeline.core.types import Frame


@dataclass
class Nuclei:
    """N nuclei in one frame.

    Attributes:
        xy: (N, 2) float64 centres in pixels of ``frame``.
        rays: (N, R) float32 distances from the centre to the outline in um, at angles 2 pi k / R from +x towards +y
            (clockwise on screen); (N, 0) if outlines are unknown.
        label: (N,) int32 class index; -1 if unknown.
        score: (N,) float32 confidence that there is a nucleus.
        prob: (N, C) float32 class probabilities, given that there is a nucleus; (N, 0) if unknown.
        frame: the frame of ``xy``.
        embedding: (N, D) float32 features; (N, 0) if there are none.
        dab_od: (N, 1) float32 mean optical density (base 10) of DAB within the outline; (N, 0) if not measured.
    """

    xy: np.ndarray
    frame: Frame
    rays: np.ndarray = field(default=None)  # type: ignore[assignment]
    label: np.ndarray = field(default=None)  # type: ignore[assignment]
    score: np.ndarray = field(default=None)  # type: ignore[assignment]
    prob: np.ndarray = field(default=None)  # type: ignore[assignment]
    embedding: np.ndarray = field(default=None)  # type: ignore[assignment]
    dab_od: np.ndarray = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.xy = np.asarray(self.xy, np.float64).reshape(-1, 2)
        n = len(self.xy)
        empty = np.zeros((n, 0), np.float32)
        self.rays = empty if self.rays is None else np.asarray(self.rays, np.float32)
        self.prob = empty if self.prob is None else np.asarray(self.prob, np.float32)
        self.embedding = empty if self.embedding is None else np.asarray(self.embedding, np.float32)
        self.label = np.full(n, -1, np.int32) if self.label is None else np.asarray(self.label, np.int32)
        self.score = np.ones(n, np.float32) if self.score is None else np.asarray(self.score, np.float32)
        self.dab_od = empty if self.dab_od is None else np.asarray(self.dab_od, np.float32)
        lengths = {name: len(getattr(self, name)) for name in COLUMNS}
        if set(lengths.values()) != {n}:
            raise ValueError(f"columns of unequal length: {lengths}")

    def __len__(self) -> int:
        return len(self.xy)

    def __getitem__(self, index: np.ndarray | slice) -> Nuclei:
        """The nuclei chosen by a mask, an index array or a slice."""
        return replace(self, **{name: getattr(self, name)[index] for name in COLUMNS})

    def require(self, frame: Frame) -> Nuclei:
        """Return self if the positions are in ``frame``."""
        if self.frame is not frame:
            raise FrameError(f"positions are in the {self.frame} frame, but {frame} is expected; convert them first")
        return self

    @staticmethod
    def concatenate(parts: Sequence[Nuclei]) -> Nuclei:
        """All nuclei of ``parts`` (at least one, all in the same frame), in their order."""
        frame = parts[0].frame
        columns = {name: np.concatenate([getattr(p.require(frame), name) for p in parts]) for name in COLUMNS}
        return Nuclei(frame=frame, **columns)


COLUMNS = ("xy", "rays", "label", "score", "prob", "embedding", "dab_od")
