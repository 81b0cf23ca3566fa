"""The trial of labels on a small square: what is hidden, what a loss sees, and which pseudo-labels are right."""

import json

import numpy as np
import pytest
import torch
from labelled import CPU, draw_labelled_folder, write_config

from experiments.lfov.hidden_labels import HiddenLabelsStage, JudgedConsistency, TrialBatch, hide_labels
from muse_pipeline.core.types import Frame
from muse_pipeline.data.augment import LabelledBatch
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.methods.detector.consistency import ConsistencySettings, Teacher
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.models.heads import NucleusMaps
from muse_pipeline.nuclei.table import Nuclei


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_labelled_folder(tmp_path_factory.mktemp("labelled"))


class SmallSquares(HiddenLabelsStage):
    region_px = 80


def stage(folder, output, *changes):
    return SmallSquares(
        load_detector_config(write_config(folder, steps=3), changes=("window_px=128", *changes)), output
    )


def labelled(name="A"):
    generator = np.random.default_rng(0)
    xy = generator.random((300, 2)) * 400
    nuclei = Nuclei(xy, Frame.WINDOW, rays=np.ones((300, 8), np.float32), label=np.arange(300, dtype=np.int32) % 3)
    pixels = np.full((400, 400, 3), 200, np.uint8)
    return LabelledImage(name=name, pixels=pixels, nuclei=nuclei, stain=None, weight=1.0)


def test_labels_outside_of_a_square_of_the_seed_and_the_name_are_hidden():
    kept, hidden = hide_labels(labelled(), 100, seed=3)
    assert kept.region.sum() == 100 * 100
    assert len(kept.nuclei) + len(hidden) == 300
    column, row = kept.nuclei.xy.astype(int).T
    assert kept.region[row, column].all()
    column, row = hidden.xy.astype(int).T
    assert not kept.region[row, column].any()
    assert np.array_equal(hide_labels(labelled(), 100, seed=3).image.region, kept.region)
    assert not np.array_equal(hide_labels(labelled(), 100, seed=4).image.region, kept.region)
    assert not np.array_equal(hide_labels(labelled("B"), 100, seed=3).image.region, kept.region)


def test_a_loss_sees_no_hidden_nucleus_and_the_hidden_are_of_the_same_windows(folder, tmp_path):
    trial = stage(folder, tmp_path, "consistency={}")
    data = trial.read(print)
    batch = trial.batches(data, torch.device("cpu"))(0)
    assert torch.equal(batch.pixels, batch.hidden.pixels)
    last = 128 // 4 - 1
    for xy, is_inside in ((batch.xy, True), (batch.hidden.xy, False)):
        cells = (xy / 4).floor().long()
        seen = ((cells >= 1) & (cells < last)).all(2)
        window = torch.arange(len(xy))[:, None].expand(seen.shape)[seen]
        depth = batch.region[window, cells[seen][:, 1], cells[seen][:, 0]]
        assert len(depth) > 0 and ((depth > 0) == is_inside).float().mean() > 0.8  # borders cut cells
    assert int(((batch.xy > 0) & (batch.xy < 128)).all(2).sum()) > 0


@pytest.mark.parametrize("head", ["dense", "point"])
def test_a_run_counts_its_pseudo_labels_and_those_that_are_right(folder, tmp_path, head):
    stage(folder, tmp_path, "consistency={}", f"head={head}").run(CPU)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"consistency", "pseudo_nuclei", "pseudo_right"} <= set(rows[-1])


def test_right_are_those_at_a_hidden_nucleus_of_their_class():
    side = 16
    centre, label = torch.full((1, 1, side, side), -9.0), torch.zeros(1, 2, side, side)
    for row, column, second in ((3, 12, 5.0), (9, 9, -5.0), (13, 13, -5.0)):
        centre[0, 0, row, column], label[0, 1, row, column] = 5.0, second
    maps = NucleusMaps(centre, torch.zeros(1, 2, side, side), label, torch.ones(1, 4, side, side))
    region = torch.zeros(1, side, side)
    region[..., :8] = 5.0
    visible = torch.zeros(1, 1, 2), torch.zeros(1, 1), torch.zeros(1, 1, 4)
    batch = TrialBatch(None, None, *visible, region)
    xy = torch.tensor([[[50.0, 14.0], [38.0, 38.0], [62.0, 62.0]]])
    batch.hidden = LabelledBatch(None, None, xy, torch.tensor([[1, 1, 0]]), None)
    terms = JudgedConsistency(ConsistencySettings(), torch.ones(2), 0.5)(
        maps, Teacher(maps, centre.sigmoid(), centre > -8), batch
    )
    assert terms["pseudo_nuclei"] == 3
    assert terms["pseudo_right"] == 1  # the second has another class, the third is 5.7 um away
