"""The same tissue at three resolutions gives the same nuclei."""

import numpy as np
import pytest
from inference_slides import open_tiled, take_to_store
from scipy.spatial import cKDTree

from muse_pipeline.nuclei.parquet import read_nuclei

pytestmark = pytest.mark.slow


def test_one_tissue_at_three_mpps(tmp_path):
    """The median distance of centres is at most 0.5 um, and counts agree within 3 %."""
    found = {}
    for mpp in (0.25, 0.4, 0.5):
        folder = tmp_path / f"{mpp}"
        slide = open_tiled(take_to_store(folder, mpp))
        found[mpp] = read_nuclei(slide.nuclei(folder)).xy * slide.info.mpp
    for mpp in (0.4, 0.5):
        assert abs(len(found[mpp]) / len(found[0.25]) - 1) <= 0.03
        distance, _ = cKDTree(found[0.25]).query(found[mpp])
        assert np.median(distance) <= 0.5
