"""Batches of views: a batch depends only on its number, and pairs share the nuclei that both views
show.
"""

import dataclasses
import itertools
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from muse_pipeline.data.augment import Augmentation, Prefetched
from muse_pipeline.data.nucleus_images import NucleusImage, NucleusIndex
from muse_pipeline.data.unlabelled import Picture
from muse_pipeline.data.views import ViewBatch, ViewBatches, ViewSettings, ordered_pairs

SIDE_PX, MPP, B = 400, 0.5, 3
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
PLAIN = Augmentation(stain_gain=0, stain_mix=0, shift=0, partial_colour=1, blur=0, noise=0)


def make(
    augmentation=None,
    grey=0.1,
    n_local=2,
    max_matches=64,
    n_nuclei=400,
    on_device=False,
    height_px=SIDE_PX,
):
    rng = np.random.default_rng(0)
    images = []
    for number in range(2):
        size_px = SIDE_PX, height_px
        pixels = rng.integers(90, 250, (*size_px[::-1], 3)).astype(np.uint8)
        index = NucleusIndex.build(rng.uniform(0, size_px, (n_nuclei, 2)), size_px, MPP)[0]
        images.append(NucleusImage(f"P{number}", "P", MPP, None, 1.0, Picture(pixels), index))
    colours = np.stack([0.8 * np.eye(3, 4), 1.2 * np.eye(3, 4)])
    views = ViewSettings(
        global_px=64, local_px=32, n_local=n_local, mpp=(0.5, 1.0), max_matches=max_matches
    )
    config = SimpleNamespace(
        views=views,
        batch=B,
        augmentation=augmentation or Augmentation(),
        seed=7,
        balance=0.5,
        grey=grey,
    )
    batches = ViewBatches(images, colours, STAINS, config)
    batches.on_device = on_device
    return batches


def leaves(batch):
    """All tensors and numbers of a batch, as tensors."""
    if isinstance(batch, tuple):
        return [leaf for part in batch for leaf in leaves(part)]
    return [] if batch is None else [torch.as_tensor(batch)]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


@pytest.mark.parametrize("on_device", [False, True])
def test_a_number_is_one_batch_whatever_was_made_before_and_by_which_thread(on_device):
    batches = make(on_device=on_device)
    expected = {number: batches(number) for number in range(12)}
    assert not same(expected[0], expected[1])
    torch.rand(5)
    assert same(make(on_device=on_device)(3), expected[3])
    for threads in (0, 1, 2, 3):
        with Prefetched(make(on_device=on_device), 2, threads) as stream:
            assert all(same(stream(number), expected[number]) for number in (1, 3, 5, 7, 2, 4, 6))


def test_processes_make_the_same_batches():
    cut = partial(ViewBatch.cut, augmentation=Augmentation())
    expected = [cut(make(on_device=True)(number)) for number in range(5)]
    with Prefetched(make(on_device=True), 1, 2, cut) as stream:
        assert all(same(stream(number), batch) for number, batch in enumerate(expected))


