"""The experiment on few labels: which crops are labelled, how they are read, and what is
compared.
"""

import numpy as np
import pytest

from experiments.common.crops import aji
from experiments.unit_few_labels.run import NUCLEUS, compare_runs, divide_crops, write_source
from muse_pipeline.labels.label_sources import read_labelled_images

PATIENTS = {f"{patient:02}_{crop}": f"{patient:02}" for patient in range(7) for crop in range(4)}


@pytest.mark.parametrize("seed", range(3))
def test_labelled_and_scored_crops_are_of_different_patients(seed):
    few, scored = divide_crops(PATIENTS, 2, seed)
    more, same = divide_crops(PATIENTS, 8, seed)
    assert (len(few), len(more), scored) == (2, 8, same)
    assert more[:2] == few
    assert len({PATIENTS[name] for name in scored}) == 4 and len(scored) == 16
    assert not {PATIENTS[name] for name in more} & {PATIENTS[name] for name in scored}


def test_another_seed_labels_other_crops():
    assert divide_crops(PATIENTS, 8, 0)[0] != divide_crops(PATIENTS, 8, 1)[0]


def test_written_crops_are_read_with_every_nucleus_in_its_class(tmp_path):
    labels = np.zeros((64, 64), np.int32)
    labels[8:24, 8:24], labels[40:56, 36:60] = 7, 3
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    source = write_source([("05_1", "05", pixels, labels)], tmp_path)
    (image,) = read_labelled_images([source], (NUCLEUS.name,), 0.25, n_rays=8)
    assert (image.pixels == pixels).all() and image.patient == "05"
    assert sorted(np.round(image.nuclei.xy).tolist()) == [[16, 16], [48, 48]]
    assert (image.nuclei.label == 0).all()


def test_seeds_count_alike_and_are_paired():
    """The mean gives every seed the same weight, whatever the size of its crops."""
    before = [make_run("ab", 40, 100), make_run("bc", 800, 1000)]
    after = [make_run("ab", 60, 100), make_run("bc", 800, 1000)]
    found = compare_runs(before, after, aji)
    assert found["after"] == pytest.approx(0.7) and found["difference"] == pytest.approx(0.1)
    assert found["n_patients"] == 3


def make_run(patients, shared, covered):
    """The counts of a run with one crop per patient, each with the same overlap."""
    return {"patients": list(patients), "counts": [[0, 0, 0, shared, covered]] * len(patients)}
