"""Write small slides of known pixels, the way scanners and other tools lay them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile


def draw_gradient(width: int, height: int) -> np.ndarray:
    """(h, w, 3) uint8: red grows with x and green with y, evenly; blue is a checkerboard of 16 px."""
    y, x = np.mgrid[:height, :width]
    checkers = (x // 16 + y // 16) % 2 * 60 + 150
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), checkers], -1).astype(np.uint8)


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """The mean of every ``factor`` x ``factor`` pixels; what does not fill a pixel is cut off, as scanners do."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, -1)
    return blocks.mean((1, 3)).round().astype(np.uint8)


def write_pyramid(
    path: Path,
    image: np.ndarray,
    factors: Sequence[int] = (2, 4),
    mpp: float | None = 0.5,
    ome: bool = False,
    description: str | None = None,
    compression: str = "deflate",
) -> None:
    """A tiled TIFF with a level per factor: a page each, or sub-directories (``ome``)."""
    options = {"tile": (256, 256), "photometric": "rgb", "compression": compression}
    resolution = {} if mpp is None or ome else {"resolution": (1e4 / mpp,) * 2, "resolutionunit": "CENTIMETER"}
    sizes = {f"PhysicalSize{axis}": mpp for axis in "XY"} | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    with tifffile.TiffWriter(path, ome=ome) as tiff:
        tiff.write(
            image,
            subifds=len(factors) if ome else None,
            metadata={"axes": "YXS", **(sizes if mpp else {})} if ome else None,
            description=description,
            **options,
            **resolution,
        )
        for factor in factors:
            tiff.write(shrink(image, factor), subfiletype=1, metadata=None, **options)


def spoil_tile(path: Path, page: int, tile: int) -> None:
    """Overwrite one compressed tile with bytes that no codec accepts."""
    with tifffile.TiffFile(path) as tiff:
        offset, n_bytes = tiff.pages[page].dataoffsets[tile], tiff.pages[page].databytecounts[tile]
    content = bytearray(path.read_bytes())
    content[offset : offset + n_bytes] = b"\xff" * n_bytes
    path.write_bytes(content)
