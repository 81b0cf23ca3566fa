"""Third-party encoders, such as foundation models of pathology: a vector for the tile around every
nucleus.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy import ndarray

from muse_pipeline.inference.card import EncoderCard
from muse_pipeline.inference.embed import Embedder
from muse_pipeline.inference.maps import scale_pixels
from muse_pipeline.inference.model import read_card, run_session
from muse_pipeline.inference.predictor import GraphRunner

CORE_PX = 512  # side of the area whose nuclei are encoded from one window
BATCH = 16  # tiles per call, if the graph takes any number


def open_embedder(path: Path, provider: str) -> Embedder | TileEncoder:
    """Open a model that computes vectors of nuclei: a third-party encoder, an embedding model, or a
    detector.
    """
    return (TileEncoder if isinstance(read_card(path), EncoderCard) else Embedder)(path, provider)


class TileEncoder(GraphRunner):
    """Runs an encoder on tiles with a nucleus in their middle; stains are not normalised."""

    def __init__(self, path: Path, provider: str = "cpu"):
        super().__init__(path, provider)
        self.card = read_card(path, EncoderCard)

    def __call__(self, pixels: ndarray, colour: ndarray, xy: ndarray) -> ndarray:
        """(N, D) float32 vectors of the nuclei at positions (N, 2) in a window (S, S, 3) uint8."""
        card = self.card
        corners = np.round(xy - self.card.tile_px / 2).astype(int)
        tiles = np.stack([pixels[y : y + card.tile_px, x : x + card.tile_px] for x, y in corners])
        batches = [tiles[start : start + card.batch] for start in range(0, len(tiles), card.batch)]
        return np.concatenate([self.encode(batch) for batch in batches])

    def encode(self, tiles: ndarray) -> ndarray:
        """(N, D) float32 vectors of at most ``card.batch`` tiles (N, S, S, 3) uint8."""
        card, n = self.card, len(tiles)
        if n < card.batch:  # a graph may fix the number
            tiles = np.pad(tiles, ((0, card.batch - n), (0, 0), (0, 0), (0, 0)))
        inputs = {self.port: scale_pixels(tiles, card)}
        return run_session(self.session, self.path, [card.output], inputs)[0][:n].astype(np.float32)
