"""A few of a run's own pictures beside its checkpoint, for whoever checks the model later (``export.parity``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from muse_pipeline.core.files import complete_file
from muse_pipeline.core.pictures import write_png
from muse_pipeline.labels.pictures import LabelledImage

N_PICTURES = 6
SIDE_PX = 1024


def keep_pictures(images: Sequence[LabelledImage], folder: Path) -> None:
    """Write pieces of at most ``SIDE_PX`` of pictures spread evenly over a run's, at the model's mpp, as PNG.

    A piece begins where the annotated region does: around a region of a slide there may be nothing but glass.

    Args:
        images: of the run, in its order.
        folder: of the pictures; one of that name is replaced.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, N_PICTURES).round().astype(int))
    with complete_file(folder) as partial:
        partial.mkdir()
        for number, index in enumerate(chosen):
            left, top, *_ = images[index].annotated_box
            piece = images[index].pixels[top : top + SIDE_PX, left : left + SIDE_PX]
            write_png(partial / f"{number}.png", piece)
