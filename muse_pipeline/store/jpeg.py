"""The codec of JPEG chunks for zarr, which has none: a process that imports this module can read them by zarr too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import simplejpeg
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.registry import register_codec

from muse_pipeline.store.sharding import JPEG_NAME, JPEG_QUALITY, encode_jpeg


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
        return chunk_spec.prototype.buffer.from_bytes(encode_jpeg(pixels, self.level))


register_codec(JPEG_NAME, JpegCodec)
