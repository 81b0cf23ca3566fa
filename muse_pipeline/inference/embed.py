"""Features that a network computes for given nuclei of a slide, whichever program found them.

Windows are placed as in detection: the features of a nucleus are read at its exact position in the
window whose core contains it, far from the window's edges.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy import ndarray

from muse_pipeline.core.coords import CELL_PX
from muse_pipeline.core.errors import ModelError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.process import map_in_order
from muse_pipeline.inference.card import DENSE, EmbedderCard, ModelCard
from muse_pipeline.inference.detect import require_mpp
from muse_pipeline.inference.model import card_text, read_card
from muse_pipeline.inference.predictor import GraphRunner
from muse_pipeline.nuclei.arrow import bytes_to_arrow, to_arrow
from muse_pipeline.nuclei.parquet import PROVENANCE_KEY, ROW_GROUP
from muse_pipeline.store.grid import WindowGrid
from muse_pipeline.store.store import Store

if TYPE_CHECKING:
    from muse_pipeline.inference.encoder import TileEncoder

HALF_PIXEL = "x/4-0.5"  # see ``models.base``
# for networks that accept windows of any size; with less, features show the grid of windows
WINDOW_HALO_PX = 192
HALO_SHARE = 4  # the halo is a quarter of the window, for networks with a fixed window


class Embedder(GraphRunner):
    """Runs an embedding model, or a detector up to its head."""

    def __init__(self, path: Path, provider: str = "cpu"):
        detector = read_card(path)
        super().__init__(path, provider)
        if isinstance(detector, ModelCard):
            channels = [port.shape[1] for port in self.session.get_outputs() if port.name == DENSE]
            if not channels:
                raise ModelError(
                    f"{path}: its graph has no output '{DENSE}', so it has no embeddings; export it"
                    " again with `muse export`, or run `muse embed --checkpoint` with the"
                    " checkpoint that it was exported from"
                )
            self.card = describe_backbone(detector, *channels)
        else:
            self.card = EmbedderCard.from_json(card_text(self.session, self.path), str(self.path))
        card = self.card
        side, cells = card.input_px, card.input_px // CELL_PX
        self.require_shapes(
            {
                self.port: (card.batch, 3, side, side),
                DENSE: (card.batch, card.embedding_dim, cells, cells),
            }
        )

    def __call__(self, pixels: ndarray, colour: ndarray, xy: ndarray) -> ndarray:
        """(N, D) float32 features of one window (S, S, 3) uint8 at positions (N, 2) in it."""
        return read_map(self.run([DENSE], pixels[None], colour)[0][0], xy, self.card.readout)


def describe_backbone(detector: ModelCard, channels: int) -> EmbedderCard:
    """The card of a detector's backbone, whose map is read at the centres of cells, as the head
    reads it.
    """
    shared = (
        "name",
        "mpp",
        "input_px",
        "stride_px",
        "licence",
        "training_data",
        "colour",
        "precision",
        "source",
    )
    return EmbedderCard(
        **{name: getattr(detector, name) for name in shared},
        halo_px=embedding_halo(
            detector.input_px, detector.stride_px, detector.readout == HALF_PIXEL
        ),
        batch=1,
        readout=HALF_PIXEL,
        embedding_dim=channels,
    )


def embedding_halo(input_px: int, stride_px: int, any_size: bool) -> int:
    """Width in px of a window's border, whose nuclei are left to neighbouring windows; a multiple
    of the stride.
    """
    quarter = input_px // HALO_SHARE // stride_px * stride_px
    return min(quarter, WINDOW_HALO_PX) if any_size else quarter


def read_map(dense: ndarray, xy: ndarray, readout: str) -> ndarray:
    """Interpolate a map (D, h, w) at positions (N, 2) in the window, as
    ``models.base.interpolate_at`` does: (N, D).
    """
    size = np.array(dense.shape[:0:-1])
    at = xy / CELL_PX - 0.5 if readout == HALF_PIXEL else xy / (size * CELL_PX) * (size - 1)
    at = np.clip(at, 0, size - 1)
    # Interpolation needs the next cell in both directions, so the last cell is reached from the
    # cell before it.
    low = np.minimum(np.floor(at).astype(int), size - 2)
    (x, y), (right, below) = low.T, (at - low).T.astype(np.float32)
    upper = dense[:, y, x] * (1 - right) + dense[:, y, x + 1] * right
    lower = dense[:, y + 1, x] * (1 - right) + dense[:, y + 1, x + 1] * right
    return (upper * (1 - below) + lower * below).T


def embed_nuclei(
    store: Store,
    embedder: Embedder | TileEncoder,
    colour: ndarray,
    xy: ndarray,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
    offset_px: int = 0,
) -> ndarray:
    """(N, D) float16 features of nuclei at positions ``xy`` (N, 2) on the slide, in work pixels.

    Args:
        store: the slide's image at the card's mpp.
        embedder: the model.
        colour: (3, 4) map of the slide's colours, see ``inference.stains``.
        xy: positions of the nuclei.
        threads: number of windows that are read and run at the same time; results do not depend on
            it.
        progress: function called with (windows done, windows in all).
        offset_px: shift of the window grid; 0 except in tests, which check that results do not
            depend on it.
    """
    card = embedder.card
    require_mpp(store, card)
    grid = WindowGrid(store.size_px, card.input_px, card.halo_px, offset_px)
    column, row = ((xy + offset_px) // grid.core_px).astype(int).T
    window = row * grid.shape[1] + column
    order = np.argsort(window, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(window[order])) + 1) if len(order) else []

    def embed_window(nuclei: ndarray) -> ndarray:
        origin = grid.origin_xy(window[nuclei[0]])
        pixels = store.read_continued(tuple(origin), (card.input_px, card.input_px))
        return embedder(pixels, colour, xy[nuclei] - origin).astype(np.float16)

    embedding = np.empty((len(xy), card.embedding_dim), np.float16)
    for done, (nuclei, features) in enumerate(
        zip(groups, map_in_order(embed_window, groups, threads), strict=True), 1
    ):
        embedding[nuclei] = features
        if progress:
            progress(done, len(groups))
    store.require_unchanged()
    return embedding


def write_embeddings(
    path: Path,
    ids: ndarray,
    xy: ndarray,
    features: Mapping[str, ndarray],
    embedding: ndarray,
    provenance: Mapping[str, Any],
) -> None:
    """Write ``embeddings-<model>.parquet``, with one row per nucleus.

    The ids (N,) S36 are those of the objects in QuPath, and the positions (N, 2) are in level-0
    pixels. Columns of ``features`` (N,) are null where they are not finite. The embedding is (N, D)
    float16, and the provenance describes slide, nuclei and model.
    """
    columns = {
        "id": bytes_to_arrow(ids.tolist(), pa.string()),
        "x": to_arrow(xy[:, 0]),
        "y": to_arrow(xy[:, 1]),
    }
    for name, values in features.items():
        column = np.asarray(values, np.float32)
        columns[name] = to_arrow(column, valid=np.isfinite(column))
    values = to_arrow(np.ascontiguousarray(embedding).ravel())
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(values, embedding.shape[1])
    table = pa.table(columns).replace_schema_metadata(
        {PROVENANCE_KEY: json.dumps(provenance, sort_keys=True)}
    )
    with complete_file(path) as partial:
        pq.write_table(
            table, partial, row_group_size=ROW_GROUP, compression="zstd", write_page_checksum=True
        )
