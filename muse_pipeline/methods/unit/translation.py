"""Networks of UNITPathSSL: a generator of pictures from masks, discriminators, and a reader of
masks from pictures.

The generator accepts masks of any size. Its modulated convolutions are those of StyleGAN2 (Karras
et al., CVPR 2020, arXiv 1912.04958, equations 1 and 3). Their styles are affine functions of mapped
noise and of a code of the mask, as in co-modulation (Zhao et al., ICLR 2021, arXiv 2103.10428).
This module is written from the equations.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.methods.unit.config import GeneratorSettings
from muse_pipeline.models import BACKBONES, HEADS
from muse_pipeline.models.detector import NucleusDetector, NucleusMaps

SLOPE = 0.2
EPS = 1e-8


class ModulatedConv(nn.Module):
    """Convolution whose input channels are scaled by a style and whose output is normalised to unit
    variance.

    With weights ``w_jik`` from channel i to j at kernel position k, and style ``s_i``, the weights
    of a sample are ``s_i w_jik``, divided by ``sqrt(sum_ik (s_i w_jik)^2 + eps)``. Scaling inputs
    and outputs instead of weights gives the same result with one convolution for the whole batch.
    The last layer of a generator does not ``demodulate``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style_dim: int,
        kernel: int = 3,
        demodulate: bool = True,
    ):
        super().__init__()
        self.demodulate = demodulate
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        # Demodulation divides by the norm of the weights, so only a layer without it needs a scale.
        self.gain = 1 if demodulate else (in_channels * kernel**2) ** -0.5
        self.affine = nn.Linear(style_dim, in_channels)
        nn.init.normal_(self.affine.weight, std=style_dim**-0.5)
        nn.init.ones_(self.affine.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, C, H, W) and (B, S) -> (B, C', H, W)."""
        scale = self.affine(style)  # (B, C)
        weight = self.weight * self.gain
        out = functional.conv2d(
            x * scale[..., None, None], weight, padding=self.weight.shape[-1] // 2
        )
        if not self.demodulate:
            return out
        power = scale.square() @ weight.square().sum((2, 3)).T  # (B, C')
        return out * (power + EPS).rsqrt()[..., None, None]


class StyledBlock(nn.Module):
    """Modulated convolution, per-pixel noise of learnt strength, bias and leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int):
        super().__init__()
        self.conv = ModulatedConv(in_channels, out_channels, style_dim)
        self.strength = nn.Parameter(torch.zeros(out_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels, 1, 1))

    def forward(self, x: Tensor, style: Tensor, grain: Tensor) -> Tensor:
        """(B, C, H, W), (B, S), (B, 1, H, W) -> (B, C', H, W)."""
        x = self.conv(x, style) + self.strength * grain + self.bias
        # Leaky ReLU roughly halves the unit variance of modulated convolutions.
        return functional.leaky_relu(x, SLOPE) * 2**0.5


class CoModulatedGenerator(nn.Module):
    """Renders a picture from a mask and noise.

    An encoder halves the sides of the mask ``levels`` times. The mean of its deepest map is
    projected to a code e; a perceptron maps noise z to w; every convolution of the decoder gets the
    style [w; e]. The decoder starts at the deepest map itself, so the sides of a mask may be any
    multiples of the stride, whereas the published network starts at 4 x 4 px. Channels double at
    every level, from ``base`` to ``most``; from ``skip_stride`` on, the decoder adds the encoder's
    map.
    """

    def __init__(self, settings: GeneratorSettings):
        super().__init__()
        levels = settings.levels
        style_dim = settings.style_dim
        code_dim = settings.code_dim
        self.noise_dim = settings.noise_dim
        self.skip_stride = settings.skip_stride
        self.stride_px = 2**levels
        widths = [min(settings.base * 2**level, settings.most) for level in range(levels + 1)]
        pairs = list(pairwise(widths))
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 3, padding=1), nn.LeakyReLU(SLOPE))
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(fine, coarse, 3, 2, 1), nn.LeakyReLU(SLOPE))
            for fine, coarse in pairs
        )
        self.code = nn.Sequential(
            nn.Linear(widths[-1], code_dim), nn.LeakyReLU(SLOPE), nn.Dropout(settings.dropout)
        )
        inputs = [settings.noise_dim, *[style_dim] * (settings.mapping_layers - 1)]
        self.mapping = nn.Sequential(
            *(nn.Sequential(nn.Linear(n, style_dim), nn.LeakyReLU(SLOPE)) for n in inputs)
        )
        styles = style_dim + code_dim
        self.middle = StyledBlock(widths[-1], widths[-1], styles)
        self.up = nn.ModuleList(
            StyledBlock(coarse, fine, styles) for fine, coarse in reversed(pairs)
        )
        self.refine = nn.ModuleList(StyledBlock(fine, fine, styles) for fine, _ in reversed(pairs))
        self.to_rgb = ModulatedConv(widths[0], 3, styles, kernel=1, demodulate=False)
        for module in (
            *self.stem,
            *(layer for block in self.down for layer in block),
            *self.code.modules(),
        ):
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                nn.init.zeros_(module.bias)

    def forward(self, mask: Tensor, noise: Tensor, grain: Tensor) -> Tensor:
        """Render masks (B, 3, H, W), -1 to 1, with sides that are multiples of ``stride_px``, as
        pixels, 0 to 255.

        ``noise`` (B, Z) and ``grain`` (B, 1, H, W) are standard normal; coarser levels use averages
        of the grain, scaled to unit variance. Equal inputs give equal pictures.
        """
        skips = [self.stem(mask)]
        for block in self.down:
            skips.append(block(skips[-1]))
        code = self.code(skips[-1].mean((2, 3)))
        # As in StyleGAN2, only the direction of z matters.
        unit = noise * (noise.square().mean(1, keepdim=True) + EPS).rsqrt()
        style = torch.cat((self.mapping(unit), code), 1)
        grains = [grain]
        for _ in self.down:
            grains.append(2 * functional.avg_pool2d(grains[-1], 2))
        x = self.middle(skips[-1], style, grains[-1])
        for level, up, refine in zip(
            range(len(self.down) - 1, -1, -1), self.up, self.refine, strict=True
        ):
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = up(x, style, grains[level])
            if 2**level >= self.skip_stride:
                x = x + skips[level]
            x = refine(x, style, grains[level])
        return 127.5 * (self.to_rgb(x, style).tanh() + 1)


