"""The summary of labels that a run prints before it starts."""

from dataclasses import replace

import numpy as np
import pytest
from drawn_labels import CLASSES, draw_nuclei, grid_xy, make_source, read

from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.statistics import LabelSummary, check_leaks
from muse_pipeline.nuclei.table import Nuclei

TEXT = "20 20 Dark\n60 20 Pale\n100 20 Dark\n60 60 none\n"
CLASS_MAP = {"Dark": "Dark", "Pale": "Pale", "none": None}


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return read(make_source(tmp_path_factory.mktemp("labels"), "P.txt", TEXT, class_map=CLASS_MAP))[
        0
    ]


def test_counts_by_picture_and_patient(image, tmp_path):
    pictures = [
        image,
        replace(image, name="Q", n_left_out=7),
        replace(image, name="R", patient="other", nuclei=image.nuclei[:1]),
    ]
    summary = LabelSummary(pictures, CLASSES, 0.5)
    assert summary.counts.tolist() == [[2, 1, 1], [2, 1, 1], [1, 0, 0]]
    *table, warning = summary.text().splitlines()
    assert [line.split() for line in table] == [
        ["patient", "pictures", "Dark", "Pale", "unknown"],
        ["P", "2", "4", "2", "2"],
        ["other", "1", "1", "0", "0"],
        ["2", "patients", "3", "5", "2", "2"],
    ]
    assert warning.endswith("7 nuclei lie outside the annotated regions and were left out")
    summary.write(tmp_path / "labels.tsv")
    assert LabelSummary(pictures[:1], CLASSES, 0.5).text().splitlines()[-1].startswith("1 patient ")
    lines = (tmp_path / "labels.tsv").read_text().splitlines()
    assert lines[0] == "picture\tpatient\tDark\tPale\tunknown\tleft out"
    assert lines[2:] == ["Q\tP\t2\t1\t1\t7", "R\tother\t1\t0\t0\t0"]


def test_an_mpp_that_makes_nuclei_too_small_or_too_large(image):
    def warnings(factor):
        rays = image.nuclei.rays * np.float32(factor)
        return LabelSummary(
            [replace(image, nuclei=replace(image.nuclei, rays=rays))], CLASSES, 0.5
        ).warnings

    assert warnings(1) == ()
    assert "median radius of 1.5" in warnings(0.5)[0] and "median radius of 6" in warnings(2)[0]
    assert "median radius of 0.9" in warnings(0.3)[0]
    assert "median radius of 9" in warnings(3)[0]
    assert "at the stated 0.5 um/px" in warnings(3)[0]
    assert "only 0 of 4 points" in warnings(np.nan)[0]


def test_one_picture_with_the_labels_of_another_is_named(image):
    nuclei = Nuclei.concatenate([image.nuclei] * 3)
    rays = nuclei.rays.copy()
    rays[5:] = np.nan
    pictures = [
        replace(image, nuclei=nuclei),
        replace(image, name="Q", nuclei=replace(nuclei, rays=rays)),
    ]
    (warning,) = LabelSummary([pictures[0], *pictures], CLASSES, 0.5).warnings
    assert "in 1 picture, many points lie beside nuclei, first in Q (7 of 12)" in warning
    assert (
        LabelSummary(
            [pictures[0], replace(pictures[1], grow_outlines=False)], CLASSES, 0.5
        ).warnings
        == ()
    )


def test_one_picture_with_the_outlines_of_another_is_named(image):
    rng = np.random.default_rng(0)
    xy, others = (
        rng.permutation(grid_xy((320, 320), step_px=20))[:60] + rng.uniform(-3, 3, (60, 2))
        for _ in range(2)
    )

    def warnings(pixels, xy):
        nuclei = Nuclei(
            xy, Frame.WINDOW, rays=np.full((60, 8), 3, np.float32), label=np.zeros(60, int)
        )
        return LabelSummary([replace(image, pixels=pixels, nuclei=nuclei)], CLASSES, 0.5).warnings

    pixels = draw_nuclei((320, 320), xy)
    assert warnings(pixels, xy) == warnings(255 - pixels, xy) == ()  # also in fluorescence
    (warning,) = warnings(pixels, others)
    assert "in 1 picture, many outlines lie beside nuclei, first in P (" in warning
    assert warnings(pixels, np.concatenate([xy[:55], others[55:]])) == ()


def test_a_patient_is_on_one_side(image):
    other = replace(image, patient="other")
    check_leaks([image], [other])
    with pytest.raises(LabelError, match=r"both .*: P;"):
        check_leaks([image, other], [replace(image, name="Q")])
