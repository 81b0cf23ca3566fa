"""A picture is resampled to the model's mpp, and its nuclei are mapped back to the picture's own
pixels.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from muse_pipeline.core.types import Frame
from muse_pipeline.inference import detect as image
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.nuclei.table import Nuclei

PREDICTOR = SimpleNamespace(card=SimpleNamespace(mpp=0.5, colour=ColourReference()))


@pytest.mark.parametrize("mpp, seen", [(0.25, (32, 51)), (0.5, (64, 102)), (1.0, (128, 204))])
def test_positions_are_the_pictures(monkeypatch, mpp, seen):
    def find_corner(predictor, pixels, colour):
        assert pixels.shape[:2] == seen
        return Nuclei(np.array([[seen[1], seen[0]]], float), Frame.WORK, rays=np.full((1, 4), 3.0))

    monkeypatch.setattr(image, "detect_image", find_corner)
    found = image.detect_picture(PREDICTOR, np.zeros((64, 102, 3), np.uint8), mpp, None)
    assert found.xy.tolist() == [[102, 64]] and (found.rays == 3.0).all()
