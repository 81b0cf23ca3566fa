"""Nuclei of pictures by HistomicsTK's "Nuclei Detection" with its defaults; needs only the package
histomicstk.

python experiments/peers/histomicstk_nuclei.py IN OUT    # pictures at 0.5 um/px -> label images
with the same names
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from histomicstk.preprocessing.color_deconvolution import color_deconvolution, stain_color_map
from histomicstk.preprocessing.color_normalization import reinhard, reinhard_stats_rgb
from histomicstk.segmentation.nuclear import detect_nuclei_kofahi
from skimage.io import imread, imsave

# The defaults of cli/NucleiDetection/NucleiDetection.xml, for a magnification of 20.
MEAN_LAB, DEVIATION_LAB = (
    (8.63234435, -0.11501964, 0.03868433),
    (0.57506023, 0.10403329, 0.01364062),
)
STAINS = np.array([stain_color_map[name] for name in ("hematoxylin", "eosin", "null")]).T
FOREGROUND = 60
SETTINGS = {
    "min_radius": 6,
    "max_radius": 20,
    "min_nucleus_area": 80,
    "local_max_search_radius": 10,
}


def find_nuclei(pixels: np.ndarray) -> np.ndarray:
    """Label image (h, w), by the steps of HistomicsTK's ``detect_tile_nuclei``."""
    mean, deviation = reinhard_stats_rgb(pixels)
    normalised = reinhard(pixels, MEAN_LAB, DEVIATION_LAB, src_mu=mean, src_sigma=deviation)
    stain = color_deconvolution(normalised, STAINS).Stains[:, :, 0].astype(float)
    return detect_nuclei_kofahi(stain, stain < FOREGROUND, **SETTINGS)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.png")):
        imsave(
            target / path.name,
            find_nuclei(imread(path)[..., :3]).astype(np.uint16),
            check_contrast=False,
        )
