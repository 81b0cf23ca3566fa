"""The point head: a softmax in two factors, independent perceptrons, and cells that point to the
same nucleus.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional

from muse_pipeline.models.detector import PRIOR, NucleusMaps, PointHead

N_CLASSES, N_RAYS = 3, 8


def quiet_maps(side=8):
    """Maps in which no cell is a peak."""
    return NucleusMaps(
        torch.full((1, 1, side, side), -9.0),
        torch.zeros(1, 2, side, side),
        torch.zeros(1, N_CLASSES, side, side),
        torch.ones(1, N_RAYS, side, side),
    )


def set_cell(maps, row, column, logit, offset):
    maps.centre[0, 0, row, column] = logit
    maps.offset[0, :, row, column] = torch.tensor(offset)


def test_centre_and_label_are_the_factors_of_one_softmax():
    torch.manual_seed(0)
    head = PointHead(16, N_CLASSES, N_RAYS).eval()
    torch.nn.init.normal_(head.types[-1].weight)
    features = torch.randn(2, 16, 4, 4)
    maps = head(features)
    whole = -head.types(features).log_softmax(1)
    for index in range(N_CLASSES):
        target = torch.full((2, 4, 4), index)
        factors = functional.softplus(-maps.centre[:, 0]) + functional.cross_entropy(
            maps.label, target, reduction="none"
        )
        assert torch.allclose(whole[:, index], factors, atol=1e-5)
    assert torch.allclose(whole[:, -1:], functional.softplus(maps.centre), atol=1e-5)


def test_scores_start_at_the_prior():
    maps = PointHead(16, N_CLASSES, N_RAYS).eval()(torch.zeros(1, 16, 4, 4))
    assert torch.allclose(maps.centre.sigmoid(), torch.tensor(PRIOR), atol=1e-4)


@pytest.mark.parametrize("name", ["offset", "label", "rays"])
def test_each_quantity_has_a_perceptron_of_its_own(name):
    head = PointHead(16, N_CLASSES, N_RAYS)
    getattr(head(torch.randn(1, 16, 4, 4)), name).square().sum().backward()
    moved = {key.split(".")[0] for key, value in head.named_parameters() if value.grad is not None}
    assert moved == {"types" if name == "label" else name}


def test_of_cells_that_point_to_one_position_the_best_stays():
    maps = quiet_maps()
    set_cell(maps, 3, 3, 2.0, [0.5, 0.0])
    set_cell(maps, 3, 4, 3.0, [-0.4, 0.1])
    set_cell(maps, 5, 4, 1.0, [-0.5, -1.8])
    scores = PointHead(16, N_CLASSES, N_RAYS).scores(maps)
    assert (scores > 0.5).nonzero().tolist() == [[0, 0, 3, 4]]


def test_neighbours_that_point_apart_both_stay():
    maps = quiet_maps()
    set_cell(maps, 3, 3, 2.0, [-0.4, 0.0])
    set_cell(maps, 3, 4, 3.0, [0.4, 0.0])
    assert (PointHead(16, N_CLASSES, N_RAYS).scores(maps) > 0.5).sum() == 2


def test_of_equals_exactly_one_stays():
    maps = quiet_maps()
    for row, column in ((3, 3), (3, 4), (4, 3), (4, 4)):
        set_cell(maps, row, column, 2.0, [3.5 - column, 3.5 - row])
    assert (PointHead(16, N_CLASSES, N_RAYS).scores(maps) > 0.5).nonzero().tolist() == [
        [0, 0, 3, 3]
    ]


def test_cells_at_the_border_have_no_rivals_beyond_it():
    maps = quiet_maps()
    set_cell(maps, 0, 7, 1.0, [0.9, -0.9])
    assert float(PointHead(16, N_CLASSES, N_RAYS).scores(maps)[0, 0, 0, 7]) > 0.5


@pytest.mark.filterwarnings("ignore")  # warnings of the exporter about itself
def test_scores_are_the_same_in_the_exported_graph(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    head = PointHead(16, N_CLASSES, N_RAYS)

    class Scores(torch.nn.Module):
        def forward(self, centre, offset):
            return head.scores(NucleusMaps(centre, offset, None, None))

    generator = torch.Generator().manual_seed(0)
    maps = (
        torch.randn(2, 1, 16, 16, generator=generator),
        torch.randn(2, 2, 16, 16, generator=generator),
    )
    path = str(tmp_path / "scores.onnx")
    torch.onnx.export(Scores(), maps, path, input_names=["centre", "offset"], dynamo=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(
        None, dict(zip(("centre", "offset"), (m.numpy() for m in maps), strict=True))
    )[0]
    expected = Scores()(*maps).numpy()
    assert 0 < (expected > 0).mean() < 1
    assert np.allclose(found, expected, atol=1e-6)
