"""VICReg, InfoNCE and Barlow Twins compared with values computed by hand."""

import pytest
import torch

from muse_pipeline.methods.trident.method import EPSILON, covariance, infonce, invariance, variance

ONE = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 2, 1], [0, -2, -1]])  # 4 rows, mean 0
OTHER = ONE + torch.tensor([3.0, 0, 0])
ALL = torch.ones(4, dtype=torch.bool)


def drawn(n: int, rows: int = 6, width: int = 3) -> list[torch.Tensor]:
    return [
        torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) for seed in range(n)
    ]


def test_a_branch_without_rows_costs_its_hinge_alone():
    none = ~ALL
    assert covariance([ONE], [none]) == 0 and invariance([ONE, OTHER], [ALL, none]) == 0
    assert variance([ONE], [none]).item() == pytest.approx(1 - EPSILON**0.5)


@pytest.mark.parametrize("loss", [invariance, variance, covariance, infonce])
def test_gradients_reach_every_branch(loss):
    """Gradients equal numerical differences, so that a branch without a gradient is noticed."""
    branches = [(0.4 * one).double().requires_grad_() for one in drawn(3)]
    known = [
        torch.tensor(rows, dtype=torch.bool)
        for rows in ([1, 1, 1, 1, 0, 1], [1] * 6, [0, 1, 1, 1, 1, 1])
    ]
    assert torch.autograd.gradcheck(lambda *branches: loss(branches, known), branches)
    assert all(
        gradient.abs().sum() > 0
        for gradient in torch.autograd.grad(loss(branches, known), branches)
    )


def test_infonce_is_a_symmetric_cross_entropy_of_cosines():
    first, second = torch.eye(2), torch.tensor([[2.0, 0], [1, 1]])
    cosines = torch.tensor([[1.0, 0.5**0.5], [0, 0.5**0.5]]) / 0.5
    rows = [torch.log_softmax(one, 1).diagonal().mean() for one in (cosines, cosines.T)]
    both = torch.ones(2, dtype=torch.bool)
    torch.testing.assert_close(
        infonce([first, second], [both, both], 0.5), -(rows[0] + rows[1]) / 2
    )
    assert infonce([first, second], [both, ~both]) == 0
