"""What every picture of the report carries: a scale bar and a legend, below the tissue or on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from muse_pipeline.files import complete_file

INK, PAPER, FAINT = (38, 43, 51), (255, 255, 255), (126, 134, 146)
STRIP_PX, CAPTION_PX = 36, 32
OPACITY = 0.82  # of the white behind words on tissue
_NICE = (1, 2, 5)


@dataclass(frozen=True)
class LegendEntry:
    """A colour and what it stands for."""

    text: str
    color: tuple[int, int, int]


def nice_length(longest: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is no longer than ``longest``."""
    power = 10.0 ** np.floor(np.log10(longest))
    return float(max(step * power for step in _NICE if step * power <= longest * (1 + 1e-9)))


def add_strip(
    picture: np.ndarray, um_per_px: float, inside: bool = False
) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """Put ``picture`` (h, w, 3) uint8 on a canvas with a strip of ``STRIP_PX``, a scale bar at its left.

    Args:
        picture: of the tissue.
        um_per_px: of it.
        inside: whether the strip covers the lower end of the picture, which shows through; else it is added below.

    Returns:
        The canvas, its pen and the x in px where the legend may begin.
    """
    height, width = picture.shape[:2]
    canvas = Image.new("RGB", (width, height + (0 if inside else STRIP_PX)), PAPER)
    canvas.paste(Image.fromarray(picture), (0, 0))
    middle = canvas.height - STRIP_PX // 2
    if inside:
        _whiten(canvas, (0, canvas.height - STRIP_PX, width, canvas.height))
    pen = ImageDraw.Draw(canvas)
    length_um = nice_length(width * um_per_px / 4)
    bar_px = length_um / um_per_px
    pen.rectangle((12, middle - 3, 12 + bar_px, middle + 2), fill=INK)
    end = write_text(pen, (12 + bar_px + 8, middle), _length_text(length_um))
    return canvas, pen, end + 24


def add_caption(canvas: Image.Image, text: str) -> None:
    """Write ``text`` on a pale field in the top left corner."""
    pen = ImageDraw.Draw(canvas)
    end = 24 + int(np.ceil(pen.textlength(_printable(text), font=_font())))
    _whiten(canvas, (0, 0, min(end, canvas.width), CAPTION_PX))
    write_text(pen, (12, CAPTION_PX // 2), text)


def _whiten(canvas: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Let ``box`` = (left, top, right, bottom) show through white."""
    part = canvas.crop(box)
    canvas.paste(Image.blend(part, Image.new("RGB", part.size, PAPER), OPACITY), box[:2])


def add_legend(pen: ImageDraw.ImageDraw, left: int, middle: int, entries: Sequence[LegendEntry], right: int) -> None:
    """Write swatches and texts from ``left``; what would pass ``right`` is left out and said so."""
    for i, entry in enumerate(entries):
        end = left + 22 + pen.textlength(_printable(entry.text), font=_font())
        if end > right - (40 if i + 1 < len(entries) else 0):
            write_text(pen, (left, middle), f"+{len(entries) - i}", FAINT)
            return
        pen.ellipse((left, middle - 7, left + 14, middle + 7), fill=entry.color)
        left = write_text(pen, (left + 20, middle), entry.text) + 18


def write_text(pen: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, color: tuple[int, int, int] = INK) -> int:
    """Write ``text`` from its left middle; gives the x where it ends."""
    pen.text(xy, _printable(text), fill=color, font=_font(), anchor="lm")
    return int(np.ceil(xy[0] + pen.textlength(_printable(text), font=_font())))


def save_picture(canvas: Image.Image, path: Path) -> None:
    """Write a PNG, complete or not at all."""
    with complete_file(path) as partial:
        canvas.save(partial, format="PNG", compress_level=4)  # 6 is smaller by 3 % and takes 2.5 times as long


def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=17)


def _printable(text: str) -> str:
    return text.encode("ascii", "replace").decode()  # the font that travels with Pillow knows no more


def _length_text(um: float) -> str:
    return f"{um:g} um" if um < 1000 else f"{um / 1000:g} mm"
