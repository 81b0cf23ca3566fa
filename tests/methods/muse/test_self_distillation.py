"""Self-distillation compared with the formulas of the papers, term by term."""

import math

import pytest
import torch

from muse_pipeline.methods.muse.method import centred_targets, cross_entropy, sinkhorn_targets

N, K = 300, 24


@pytest.fixture
def logits():
    """(N, K) cosines of random vectors and prototypes, as a projector gives them."""
    generator = torch.Generator().manual_seed(0)
    rows, prototypes = (torch.randn(n, 16, generator=generator) for n in (N, K))
    return (
        torch.nn.functional.normalize(rows, dim=-1)
        @ torch.nn.functional.normalize(prototypes, dim=-1).T
    )


def test_cross_entropy_is_the_sum_that_is_written(logits):
    target = centred_targets(logits.flip(0), torch.zeros(K), 0.05)
    for row, (p, values) in enumerate(zip(target.tolist(), logits.tolist(), strict=True)):
        total = sum(math.exp(value / 0.1) for value in values)
        expected = -sum(
            a * math.log(math.exp(value / 0.1) / total) for a, value in zip(p, values, strict=True)
        )
        assert cross_entropy(target, logits, 0.1)[row].item() == pytest.approx(expected, rel=1e-5)
        if row == 20:
            break


def test_agreement_costs_the_entropy_and_anything_else_more(logits):
    target = centred_targets(logits, torch.zeros(K), 0.1)
    entropy = -(target * target.log()).sum(1)
    torch.testing.assert_close(cross_entropy(target, logits, 0.1), entropy, rtol=1e-5, atol=1e-6)
    assert (cross_entropy(target, logits.roll(1, 0), 0.1) > entropy).all()


def test_centring_takes_the_centre_away_and_sharpening_sharpens(logits):
    centre = logits.mean(0)
    expected = torch.softmax((logits - centre) / 0.05, -1)
    assert torch.equal(centred_targets(logits, centre, 0.05), expected)
    soft = centred_targets(logits, centre, 0.2)
    assert (expected.max(1).values > soft.max(1).values).all()
    same = centred_targets(
        logits[:1].expand(5, K), logits[0], 0.05
    )  # rows equal to the centre: uniform targets
    torch.testing.assert_close(same, torch.full((5, K), 1 / K))


def test_sinkhorn_is_what_swav_writes(logits):
    """Compared with algorithm 1 of arXiv 2006.09882, in double precision."""
    q = torch.exp(logits.double() / 0.07).T
    q /= q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / K
        q = q / q.sum(0, keepdim=True) / N
    torch.testing.assert_close(
        sinkhorn_targets(logits, 0.07), (q * N).T.float(), rtol=1e-4, atol=1e-6
    )


def test_sinkhorn_bears_sharp_temperatures_and_no_rows(logits):
    sharp = sinkhorn_targets(logits, 0.005)
    assert sharp.isfinite().all()
    torch.testing.assert_close(sharp.sum(1), torch.ones(N), rtol=1e-4, atol=1e-4)
    assert sinkhorn_targets(logits[:0], 0.07).shape == (0, K)
    assert sinkhorn_targets(logits.bfloat16(), 0.07).dtype == torch.float32