class PatchDiscriminator(nn.Module):
    """Strided 4x4 convolutions with leaky ReLU and, optionally, instance norm, then a convolution
    to one channel.

    With four strided convolutions, the field of view is 94 px. ``norm`` adds instance norm after
    all strided convolutions but the first, and must not be combined with a gradient penalty.
    """

    def __init__(self, widths: tuple[int, ...], norm: bool):
        super().__init__()
        layers = []
        for index, (inside, outside) in enumerate(zip((3, *widths), widths, strict=False)):
            layers.append(nn.Conv2d(inside, outside, 4, 2, 1))
            if norm and index:
                layers.append(nn.InstanceNorm2d(outside))
            layers.append(nn.LeakyReLU(SLOPE))
        # With a kernel of even size, only uneven padding keeps the size.
        last = nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(widths[-1], 1, 4)
        self.layers = nn.Sequential(*layers, *last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                nn.init.zeros_(module.bias)

    def forward(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W), -1 to 1 -> (B, 1, H / 2^n, W / 2^n) scores, high for real pictures."""
        return self.layers(picture)


class Reading(NamedTuple):
    """Outputs of the reader for B pictures."""

    # (B, 3, H, W) in the colours of masks; targets lie between -1 and 1, outputs are not bounded
    mask: Tensor
    nuclei: NucleusMaps  # maps at stride 4


class TranslationHead(nn.Module):
    """Two 3x3 convolutions with instance norm, ReLU and upsampling, then a linear one: dense map ->
    mask.
    """

    def __init__(self, in_channels: int, widths: tuple[int, int]):
        super().__init__()
        layers = []
        for inside, outside in zip((in_channels, *widths), widths, strict=False):
            layers += [
                nn.Conv2d(inside, outside, 3, padding=1),
                nn.InstanceNorm2d(outside),
                nn.ReLU(inplace=True),
                nn.Upsample(scale_factor=2, mode="nearest"),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 3, 3, padding=1))

    def forward(self, dense: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, 3, 4 h, 4 w)."""
        return self.layers(dense)


class MaskReader(nn.Module):
    """Reads masks and nuclei from pictures, with one dense map for both."""

    def __init__(self, backbone: str, n_rays: int, widths: tuple[int, int]):
        super().__init__()
        self.backbone = BACKBONES[backbone]()
        self.translation = TranslationHead(self.backbone.channels, widths)
        self.head = HEADS["dense"](self.backbone.channels, 1, n_rays)

    def forward(self, pixels: Tensor, colour: Tensor) -> Reading:
        """(B, 3, H, W) in 0..255 and (3, 4) or (B, 3, 4) -> mask and nuclei; gradients reach the
        pixels.
        """
        dense = self.backbone.lattice.at_cells(
            self.backbone(self.backbone.prepare(pixels, colour)).dense
        )
        return Reading(self.translation(dense).float(), self.head(dense))

    def detector(self) -> NucleusDetector:
        """A detector made of the reader's own backbone and instance head, with shared weights."""
        return NucleusDetector.of(self.backbone, self.head)
