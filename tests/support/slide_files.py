"""Write small slides with known pixels, in the layouts of scanners and other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from pylibCZIrw.czi import create_czi


def draw_gradient(width: int, height: int) -> np.ndarray:
    """(h, w, 3) uint8: red grows evenly with x and green with y; blue is a checkerboard with
    squares of 16 px.
    """
    y, x = np.mgrid[:height, :width]
    checkers = (x // 16 + y // 16) % 2 * 60 + 150
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), checkers], -1).astype(
        np.uint8
    )


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """The mean of each block of ``factor`` x ``factor`` pixels; incomplete blocks are cut off, as
    scanners do.
    """
    height, width = image.shape[0] // factor * factor, image.shape[1] // factor * factor
    total = np.zeros((height // factor, width // factor, *image.shape[2:]), np.uint32)
    for row, column in np.ndindex(factor, factor):
        total += image[row:height:factor, column:width:factor]
    return (total / factor**2).round().astype(np.uint8)


def write_pyramid(
    path: Path,
    image: np.ndarray,
    factors: Sequence[int] = (2, 4),
    mpp: float | None = 0.5,
    ome: bool = False,
    description: str | None = None,
    compression: str = "deflate",
) -> None:
    """Write a tiled TIFF with a further level per factor, each in a page or, with ``ome``, in a
    sub-directory.
    """
    options = {"tile": (256, 256), "photometric": "rgb", "compression": compression}
    if compression == "deflate":
        options["compressionargs"] = {"level": 0}  # fast, as noise cannot be compressed
    about = {"description": description}
    if ome:
        metadata = {"axes": "YXS"}
        for axis in "XY" if mpp else "":
            metadata |= {f"PhysicalSize{axis}": mpp, f"PhysicalSize{axis}Unit": "µm"}
        about |= {"subifds": len(factors), "metadata": metadata}
    else:
        about |= {"metadata": None}
        if mpp:
            about |= {"resolution": (1e4 / mpp,) * 2, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, ome=ome) as tiff:
        tiff.write(image, **about, **options)
        for factor in factors:
            tiff.write(shrink(image, factor), subfiletype=1, metadata=None, **options)


LEICA = """<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="urn:uuid:0">
<collection name="drawn" uuid="urn:uuid:1" sizeX="{glass[0]}" sizeY="{glass[1]}">
<image name="tissue" uuid="urn:uuid:2">
<creationDate>2020-01-01T00:00:00Z</creationDate><device model="drawn" version="1"/>
<pixels sizeX="{size[0]}" sizeY="{size[1]}">{levels}</pixels>
<view sizeX="{tissue[0]}" sizeY="{tissue[1]}" offsetX="{corner[0]}" offsetY="{corner[1]}"
 spacingZ="0"/>
<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>
<numericalAperture>0.5</numericalAperture>
<illuminationSource>brightfield</illuminationSource></illuminationSettings>
</scanSettings></image></collection></scn>"""


def write_leica(
    path: Path,
    image: np.ndarray,
    mpp: float | tuple[float, float],
    corner_px: tuple[int, int],
    factors: Sequence[int] = (2, 4),
) -> None:
    """Write a slide with scanner bounds in Leica's format: ``image`` lies at ``corner_px`` of a
    larger glass.
    """
    mpp, size, corner = np.broadcast_to(mpp, 2), np.array(image.shape[1::-1]), np.array(corner_px)
    positions = {"glass": size + 2 * corner, "tissue": size, "corner": corner}
    nm = {name: np.rint(px * (mpp * 1000)).astype(int) for name, px in positions.items()}
    levels = "".join(
        f'<dimension sizeX="{size[0] // factor}" sizeY="{size[1] // factor}" ifd="{i}" r="{i}"/>'
        for i, factor in enumerate((1, *factors))
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for i, factor in enumerate((1, *factors)):
            text = None if i else LEICA.format(size=size, levels=levels, **nm)
            about = {"description": text, "subfiletype": int(i > 0), "metadata": None}
            about |= {"resolution": tuple(1e4 / mpp / factor), "resolutionunit": "CENTIMETER"}
            how = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate"}
            tiff.write(shrink(image, factor), **about, **how)


def write_ventana(path: Path, image: np.ndarray) -> None:
    """Write a slide in Ventana's format whose tiles overlap; OpenSlide refuses one joint."""
    side = 128
    columns, rows = (-(-extent // side) for extent in image.shape[1::-1])
    facts = f'NumRows="{rows}" NumCols="{columns}" Width="{side}" Height="{side}"'
    joints = "".join(
        f'<TileJointInfo FlagJoined="1" Confidence="98" Direction="{name}" Tile1="1" Tile2="2"'
        f' OverlapX="{overlap}" OverlapY="0"/>'
        for name, overlap in (("RIGHT", 20), ("UP", 0))
    )
    tables = (
        '<iScan Magnification="20" ScanRes="0.5"/>',
        f'<EncodeInfo Ver="2"><SlideStitchInfo><ImageInfo AOIScanned="1" {facts} Pos-X="0"'
        f' Pos-Y="0">{joints}</ImageInfo>'
        '</SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>',
    )
    pages = ((image, {}), (image, {"tile": (side, side)}))
    with tifffile.TiffWriter(path) as tiff:
        for number, (table, (pixels, how)) in enumerate(zip(tables, pages, strict=True)):
            xml = table.encode()
            names = {"description": f"level={number - 1} mag=20 quality=90" if number else "Label"}
            tags = {"extratags": [(700, 1, len(xml), xml, True)], "metadata": None}
            tiff.write(pixels, photometric="rgb", **how, **names, **tags)


def spoil_tile(path: Path, page: int, tile: int) -> None:
    """Overwrite one compressed tile with bytes that no codec accepts."""
    with tifffile.TiffFile(path) as tiff:
        offset, n_bytes = tiff.pages[page].dataoffsets[tile], tiff.pages[page].databytecounts[tile]
    content = bytearray(path.read_bytes())
    content[offset : offset + n_bytes] = b"\xff" * n_bytes
    path.write_bytes(content)


def write_czi(path, image, pixel_um=0.5, scenes=1):
    """Write a mosaic of tiles with its upper left at (70, -30); further scenes are copies below
    the first one.
    """
    with create_czi(str(path)) as document:
        for scene in range(scenes):
            for y in range(0, image.shape[0], 256):
                for x in range(0, image.shape[1], 256):
                    tile = np.ascontiguousarray(image[y : y + 256, x : x + 256, ::-1])
                    at = 70 + x, y - 30 + scene * (image.shape[0] + 100)
                    document.write(tile, location=at, scene=scene)
        document.write_metadata("slide", scale_x=pixel_um * 1e-6, scale_y=pixel_um * 1e-6)
