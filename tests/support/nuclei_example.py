"""Random nuclei, and the table that `stitch` would write for them."""

import numpy as np

from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.types import Bounds, Frame, SlideInfo
from muse_pipeline.nuclei.parquet import NucleiWriter, OptionalColumns
from muse_pipeline.nuclei.rays import rays_to_rings, rings_to_polygons
from muse_pipeline.nuclei.shape import measure_shapes
from muse_pipeline.nuclei.table import Nuclei

CLASSES = ("Lymphocyte", "Tumour", "Stroma")
COLOURS = ((0, 128, 255), (200, 0, 0), (0, 200, 0))
MPP = (0.25, 0.25)
PROVENANCE = {
    "slide_id": "slide-1",
    "fingerprint": "0123abcd",
    "slide_mpp": [0.25, 0.25],
    "mpp_source": "the file",
    "reader": "openslide",
    "bounds": None,
    "model": {"name": "drawn", "sha256": "ab" * 32},
    "card": {
        "classes": [{"name": n, "color": list(c)} for n, c in zip(CLASSES, COLOURS, strict=True)]
    },
    "provider": "cpu",
    "colour": None,
    "n_windows": 1,
    "full_windows": [],
    "corrupt_fraction": 0.0,
    "versions": {"muse-pipeline": "0.1.0"},
    "tissue_sha256": None,
}


def drawn_provenance(**changes) -> Provenance:
    return Provenance.from_dict(PROVENANCE | changes)


def draw_nuclei(n, seed=0, side_px=40_000):
    random = np.random.default_rng(seed)
    return Nuclei(
        xy=random.uniform(200, side_px, (n, 2)),
        frame=Frame.LEVEL0,
        rays=random.uniform(2.6, 3.4, (n, 32)),
        label=random.integers(-1, 3, n),
        score=random.uniform(0.3, 1, n),
        prob=random.dirichlet([1, 1, 1], n).reshape(n, 3),
    )


def write_table(
    path, nuclei, classes=CLASSES, mpp=MPP, *, columns=None, optional=None, batch=50_000, **facts
):
    """Write a table of nuclei with their outlines, shapes and further ``columns``; return its path.

    ``facts`` are entries of the provenance.
    """
    optional, made = optional or OptionalColumns(), drawn_provenance(**facts)
    with NucleiWriter(path, classes, made, nuclei.rays.shape[1], optional) as writer:
        for first in range(0, len(nuclei), batch):
            part = nuclei[first : first + batch]
            rings = rays_to_rings(np.nan_to_num(part.xy), part.rays, mpp)
            shapes = measure_shapes(rings, mpp) | (columns or {})
            writer.write(part, rings_to_polygons(rings)[0], shapes)
    return path


def write_example(path, nuclei, batch=50_000):
    positive_od = 0.2 if nuclei.dab_od.size else None
    optional = OptionalColumns(embedding_dim=nuclei.embedding.shape[1], positive_od=positive_od)
    return write_table(path, nuclei, CLASSES, optional=optional, batch=batch)


def slide_info(bounds=None):
    return SlideInfo(
        slide_id="slide-1",
        path="slide-1.svs",
        reader="openslide",
        vendor="drawn",
        size_px=(50_000, 50_000),
        mpp=MPP,
        mpp_source="sheet",
        level_sizes_px=((50_000, 50_000),),
        level_downsamples=((1.0, 1.0),),
        fingerprint="0123abcd",
        bounds=Bounds(*bounds) if bounds else None,
    )
