"""The stains of synthetic mixtures are recovered; pixels that are not H&E are rejected."""

import numpy as np
import pytest

from muse_pipeline.tissue.stain import fit_macenko

HAEMATOXYLIN, EOSIN = np.array([0.62, 0.70, 0.35]), np.array([0.15, 0.85, 0.50])
STAINS = np.stack([HAEMATOXYLIN / np.linalg.norm(HAEMATOXYLIN), EOSIN / np.linalg.norm(EOSIN)])


def mix(n=20_000):
    """(n, 3) uint8: 50 % stroma, 30 % nuclei and 20 % glass, with camera noise of one grey
    level.
    """
    rng = np.random.default_rng(0)
    kind = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    amount = rng.uniform(0.3, 1, (2, n)).T * (2.0, 1.0)
    amount *= np.stack([kind == 1, kind < 2], 1)
    amount[kind == 1, 1] *= rng.uniform(0, 0.5, (kind == 1).sum())
    pixels = 256 * np.exp(-amount @ STAINS) - 1 + rng.normal(0, 1, (n, 3))
    return pixels.round().clip(0, 255).astype(np.uint8)


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


def test_mixed_stains_are_found_haematoxylin_first():
    fit = fit_macenko(mix())
    assert degrees_between(fit.stains, STAINS).max() < 3
    np.testing.assert_allclose(np.linalg.norm(fit.stains, axis=1), 1)
    np.testing.assert_allclose(fit.strong, [1.95, 0.98], rtol=0.1)


@pytest.mark.parametrize(
    "dirt",
    [(20, 120, 110), (30, 60, 200), (10, 10, 10), (150, 120, 20), (8, 0, 6)],
    ids=["green", "blue", "black", "bile", "fold"],
)
def test_ink_and_dirt_do_not_move_the_stains(dirt):
    fit = fit_macenko(np.concatenate([mix(), np.full((2000, 3), dirt, np.uint8)]))
    assert degrees_between(fit.stains, STAINS).max() < 6
    np.testing.assert_allclose(fit.strong, [1.95, 0.98], rtol=0.15)


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((5000, 3), 250, np.uint8),
        mix(400),
        np.repeat(np.arange(60, 220, dtype=np.uint8)[:, None], 3, 1).repeat(50, 0),
        np.stack(
            [np.arange(60, 220, dtype=np.uint8)] + [np.full(160, 230, np.uint8)] * 2, 1
        ).repeat(50, 0),
    ],
    ids=["white", "too-few", "grey", "cyan"],
)
def test_what_is_not_h_and_e_is_rejected(pixels):
    assert fit_macenko(pixels) is None
