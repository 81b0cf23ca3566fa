"""The compressions of a TIFF whose tiles are decoded without OpenSlide: a class each, with OpenSlide's own pixels.

A codec either gives what OpenSlide would or refuses: its errors are for OpenSlide to have again and to say.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

if TYPE_CHECKING:
    from tifffile import TiffPage


class TileCodec(Protocol):
    """Decodes the tiles of one level; called from several threads at once."""

    def decode(self, stream: bytes, tile_px: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) uint8 RGB of a whole tile of ``tile_px`` = (width, height), or of what the stream says it is.

        Raises:
            ValueError, RuntimeError: it is no tile of that size, or a bit of it is wrong.
        """


def codec_of(page: TiffPage) -> TileCodec | None:
    """What decodes the tiles of ``page``; None where OpenSlide has to, or the package that decodes is not installed."""
    if (page.bitspersample, page.samplesperpixel, page.imagedepth) != (8, 3, 1) or page.planarconfig.name != "CONTIG":
        return None
    try:
        if page.compression.name == "JPEG":
            return Jpeg.of_page(page)
        return Jpeg2000.of_page(page)
    except ImportError:
        return None


@dataclass(frozen=True)
class Jpeg:
    """Baseline JPEG by libjpeg-turbo, whose warnings count as errors as they do in OpenSlide.

    Attributes:
        header: with what every tile's stream begins: its colours and the tables that all tiles share.
    """

    header: bytes

    START: ClassVar[bytes] = b"\xff\xd8"
    END: ClassVar[bytes] = b"\xff\xd9"
    # Adobe's segment says whether colours were converted: without it a decoder guesses, where the TIFF's tag knows.
    ADOBE: ClassVar[bytes] = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
    CONVERTED: ClassVar[dict[str, bytes]] = {"RGB": b"\x00", "YCBCR": b"\x01"}

    @classmethod
    def of_page(cls, page: TiffPage) -> Jpeg | None:
        """The codec of a page of JPEG tiles; None if its colours are kept in another way."""
        import simplejpeg  # noqa: F401 - without it nothing is decoded here

        colours = cls.CONVERTED.get(page.photometric.name)
        tables = (page.jpegtables or b"").removeprefix(cls.START).removesuffix(cls.END)
        return None if colours is None else cls(cls.START + cls.ADOBE + colours + tables)

    def decode(self, stream: bytes, tile_px: tuple[int, int]) -> np.ndarray:
        """See ``TileCodec``."""
        import simplejpeg

        if not stream.startswith(self.START):
            raise ValueError("not a JPEG stream")
        # The buffer holds a tile and no more: a stream that claims to be larger is refused before it is decoded.
        buffer = np.empty(tile_px[0] * tile_px[1] * 3, np.uint8)
        return simplejpeg.decode_jpeg(self.header + stream[2:], "RGB", buffer=buffer, strict=True)


@dataclass(frozen=True)
class Jpeg2000:
    """Aperio's JPEG 2000, a bare codestream, by OpenJPEG; components of unequal size (4:2:2) are OpenSlide's.

    imagecodecs turns those into RGB by a rounding of its own, and does not hand out what they were.

    Attributes:
        is_ycbcr: whether the components are to be turned into RGB.
    """

    is_ycbcr: bool

    YCBCR_OF_COMPRESSION: ClassVar[dict[int, bool]] = {33003: True, 33005: False}
    # SOC, SIZ, its length and capabilities; size, origin, and the same of codestream tiles; three components.
    SIZE: ClassVar[struct.Struct] = struct.Struct(">4sHHIIIIIIIIH9s")
    BYTES_EACH: ClassVar[bytes] = b"\x07\x01\x01" * 3  # of every component: 8 bits, no sign, a sample for every pixel

    @classmethod
    def of_page(cls, page: TiffPage) -> Jpeg2000 | None:
        """The codec of a page of JPEG 2000 tiles as Aperio numbers them; None for other compressions."""
        is_ycbcr = cls.YCBCR_OF_COMPRESSION.get(int(page.compression))
        if is_ycbcr is None:
            return None
        import imagecodecs

        return cls(is_ycbcr) if imagecodecs.JPEG2K.available else None

    def decode(self, stream: bytes, tile_px: tuple[int, int]) -> np.ndarray:
        """See ``TileCodec``."""
        import imagecodecs

        self._require_tile(stream, tile_px)
        pixels = imagecodecs.jpeg2k_decode(stream, numthreads=1)
        return ycbcr_to_rgb(pixels) if self.is_ycbcr else pixels

    def _require_tile(self, stream: bytes, tile_px: tuple[int, int]) -> None:
        """Refuse what claims to be larger before anything is allocated for it, and what imagecodecs would convert."""
        if len(stream) < self.SIZE.size:
            raise ValueError("not a JPEG 2000 codestream")
        marks, _, _, width, height, x, y, _, _, _, _, n_components, components = self.SIZE.unpack_from(stream)
        if marks != b"\xff\x4f\xff\x51" or (width, height, x, y) != (*tile_px, 0, 0):
            raise ValueError("not a JPEG 2000 codestream of this size")
        if n_components != 3 or components != self.BYTES_EACH:
            raise ValueError("components of unequal size, or not of 8 bits")


def ycbcr_to_rgb(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 RGB of YCbCr as JFIF 1.02 defines it; what chroma adds is rounded once, as OpenSlide does."""
    luma, blue, red = (pixels[..., i] for i in range(3))
    rgb = np.empty(pixels.shape, np.int16)
    np.add(luma, _RED[red], out=rgb[..., 0])
    np.add(luma, _GREEN[blue, red], out=rgb[..., 1])
    np.add(luma, _BLUE[blue], out=rgb[..., 2])
    return rgb.clip(0, 255).astype(np.uint8)


# Two values lie half-way between numbers: OpenSlide takes blue's away from zero and green's up.
_CHROMA = np.arange(256) - 128
_RED, _BLUE = ((np.sign(_CHROMA) * np.floor(abs(k * _CHROMA) + 0.5)).astype(np.int16) for k in (1.402, 1.772))
_GREEN = np.floor(-0.34414 * _CHROMA[:, None] - 0.71414 * _CHROMA + 0.5).astype(np.int16)  # (cb, cr)
