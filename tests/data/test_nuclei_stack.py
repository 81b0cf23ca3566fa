"""Windows list nuclei in the order of their pictures, and memory only grows with the number of
nuclei.
"""

import numpy as np
import pytest
import torch

from muse_pipeline.core.types import Frame
from muse_pipeline.data.augment import Augmentation, move_nuclei, random_linear
from muse_pipeline.data.windows import FAR, NEAR_PX, NucleiStack
from muse_pipeline.nuclei.table import Nuclei

SIDE, WINDOW, N_RAYS = 300, 128, 8


def draw_pictures(*counts):
    generator = np.random.default_rng(0)
    return [
        Nuclei(
            generator.random((n, 2)) * SIDE,
            Frame.WINDOW,
            rays=np.where(generator.random((n, 1)) < 0.2, np.nan, generator.random((n, N_RAYS))),
            label=generator.integers(-1, 3, n),
        )
        for n in counts
    ]


@pytest.mark.parametrize("counts", [(40, 0, 3, 200), (0, 0)])
def test_the_nuclei_of_windows_are_those_of_each_picture_by_itself(counts):
    generator = torch.Generator().manual_seed(0)
    pictures, chosen = (
        draw_pictures(*counts),
        torch.randint(len(counts), (12,), generator=generator),
    )
    linear = random_linear(12, Augmentation(free_rotation=1.0), generator)
    centre = torch.rand(12, 2, generator=generator) * SIDE
    found = NucleiStack(pictures, torch.device("cpu")).move(chosen, centre, linear, WINDOW)
    fullest = 1
    for b, picture in enumerate(chosen.tolist()):
        nuclei = pictures[picture]
        xy, rays = torch.from_numpy(nuclei.xy).float(), torch.from_numpy(nuclei.rays)
        (xy,), (rays,) = move_nuclei(
            xy[None], rays[None], centre[b : b + 1], linear[b : b + 1], WINDOW
        )
        near = ((xy > -NEAR_PX) & (xy < WINDOW + NEAR_PX)).all(1)
        n, fullest = int(near.sum()), max(fullest, int(near.sum()))
        assert torch.allclose(found[0][b, :n], xy[near], atol=1e-4)
        assert found[1][b, :n].tolist() == nuclei.label[near.numpy()].tolist()
        assert torch.allclose(found[2][b, :n], rays[near], atol=1e-5, equal_nan=True)
        assert (
            (found[0][b, n:] == FAR).all()
            and (found[1][b, n:] == -1).all()
            and found[2][b, n:].isnan().all()
        )
    shapes = (12, fullest, 2), (12, fullest), (12, fullest, N_RAYS), (12, fullest, 0)
    assert tuple(values.shape for values in found) == shapes


def test_one_full_picture_among_many_costs_its_own_nuclei():
    pictures = draw_pictures(2_000, *[5] * 99)
    stack = NucleiStack(pictures, torch.device("cpu"))
    n_bytes = sum(values.nbytes for values in vars(stack).values())
    assert n_bytes < 2 * (2_000 + 99 * 5) * 4 * (N_RAYS + 2 + 2)
