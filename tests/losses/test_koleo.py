"""KoLeo against its formula, and what minimising it does."""

import pytest
import torch
from literal_muse import literal_koleo

from muse_pipeline.losses.koleo import koleo


def vectors(n, width, length=1.0):
    return length * torch.randn(n, width, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize(
    ("n", "width", "length"), [(2, 3, 1.0), (3, 2, 10.0), (20, 5, 0.1), (33, 64, 1.0), (64, 384, 5.0)]
)
def test_values_and_gradients_are_those_of_the_formula(n, width, length):
    """Gradients, which also pass through the nearest vector, to 1e-6 of their largest entry."""
    given = vectors(n, width, length).requires_grad_()
    exact = given.detach().double().requires_grad_()
    expected = literal_koleo(list(exact))
    found = koleo(given)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)
    found.backward()
    expected.backward()
    atol = 1e-6 * exact.grad.abs().max().item()
    torch.testing.assert_close(given.grad.double(), exact.grad, rtol=0, atol=atol)


def test_a_step_downhill_moves_neighbours_apart():
    given = vectors(20, 5).requires_grad_()
    koleo(given).backward()

    def distance_to_nearest(rows):
        unit = torch.nn.functional.normalize(rows, dim=1)
        return (torch.cdist(unit, unit) + 9 * torch.eye(len(unit))).amin(1).log().mean()

    assert distance_to_nearest(given - 0.01 * given.grad) > distance_to_nearest(given)


def test_fewer_than_two_vectors_cost_nothing():
    assert koleo(vectors(1, 5)) == 0 and koleo(vectors(0, 5)) == 0


def test_equal_vectors_have_a_finite_gradient():
    twins = torch.ones(2, 5, requires_grad=True)
    koleo(twins).backward()
    assert twins.grad.isfinite().all()
