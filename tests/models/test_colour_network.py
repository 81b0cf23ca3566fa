"""A network that depends on the colours around a position, but not on their arrangement."""

import torch

from muse_pipeline.models import BACKBONES


def test_a_cell_depends_on_the_colours_of_its_8_px_and_not_on_where_they_lie():
    torch.manual_seed(0)
    network = BACKBONES["colour_cnn"]().eval()
    picture = torch.randn(1, 3, 32, 32)
    shuffled, other = picture.clone(), picture.clone()
    inside = shuffled[..., 14:22, 14:22]  # the receptive field of cell (4, 4)
    inside[:] = inside.flatten(2)[..., torch.randperm(64)].reshape(inside.shape)
    other[..., 17, 17] += 1
    with torch.no_grad():
        plain, moved, changed = (
            network(one).dense[0, :, 4, 4] for one in (picture, shuffled, other)
        )
    torch.testing.assert_close(moved, plain)
    assert not torch.allclose(changed, plain, atol=1e-5)


def test_nothing_beyond_8_px_is_seen():
    torch.manual_seed(0)
    picture = torch.randn(1, 3, 32, 32, requires_grad=True)
    BACKBONES["colour_cnn"]().eval()(picture).dense[0, :, 4, 4].sum().backward()
    seen = picture.grad.abs().sum((0, 1)).nonzero()
    assert seen.amin(0).tolist() == [14, 14]
    assert seen.amax(0).tolist() == [21, 21]
