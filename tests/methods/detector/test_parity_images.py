"""The crops of training pictures that a run saves, with which its export is checked later."""

import cv2
import numpy as np
from drawn_labels import draw_nuclei, grid_xy

from muse_pipeline.core.types import Frame
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.methods.detector.data import keep_pictures
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.training.run import RunFolder


def test_a_crop_begins_where_the_annotated_region_does(tmp_path):
    pixels = draw_nuclei((300, 200), grid_xy((300, 200)))
    region = np.zeros((200, 300), bool)
    region[60:100, 150:190] = True
    nuclei = Nuclei(np.zeros((0, 2)), Frame.WINDOW)
    whole, part = (
        LabelledImage(name="P", pixels=pixels, nuclei=nuclei, stain=None, weight=1.0, region=area)
        for area in (None, region)
    )
    keep_pictures([whole, part], RunFolder(tmp_path))
    kept = [cv2.imread(str(tmp_path / f"pictures/{number}.png"))[..., ::-1] for number in (0, 1)]
    assert np.array_equal(kept[0], pixels)
    assert np.array_equal(kept[1], pixels[60:, 150:])
