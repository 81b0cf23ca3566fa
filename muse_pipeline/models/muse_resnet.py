"""MUSE with ResNet-50: its four stages go into the decoder as they are.

"MUSE" (arXiv 2511.05170). The released weights for 224 and 512 px are the same network.
"""

from __future__ import annotations

from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Stage
from muse_pipeline.models.muse import Decoder, MuseBackbone
from muse_pipeline.models.resnet import ResNet50


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
