"""PatchGAN: a map of scores, each for a patch of the picture (Isola et al., CVPR 2017, arXiv 1611.07004)."""

from __future__ import annotations

from torch import Tensor, nn

SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """Strided 4x4 convolutions, leaky ReLU, instance norm from the second on, and a 4x4 convolution to one channel.

    The field of view of four of them is 94 px.

    Args:
        widths: channels of the strided convolutions.
        norm: whether to use instance norm; not together with a gradient penalty.
    """

    def __init__(self, widths: tuple[int, ...], norm: bool):
        super().__init__()
        layers: list[nn.Module] = []
        for index, (inside, outside) in enumerate(zip((3, *widths), widths, strict=False)):
            layers.append(nn.Conv2d(inside, outside, 4, 2, 1))
            if norm and index:
                layers.append(nn.InstanceNorm2d(outside))
            layers.append(nn.LeakyReLU(SLOPE))
        last = nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(widths[-1], 1, 4)
        self.layers = nn.Sequential(*layers, *last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                nn.init.zeros_(module.bias)

    def forward(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W), -1 to 1 -> (B, 1, H / 2^n, W / 2^n) scores, high for real pictures."""
        return self.layers(picture)
