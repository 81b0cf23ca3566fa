"""F1 by hand-counted examples."""

import numpy as np
import pytest

from muse_pipeline.errors import FrameError, LabelError
from muse_pipeline.evaluation.detection import DetectionCounts, bootstrap_f1, count_detections
from muse_pipeline.evaluation.truth import read_truth
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.types import Frame


def test_counts_by_class_and_over_all():
    true = Nuclei([(10, 10), (50, 50), (90, 90)], Frame.WORK, label=[0, 1, 1])
    found = Nuclei(
        [(11, 10), (50, 55), (90, 97), (200, 200)], Frame.WORK, label=[0, 0, 1, 1], score=[0.9, 0.8, 0.7, 0.6]
    )
    counts = count_detections(found, true, 2, mpp=0.5)  # 3 um are 6 px: the third is 7 px off
    assert counts.values.tolist() == [[2, 2, 1], [1, 1, 0], [0, 2, 2]]
    scores = counts.scores(["a", "b"])
    assert scores["detection"] == pytest.approx(100 * 4 / 7)
    assert scores["mean class"] == pytest.approx((200 / 3 + 0) / 2)


def test_distances_are_um_whatever_the_pixel():
    true, found = Nuclei([(0, 0)], Frame.LEVEL0, label=[0]), Nuclei([(11, 0)], Frame.LEVEL0, label=[0])
    assert count_detections(found, true, 1, (0.25, 0.25)).values[0].tolist() == [1, 0, 0]
    assert count_detections(found, true, 1, (0.5, 0.25)).values[0].tolist() == [0, 1, 1]


def test_unknown_classes_count_for_detection_alone():
    true, found = Nuclei([(0, 0)], Frame.WORK, label=[-1]), Nuclei([(0, 0)], Frame.WORK, label=[0])
    assert count_detections(found, true, 1, 0.5).values.tolist() == [[1, 0, 0], [0, 0, 0]]


def test_a_prediction_on_a_nucleus_of_unknown_class_is_not_wrong_but_one_beside_it_is():
    true = Nuclei([(0, 0)], Frame.WORK, label=[-1])
    found = Nuclei([(0, 0), (50, 0)], Frame.WORK, label=[0, 0])
    assert count_detections(found, true, 1, 0.5).values.tolist() == [[1, 1, 0], [0, 1, 0]]


def test_mixed_frames_are_an_error():
    with pytest.raises(FrameError):
        count_detections(Nuclei([(0, 0)], Frame.WORK), Nuclei([(0, 0)], Frame.LEVEL0), 1, 0.5)


def test_the_bootstrap_draws_whole_patients():
    good, bad = (
        DetectionCounts(np.array([[10, 0, 0], [10, 0, 0]])),
        DetectionCounts(np.array([[0, 10, 10], [0, 10, 10]])),
    )
    alone = bootstrap_f1([good, bad], ["p", "p"], repeats=50)
    assert np.allclose(alone, 50)
    apart = bootstrap_f1([good, bad], ["p", "q"], repeats=200)
    assert set(apart[:, 1].round(6)) == {0, 50, 100}


def test_the_truth_is_read_and_its_faults_are_named(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("x,y,class\n1.5,2,a\n3,4,b\n")
    assert read_truth(path, ["b", "a"]).label.tolist() == [1, 0]
    path.write_text("x,y,class\n1,2,c\n")
    with pytest.raises(LabelError, match="class 'c'"):
        read_truth(path, ["a"])
    path.write_text("x,y,class\n1,2,a\noops,2,a\n")
    with pytest.raises(LabelError, match="line 3"):
        read_truth(path, ["a"])
    path.write_text("x,y,class\n1,2,a\n1,2,a\ninf,2,a\n")
    with pytest.raises(LabelError, match="line 4"):
        read_truth(path, ["a"])
    path.write_text("x,y,class\n1,2,a,4\n1,2,3,4,5,6\n")
    with pytest.raises(LabelError, match="not readable as CSV") as error:
        read_truth(path, ["a"])
    assert "\n" not in str(error.value)
    with pytest.raises(LabelError, match="not readable as CSV"):
        read_truth(tmp_path, ["a"])
    path.write_text("x,y\n1,2\n")
    with pytest.raises(LabelError, match="class"):
        read_truth(path, ["a"])
    with pytest.raises(LabelError, match="no such file"):
        read_truth(tmp_path / "none.csv", ["a"])
