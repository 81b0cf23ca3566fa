"""Compression of a store's chunks: lossless by Zstandard, or JPEG for pretraining.

zarr itself has no JPEG codec; the one below is registered under the name that imagecodecs uses for numcodecs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
import simplejpeg
from numcodecs import Zstd
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import TransposeCodec, ZstdCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.registry import register_codec

LOSSLESS, JPEG = "zstd", "jpeg"
CODECS = (LOSSLESS, JPEG)
ZSTD = {"level": -1, "checksum": True}
JPEG_NAME, JPEG_QUALITY, JPEG_SUBSAMPLING = "imagecodecs_jpeg", 90, "420"


def encode(planes: np.ndarray, codec: str) -> bytes:
    """Content of the file of a chunk (3, side, side) uint8; ``codec`` is one of ``CODECS``."""
    if codec == LOSSLESS:
        return Zstd(**ZSTD).encode(planes)
    return _encode_jpeg(cv2.merge(list(planes)), JPEG_QUALITY)


def decode(content: bytes, side_px: int, codec: str) -> np.ndarray:
    """A chunk (3, side, side) uint8.

    Raises:
        RuntimeError, ValueError: ``content`` is damaged.
    """
    if codec == LOSSLESS:
        return np.frombuffer(Zstd().decode(content), np.uint8).reshape(3, side_px, side_px)
    return np.stack(cv2.split(simplejpeg.decode_jpeg(content, "RGB"))).reshape(3, side_px, side_px)


def array_codecs(codec: str) -> dict[str, Any]:
    """Arguments of ``zarr.Group.create_array`` for an array ``(c, y, x)``."""
    if codec == LOSSLESS:
        return {"compressors": [ZstdCodec(**ZSTD)]}
    return {"filters": [TransposeCodec(order=(1, 2, 0))], "serializer": JpegCodec(), "compressors": None}


def _encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    return simplejpeg.encode_jpeg(pixels, quality, "RGB", JPEG_SUBSAMPLING, fastdct=False)


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """Chunks ``(y, x, 3)`` as JPEG files, for any zarr reader of a process that has imported this package.

    Attributes:
        level: quality, 1 to 100.
    """

    level: int = JPEG_QUALITY
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Create the codec from the metadata of an array."""
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """The codec's entry in the metadata of an array."""
        return {"name": JPEG_NAME, "configuration": {"level": self.level}}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Unknown before a chunk is encoded."""
        raise NotImplementedError

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        pixels = simplejpeg.decode_jpeg(chunk_bytes.to_bytes(), "RGB")
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        pixels = np.ascontiguousarray(chunk_array.as_numpy_array())
        return chunk_spec.prototype.buffer.from_bytes(_encode_jpeg(pixels, self.level))


register_codec(JPEG_NAME, JpegCodec)
