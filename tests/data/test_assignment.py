"""The sparse assignment equals that of the dense Hungarian method, and also works where the dense
method fails.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from muse_pipeline.methods.detector.criterion import assign, cells_around

SIDE, CELL_PX = 24, 4


def random_problem(n_windows, n_nuclei, seed, side=SIDE):
    generator = torch.Generator().manual_seed(seed)
    xy = torch.rand(n_windows, n_nuclei, 2, generator=generator) * side * CELL_PX
    cell, allowed = cells_around(xy, (side, side), reach=2)
    return torch.rand(cell.shape, generator=generator) - 0.5, cell, allowed


def test_it_is_the_hungarian_assignment_of_every_window():
    cost, cell, allowed = random_problem(3, 40, 0)
    pairs = assign(cost, cell, allowed)
    for window in range(3):
        table = np.full((40, SIDE * SIDE), 1e3)
        for nucleus in range(40):
            kept = allowed[window, nucleus]
            table[nucleus, cell[window, nucleus][kept]] = cost[window, nucleus][kept]
        best = table[linear_sum_assignment(table)].sum()
        mine = pairs.window == window
        found = table[pairs.nucleus[mine], pairs.cell[mine]].sum()
        assert np.isclose(found, best, atol=1e-4)


def test_no_proposal_is_counted_twice_and_every_nucleus_has_one():
    cost, cell, allowed = random_problem(2, 60, 1)
    pairs = assign(cost, cell, allowed)
    assert len(pairs.cell) == 120
    assert len({*zip(pairs.window.tolist(), pairs.cell.tolist(), strict=True)}) == 120


def test_more_nuclei_than_proposals_leave_some_without():
    xy = torch.full((1, 12, 2), 50.0)
    cell, allowed = cells_around(xy, (SIDE, SIDE), reach=1)
    pairs = assign(torch.zeros(cell.shape), cell, allowed)
    assert len(pairs.cell) == 9
    assert len(set(pairs.cell.tolist())) == 9


def test_windows_without_nuclei_and_batches_without_any():
    cost, cell, allowed = random_problem(3, 5, 2)
    allowed[1] = False
    assert assign(cost, cell, allowed).window.unique().tolist() == [0, 2]
    assert len(assign(cost, cell, torch.zeros_like(allowed)).cell) == 0
    assert len(assign(cost[:, :0], cell[:, :0], allowed[:, :0]).cell) == 0
