"""ResNet-50, and MUSE with it: its four stages go into the decoder as they are.

He et al., "Deep residual learning for image recognition" (CVPR 2016), in the form of timm 0.6.13 (stride on the 3x3
convolution of a bottleneck), whose parameter names it keeps. "MUSE" (arXiv 2511.05170): the released weights for 224
and 512 px are the same network.
"""

from __future__ import annotations

from torch import Tensor, nn

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Stage
from muse_pipeline.models.muse import Decoder, MuseBackbone

EXPANSION = 4  # a bottleneck's output is this much wider than its inside
DEPTHS = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1, and a shortcut: (B, C, H, W) -> (B, 4 * width, H / stride, W / stride)."""

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        out_channels = EXPANSION * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.act = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Residual sum, then ReLU."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.act(self.bn1(self.conv1(x)))
        x = self.act(self.bn2(self.conv2(x)))
        return self.act(self.bn3(self.conv3(x)) + shortcut)


class ResNet50(nn.Module):
    """(B, 3, H, W) -> maps of 256, 512, 1024, 2048 channels at strides 4, 8, 16, 32, and the mean of the last."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.act = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for index, depth in enumerate(DEPTHS):
            width = 64 * 2**index
            blocks = [Bottleneck(channels, width, stride=1 if index == 0 else 2)]
            blocks += [Bottleneck(EXPANSION * width, width, stride=1) for _ in range(depth - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
            channels = EXPANSION * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """Stage outputs, fine to coarse, and (B, 2048)."""
        x = self.maxpool(self.act(self.bn1(self.conv1(image))))
        stages = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            stages.append(x)
        return stages, x.mean((2, 3))


def _muse_r50() -> MuseBackbone:
    widths = (256, 512, 1024, 2048)
    stages = [Stage(4 * 2**index, width) for index, width in enumerate(widths)]
    return MuseBackbone(ResNet50(), Decoder(widths), image_channels=2048, stride_px=32, stage_sizes=stages)


@BACKBONES.register("muse_r50_224")
def muse_r50_224() -> MuseBackbone:
    """ResNet-50, trained on views of 224 px; 86 M parameters, 1,024 channels."""
    return _muse_r50()


@BACKBONES.register("muse_r50_512")
def muse_r50_512() -> MuseBackbone:
    """ResNet-50, trained on views of 512 px."""
    return _muse_r50()
