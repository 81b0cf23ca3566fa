"""The experiment that keeps only the labels in a small square of each picture: which labels these
are.
"""

import numpy as np

from experiments.lfov.run import hide_labels
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.nuclei.table import Nuclei


def labelled(name="A"):
    generator = np.random.default_rng(0)
    xy = generator.random((300, 2)) * 400
    nuclei = Nuclei(
        xy,
        Frame.WINDOW,
        rays=np.ones((300, 8), np.float32),
        label=np.arange(300, dtype=np.int32) % 3,
    )
    pixels = np.full((400, 400, 3), 200, np.uint8)
    return LabelledImage(name=name, pixels=pixels, nuclei=nuclei, stain=None, weight=1.0)


def test_labels_outside_of_a_square_of_the_seed_and_the_name_are_hidden():
    kept = hide_labels(labelled(), 100, seed=3)
    assert kept.region.sum() == 100 * 100
    column, row = labelled().nuclei.xy.astype(int).T
    assert np.array_equal(kept.nuclei.xy, labelled().nuclei.xy[kept.region[row, column]])
    assert np.array_equal(hide_labels(labelled(), 100, seed=3).region, kept.region)
    assert not np.array_equal(hide_labels(labelled(), 100, seed=4).region, kept.region)
    assert not np.array_equal(hide_labels(labelled("B"), 100, seed=3).region, kept.region)
