"""Finding tissue takes only the memory of the slide's picture and of a few masks, however large the
slide is.
"""

import subprocess
import sys

import pytest

PROGRAM = """
import sys
import numpy as np
from muse_pipeline.core.environment import peak_memory_mib
from muse_pipeline.core.process import return_large_arrays
from muse_pipeline.tissue.find import find_mask
return_large_arrays()
side = int(sys.argv[1])
generator = np.random.default_rng(0)
pixels = np.empty((side, side, 3), np.uint8)
for top in range(0, side, 100):  # islands of tissue of 400 by 400 um
    pixels[top : top + 100] = generator.integers(241, 246, (100, side, 1))
    for left in range(0, side, 100):
        noise = generator.integers(-9, 10, (50, 50, 1))
        pixels[top : top + 50, left : left + 50] = (200, 110, 170) + noise
mask, _ = find_mask(pixels, np.array([8.0, 8.0]))
assert 0.2 < mask.mean() < 0.35, mask.mean()
print(peak_memory_mib())
"""
PICTURE, MASKS = (
    3,
    8,
)  # bytes per pixel; labels or densities of the whole slide would take at least 4 or 12


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="memory is given back where the C library is glibc"
)
def test_ten_times_the_slide_takes_its_picture_and_a_few_masks_more():
    """Slides with 64 and 1,024 mm2 of glass are compared, each in a new process."""
    peaks = [
        2**20
        * int(
            subprocess.run(
                [sys.executable, "-c", PROGRAM, str(side)], capture_output=True, check=True
            ).stdout
        )
        for side in (1000, 4000)
    ]
    grown = (peaks[1] - peaks[0]) / (4000**2 - 1000**2)
    assert grown < PICTURE + MASKS, grown