def cut_both_ways(n_views, augmentation, flat=False, **settings):
    """Pixels of views that are cut one by one, and of those that are cut on a device, both as lists
    of (3, R, R).
    """
    pixels, batches = (
        ([], []),
        [make(augmentation, max_matches=400, on_device=later, **settings) for later in (0, 1)],
    )
    for image in (image for each in batches for image in each.sample.images if flat):
        image.image.pixels[:] = 170
    for number in range(-(-n_views // (4 * B))):
        one, other = (each(number) for each in batches)
        other = other.cut(augmentation)
        assert other.windows is None and same(one[2:], other[2:])  # all positions of nuclei
        for found, batch in zip(pixels, (one, other), strict=True):
            assert batch.global_views.pixels.dtype == batch.local_views.pixels.dtype == torch.uint8
            found.extend([*batch.global_views.pixels.float(), *batch.local_views.pixels.float()])
        assert all(
            torch.equal(ours.colour, others.colour)
            for ours, others in zip(one[:2], other[:2], strict=True)
        )
    assert len(pixels[0]) == len(pixels[1]) >= n_views
    return pixels


@pytest.mark.parametrize("height_px, n_views", [(SIDE_PX, 1000), (50, 200)])
def test_views_that_are_cut_on_a_device_are_those_that_are_cut_one_by_one(height_px, n_views):
    """Both differ only by rounding; views may be larger than their image."""
    for one, other in zip(*cut_both_ways(n_views, PLAIN, height_px=height_px), strict=True):
        assert (other - one).abs().max() <= 1
        assert (other - one).mean().abs() <= 0.2  # ties are rounded differently


@pytest.mark.parametrize("flat", [False, True], ids=["blur", "noise"])
def test_views_are_blurred_and_noisy_alike_when_they_are_cut_on_a_device(flat):
    """Mean, range and spread of 1,000 views, and the strength of their details, have the same
    distribution.
    """
    measures = {
        "mean": torch.mean,
        "lowest": torch.amin,
        "highest": torch.amax,
        "spread": torch.std,
        "detail": lambda view: view.diff(dim=2).abs().mean(),
    }
    pixels = cut_both_ways(1000, Augmentation(blur=0.5, blur_um=1.5, noise=12.0), flat)
    for name, measure in measures.items():
        one, other = (
            torch.stack([measure(view) for view in views]).sort().values for views in pixels
        )
        # With seven tenths of the blur or of the noise, quantiles differ by more than a fifth of
        # the measure's range.
        quantiles = slice(len(one) // 20, -len(one) // 20, 50)
        assert ((other - one)[quantiles].abs() <= 0.15 * (one[-50] - one[50])).all(), name


def test_a_random_part_of_the_nuclei_that_both_views_show_is_compared():
    """At most three nuclei per pair, each with its positions in both views."""
    batches, ranks = make(max_matches=3), []
    for number in range(4):
        batch, sets = batches.draw(number)
        for p, (teacher, student) in enumerate([(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]):
            for b, one in enumerate(sets):
                ours, others = one.views[teacher], one.views[student]
                both = []
                for n in range(one.placed.shape[1]):
                    at = (
                        (one.placed[teacher, n], ours.size_px),
                        (one.placed[student, n], others.size_px),
                    )
                    if all((xy >= 2).all() and (xy < side - 2).all() for xy, side in at):
                        both.append(np.float32([*at[0][0], *at[1][0]]).tolist())
                rows = torch.cat([batch.teacher_xy, batch.student_xy], -1)[p, b][
                    batch.shared[p, b]
                ].tolist()
                assert len(rows) == min(3, len(both)) == len({both.index(row) for row in rows})
                ranks += [both.index(row) / (len(both) - 1) for row in rows if len(both) > 8]
    assert len(ranks) > 50
    np.testing.assert_allclose(np.quantile(ranks, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.13)
    first, second = (batches._match(sets, np.random.default_rng(seed))[0] for seed in (0, 1))
    assert not torch.equal(first, second)


def test_pairs_are_there_and_back():
    """Views 0 and 1 share the same nuclei, whichever is the teacher's view."""
    batch = make()(2)
    back = ordered_pairs(2).index((1, 0))
    for b in range(B):
        there = torch.cat([batch.teacher_xy, batch.student_xy], -1)[0, b][batch.shared[0, b]]
        again = torch.cat([batch.student_xy, batch.teacher_xy], -1)[back, b][batch.shared[back, b]]
        assert torch.equal(there, again)


def test_positions_belong_to_the_views_of_their_own_set():
    """Batches are laid out view by view: each position in the batch lies on the dark spot of a
    nucleus.
    """
    batches = make(augmentation=PLAIN, grey=0)
    for image in batches.sample.images:
        image.image.pixels[:] = 240
        for x, y in image.nuclei.xy.astype(int):
            image.image.pixels[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3] = 20
    batch = batches(0)
    for pair, (teacher, student) in enumerate(ordered_pairs(2)):
        for number, xy in ((teacher, batch.teacher_xy), (student, batch.student_xy)):
            views, location = (
                (batch.global_views, number) if number < 2 else (batch.local_views, number - 2)
            )
            for b in range(B):
                x, y = xy[pair, b][batch.shared[pair, b]].long().T
                assert (views.pixels[location * B + b, 0, y, x] < 150).all()


def test_colour_is_the_images_own_and_grey_views_have_no_hue():
    batches = make(augmentation=PLAIN, grey=0)
    found = torch.cat([batches(number).global_views.colour[:, 0, 0] for number in range(6)])
    assert set(found.double().numpy().round(3).tolist()) == {0.8, 1.2}
    grey = make(augmentation=PLAIN, grey=1)(0).global_views.colour
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 1], grey[:, 2])


@pytest.mark.parametrize(
    "varied", [{"stain_gain": 0.2}, {"stain_mix": 0.05}, {"shift": 0.03}, {"partial_colour": 0.3}]
)
def test_every_view_of_a_set_has_a_colour_of_its_own(varied):
    """The test is repeated for each setting that varies colours."""
    batch = make(augmentation=dataclasses.replace(PLAIN, **varied), grey=0)(0)
    colours = torch.cat([batch.global_views.colour, batch.local_views.colour]).view(
        4, B, 12
    )  # by view and set
    for one, other in itertools.combinations(colours, 2):
        assert ((one - other).abs().amax(1) > 1e-3).all()


def test_few_nuclei_may_share_none():
    """With one nucleus per picture, the tables of shared nuclei may contain only padding."""
    batch = make(n_nuclei=1)(0)
    assert batch.shared.shape[2] >= 1
    assert batch.shared.sum() <= batch.shared.shape[0] * B
