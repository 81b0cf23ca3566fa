"""The linear probe against plain SGD written out, and that it learns what a line can separate."""

import math

import torch

from muse_pipeline.probing.protocols import train_linear_probe


def blobs(n=900, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (n,), generator=generator)
    centres = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 3.0]])
    return centres[label] + 0.3 * torch.randn(n, 2, generator=generator), label


def test_separable_classes_are_learnt():
    features, label = blobs()
    probe = train_linear_probe(features, label, 3, seed=1, epochs=30)
    assert probe.weight.shape == (30, 3, 2)
    assert (probe.classify(features)[-1] == label).float().mean() > 0.99
    assert torch.equal(probe.layer(-1)(features).argmax(1), probe.classify(features)[-1])


def test_each_step_is_momentum_along_a_cosine_over_whole_shuffled_batches_of_256():
    features, label = blobs(600)
    probe = train_linear_probe(features, label, 3, seed=5, epochs=4)

    generator = torch.Generator().manual_seed(5)
    weight = torch.nn.init.normal_(torch.empty(3, 2), std=0.01, generator=generator)
    bias, speed_w, speed_b = torch.zeros(3), torch.zeros(3, 2), torch.zeros(3)
    for epoch in range(4):
        rate = 0.01 * 0.5 * (1 + math.cos(math.pi * epoch / 4))
        order = torch.randperm(600, generator=generator)
        for chosen in (order[:256], order[256:512]):  # 88 are dropped
            x, y = features[chosen], torch.nn.functional.one_hot(label[chosen], 3).float()
            error = ((x @ weight.T + bias).softmax(1) - y) / 256
            speed_w, speed_b = 0.9 * speed_w + error.T @ x, 0.9 * speed_b + error.sum(0)
            weight, bias = weight - rate * speed_w, bias - rate * speed_b
        assert torch.allclose(probe.weight[epoch], weight, atol=1e-5)
        assert torch.allclose(probe.bias[epoch], bias, atol=1e-5)


def test_the_seed_decides_and_few_points_make_one_batch():
    features, label = blobs(40)
    first, second = (train_linear_probe(features, label, 3, seed=3, epochs=2) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, train_linear_probe(features, label, 3, seed=4, epochs=2).weight)
