"""The interface of all backbones: a dense map at stride 4, a vector for the whole window, and the
encoder's stages.

The compact networks are made of the blocks below: plain 3x3 convolutions and ReLU, which are fast
in every runtime. No block depends on the whole window (no GroupNorm, squeeze-excite or global
pooling), so the output for a nucleus does not depend on the position of the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from muse_pipeline.core.coords import CELL_PX

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Lattice:
    """Rule that maps positions in a window to columns and rows of the dense map.

    Two rules exist. Our own networks resize with half-pixel centres: pixel x is at column ``x / 4 -
    0.5`` in any window. The released MUSE networks resize with aligned corners, and their authors
    read pixel x at column ``x / S * (S / 4 - 1)`` of a window of S px: the column depends on the
    size of the window, so these networks keep their training window.
    """

    name: str  # name of the rule in the model card
    # True if the first and last columns lie on the window's edges, instead of half a cell inside
    align_corners: bool

    @property
    def any_size(self) -> bool:
        """True if windows may have any size, because the output for a nucleus does not depend on
        that size.
        """
        return not self.align_corners

    def at_cells(self, dense: Tensor) -> Tensor:
        """The map (B, D, h, w) sampled at the centres of its cells, pixels ``4 * column + 2``, as
        heads need it.

        Half-pixel maps are returned unchanged; maps with aligned corners are multiplied by two
        constant matrices, which every runtime supports.
        """
        if not self.align_corners:
            return dense
        rows, columns = (_interpolation(n).to(dense) for n in dense.shape[-2:])
        return torch.matmul(torch.matmul(rows, dense), columns.T)


HALF_PIXEL = Lattice("x/4-0.5", align_corners=False)
ALIGNED_CORNERS = Lattice("x/S*(S/4-1)", align_corners=True)


def interpolate_at(dense: Tensor, xy: Tensor, lattice: Lattice) -> Tensor:
    """Read a dense map (B, D, h, w) at ``xy`` (B, M, 2) bilinearly: (B, M, D) ("O_bi" of MUSE,
    arXiv 2511.05170).

    Positions are in window pixels, whose edges are at integers; the window has 4 h x 4 w px.
    Outside it, half-pixel maps are continued with the features at the border, and maps with aligned
    corners with zeros.
    """
    # Filled on the device, because copying a list to it would synchronise.
    size = torch.cat([xy.new_full((1,), side * CELL_PX) for side in dense.shape[:1:-1]])
    grid = (2 * xy / size - 1)[:, None].to(dense.dtype)  # (B, 1, M, 2)
    padding = "zeros" if lattice.align_corners else "border"
    read = functional.grid_sample(
        dense, grid, "bilinear", padding, align_corners=lattice.align_corners
    )
    return read[:, :, 0].transpose(1, 2)


def _interpolation(n: int) -> Tensor:
    """(n, n) matrix that interpolates samples with aligned corners at the centres of cells, (cell +
    0.5) / n.
    """
    position = (torch.arange(n, dtype=torch.float64) + 0.5) / n * (n - 1)
    return (1 - (position[:, None] - torch.arange(n)).abs()).clamp(min=0).float()


def conv_norm(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1
) -> nn.Sequential:
    """Convolution without bias, then batch norm; padding keeps the size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, C, H, W) -> (B, C', H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.first = conv_norm(in_channels, out_channels, stride=stride)
        self.second = conv_norm(out_channels, out_channels)
        same = stride == 1 and in_channels == out_channels
        # The kernel is as wide as the stride, so that the shortcut skips no cell.
        self.shortcut = (
            nn.Identity()
            if same
            else conv_norm(in_channels, out_channels, kernel=stride, stride=stride)
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        return self.activation(self.second(self.activation(self.first(x))) + self.shortcut(x))


class UpAdd(nn.Module):
    """Project the coarse map, enlarge it twofold (half-pixel bilinear), add the skip, and refine
    the sum.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.project = conv_norm(in_channels, out_channels, kernel=1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.refine = ResidualBlock(out_channels, out_channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """(B, C, H, W) and (B, C', 2H, 2W) -> (B, C', 2H, 2W)."""
        return self.refine(self.up(self.project(coarse)) + skip)


class Features(NamedTuple):
    """Output of a backbone for B windows of H x W px."""

    dense: Tensor  # (B, D, H / 4, W / 4)
    image: Tensor  # (B, D')


class StageSize(NamedTuple):
    """Size of one intermediate map of a backbone."""

    stride_px: int  # input pixels per cell
    channels: int  # number of channels of the map


class Backbone(nn.Module):
    """Encoder-decoder that heads, probes and pretraining share."""

    channels: int  # number of channels of the dense map, D
    image_channels: int  # length of the image vector, D'
    stride_px: int  # total stride; the sides of windows must be multiples of it
    # sizes of the encoder's stages, in the order of ``stage_maps``; strides do not decrease
    stage_sizes: tuple[StageSize, ...]
    # rule that maps positions to the dense map; with ``HALF_PIXEL``, windows may have any size
    lattice: Lattice = HALF_PIXEL

    def prepare(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """The network's input for pixels (B, 3, H, W), 0 to 255; by default their
        ``transformed_density``.
        """
        return transformed_density(pixels, colour)

    def forward(self, image: Tensor) -> Features:
        """Compute the features of images (B, 3, H, W) from ``prepare``."""
        raise NotImplementedError

    def stage_maps(self, image: Tensor) -> Iterator[Tensor]:
        """The encoder's intermediate maps of a result of ``prepare``, before any decoder, shallow
        to deep.

        Stages are computed lazily: in an encoder without skips, reading the first three does not
        compute the fourth. The maps are (B, ``channels``, H / ``stride_px``, W / ``stride_px``) for
        each of ``stage_sizes``.
        """
        raise NotImplementedError

    def complete(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add what a published file of the encoder lacks to ``weights``; return others as is."""
        return weights

    def fix_size(self, height: int, width: int) -> None:
        """Prepare an export by fixing values that depend on the window's size (px); by default
        there are none.
        """


class ImageNetBackbone(Backbone):
    """A backbone whose input is RGB, normalised with the means and standard deviations of
    ImageNet.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    def prepare(self, pixels: Tensor, colour: Tensor) -> Tensor:
        """RGB recoloured by ``colour``, the slide's affine map of optical density, then
        normalised.
        """
        return (recoloured(pixels, colour) / 255.0 - self.mean) / self.std


class ResidualEncoder(Backbone):
    """A stem, from (B, 3, H, W) to stride 4, and residual stages at strides 4, 8, 16, ..."""

    def __init__(self, stem: nn.Module, widths: tuple[int, ...], depths: tuple[int, ...]):
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList()
        channels = widths[0]
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = [ResidualBlock(channels, width, stride=1 if index == 0 else 2)]
            blocks += [ResidualBlock(width, width) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = width
        self.channels, self.image_channels = widths[0], widths[-1]
        self.stride_px = 2 ** (len(widths) + 1)
        self.stage_sizes = tuple(
            StageSize(4 * 2**index, width) for index, width in enumerate(widths)
        )

    def stage_maps(self, image: Tensor) -> Iterator[Tensor]:
        """The outputs of the residual stages, none of which depends on the whole window."""
        x = self.stem(image)
        for stage in self.stages:
            x = stage(x)
            yield x


def transformed_density(pixels: Tensor, colour: Tensor) -> Tensor:
    """Convert RGB (B, 3, H, W), 0 to 255, to optical density -ln((pixel + 1) / 256), and apply an
    affine map.

    ``colour`` is (3, 4) for all windows, or (B, 3, 4); columns 0-2 multiply the density, column 3
    is added.
    """
    return _mapped_density(pixels, colour).clamp(-1.0, 5.0)


def recoloured(pixels: Tensor, colour: Tensor) -> Tensor:
    """Apply the map of ``transformed_density`` to RGB (B, 3, H, W), 0 to 255; the identity map
    changes nothing.
    """
    return (256.0 * torch.exp(-_mapped_density(pixels, colour)) - 1.0).clamp(0.0, 255.0)


def _mapped_density(pixels: Tensor, colour: Tensor) -> Tensor:
    # The sign of the density is moved into the matrix, which saves a pass over all pixels. The
    # division by 256 is kept, because it moves pale tissue close to 0, where half precision is
    # finest.
    negative = torch.log((pixels.to(colour.dtype) + 1.0) * (1.0 / 256.0))
    linear, constant = -colour[..., :3], colour[..., 3]
    if colour.ndim == 2:
        return torch.nn.functional.conv2d(negative, linear[..., None, None], constant)
    return torch.einsum("bij,bjhw->bihw", linear, negative) + constant[..., None, None]
