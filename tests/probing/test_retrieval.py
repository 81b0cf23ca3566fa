import numpy as np
import torch

from muse_pipeline.probing.neighbours import find_similar, recognised, stability


def test_neighbours_are_of_other_patients_and_the_nearest_first():
    features = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    patient = np.repeat(["a", "b", "c"], 20)
    found = find_similar(features, patient, [3, 47], 6)
    unit = (features / features.norm(dim=1, keepdim=True)).numpy()
    for row, query in zip(found, (3, 47), strict=True):
        others = np.flatnonzero(patient != patient[query])
        wanted = others[np.argsort(-(unit[others] @ unit[query]))][:6]
        assert row.tolist() == wanted.tolist()


def test_a_nucleus_is_recognised_by_its_features_and_by_chance_without():
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(400, 32, generator=generator)
    assert recognised(features, 3 * features + 0.01).mean() == 100
    assert recognised(features, torch.randn(400, 32, generator=generator)).mean() < 2
    swapped = torch.cat([features[1:2], features[:1], features[2:]])
    assert recognised(features, swapped).tolist() == [0, 0] + [100] * 398


def test_a_collapsed_network_is_neither_stable_nor_recognises():
    collapsed = 1 + 1e-7 * torch.randn(100, 16, generator=torch.Generator().manual_seed(2))
    nearer, own, different = stability(collapsed, collapsed)
    assert nearer.tolist() == [50] * 100
    assert np.allclose(own, different)
    assert np.allclose(recognised(collapsed, collapsed), 1)


def test_stability_counts_the_others_that_are_less_alike():
    features = torch.eye(4)
    nearer, own, different = stability(
        features, torch.tensor([[1.0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]])
    )
    # 0: 0.71 with itself, 0 with the others; 1: 1, and 0.71 with the first; 3: 0, as with two, no one is below.
    assert np.allclose(nearer, [100, 100, 250 / 3, 50])
    assert np.allclose(own, [0.5**0.5, 1, 1, 0], atol=1e-4)
    assert np.allclose(different, [0, 0.5**0.5 / 3, 1 / 3, 0], atol=1e-4)
