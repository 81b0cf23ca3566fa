"""Features of the nuclei that a model finds in a picture in memory."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from muse_pipeline.core.types import Frame
from muse_pipeline.features.measure import FeatureSettings
from muse_pipeline.inference.detect import detect_image
from muse_pipeline.inference.embed import Embedder
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.shape import measure_shapes
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.mask import KeptArea
from muse_pipeline.tissue.stain import fit_macenko

CLASSES, MPP = ("Lymphocyte", "Epithelial", "Stroma"), 0.5  # of `compact`
EMBEDDING = tuple(f"embedding_{number}" for number in range(24))


class Picture:
    """A picture with the interface of a store; it is white beyond its edges."""

    def __init__(self, pixels: np.ndarray):
        self.pixels, self.mpp = (
            np.pad(pixels, [(128, 128), (128, 128), (0, 0)], constant_values=255),
            MPP,
        )
        self.size_px = pixels.shape[1::-1]

    def keep_chunks(self, n: int) -> None:
        """Do nothing, as no chunks are decoded."""

    def read_planes(self, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """Pixels of a rectangle, as in ``Store.read_planes``, at most 128 px outside the
        picture.
        """
        x, y = int(xy[0]) + 128, int(xy[1]) + 128
        return np.ascontiguousarray(
            self.pixels[y : y + size[1], x : x + size[0]].transpose(2, 0, 1)
        )


def embed_picture(
    pixels: np.ndarray, embedder: Embedder, colour: np.ndarray, xy: np.ndarray
) -> dict[str, np.ndarray]:
    """The columns ``EMBEDDING`` of nuclei at ``xy`` (N, 2), computed in a window with the picture
    at its centre.
    """
    window = np.full((embedder.card.input_px,) * 2 + (3,), 255, np.uint8)
    corner = (np.array(window.shape[1::-1]) - pixels.shape[1::-1]) // 2
    window[corner[1] :, corner[0] :][: len(pixels), : pixels.shape[1]] = pixels
    vectors = embedder(window, colour, xy + corner).astype(np.float16)
    return dict(zip(EMBEDDING, vectors.T, strict=True))


def measure_nuclei(
    pixels: np.ndarray, predictor: Predictor, embedder: Embedder
) -> tuple[Nuclei, dict[str, np.ndarray]]:
    """The N nuclei that `compact` finds in a picture at ``MPP``, and columns (N,): shape, features
    `all`, embedding.
    """
    fit = fit_macenko(pixels.reshape(-1, 3))
    found = detect_image(predictor, pixels, colour_of_fit(predictor.card.colour, fit))
    height, width = pixels.shape[:2]
    everywhere = np.full((height // 16 + 1, width // 128 + 1), 255, np.uint8)
    kept = KeptArea(everywhere, width // 16 + 1, np.array([8.0, 8.0]), None)
    meter = FeatureSettings("all", Picture(pixels), fit).meter(
        SimpleNamespace(mpp=(MPP, MPP)), kept, CLASSES
    )
    nuclei = Nuclei(found.xy, Frame.LEVEL0, rays=found.rays, label=found.label)
    rings = rays_to_rings(nuclei.xy, nuclei.rays, (MPP, MPP))
    shapes = measure_shapes(rings, (MPP, MPP))
    columns = shapes | meter.measure(nuclei, nuclei[:0], rings, shapes)
    return found, columns | embed_picture(
        pixels, embedder, colour_of_fit(embedder.card.colour, fit), found.xy
    )
