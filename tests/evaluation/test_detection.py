"""F1 with unknown classes, outside a region and without nuclei."""

import numpy as np
import pytest

from muse_pipeline.core.errors import FrameError
from muse_pipeline.core.types import Frame
from muse_pipeline.evaluation.detection import match_nuclei
from muse_pipeline.nuclei.table import Nuclei


def test_a_prediction_on_a_nucleus_of_unknown_class_is_not_wrong_but_one_beside_it_is():
    true = Nuclei([(0, 0)], Frame.WORK, label=[-1])
    found = Nuclei([(0, 0), (50, 0)], Frame.WORK, label=[0, 0])
    assert match_nuclei(found, true, 1, 0.5).counts.values.tolist() == [[1, 1, 0], [0, 1, 0]]


def test_mixed_frames_are_an_error():
    with pytest.raises(FrameError):
        match_nuclei(Nuclei([(0, 0)], Frame.WORK), Nuclei([(0, 0)], Frame.LEVEL0), 1, 0.5)


def test_outside_the_region_a_prediction_may_be_right_but_never_wrong():
    true = Nuclei([(10, 0)], Frame.WORK, label=[0])
    found = Nuclei([(11, 0), (90, 0), (40, 0)], Frame.WORK, label=[0, 0, 0])
    matches = match_nuclei(found, true, 1, 0.5, judged=np.array([False, False, True]))
    assert matches.counts.values.tolist() == [[1, 1, 0], [1, 1, 0]]
    assert matches.confusion.tolist() == [[1, 0], [1, 0]]
    assert matches.n_set_aside == 1


def test_no_nuclei_at_all():
    nothing = Nuclei(np.zeros((0, 2)), Frame.WORK)
    matches = match_nuclei(nothing, nothing, 2, 0.5)
    assert not matches.counts.values.any()
    assert not matches.confusion.any()
    assert np.isnan(matches.counts.mean_class_f1)
