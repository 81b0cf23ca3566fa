"""Self-distillation compared with the formulas of the papers, term by term."""

import pytest
import torch

from muse_pipeline.methods.muse.method import sinkhorn_targets

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


def test_sinkhorn_bears_sharp_temperatures_and_no_rows(logits):
    sharp = sinkhorn_targets(logits, 0.005)
    assert sharp.isfinite().all()
    torch.testing.assert_close(sharp.sum(1), torch.ones(N), rtol=1e-4, atol=1e-4)
    assert sinkhorn_targets(logits[:0], 0.07).shape == (0, K)
    assert sinkhorn_targets(logits.bfloat16(), 0.07).dtype == torch.float32
