"""The report's pictures of density and fields, with a scale bar and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import shapely
from PIL import Image, ImageDraw, ImageFont

from muse_pipeline.core.coords import level0_to_work, work_to_level0, xy_to_xy_index
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.pictures import write_png
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.qupath.regions import ClassArea
from muse_pipeline.report.density import CELL_UM, DensityGrid, Field, read_outlines
from muse_pipeline.store.store import Store

BLACK, NO_CLASS = (0, 0, 0), -1
INK, PAPER, FAINT = (38, 43, 51), (255, 255, 255), (126, 134, 146)
STRIP_PX, CAPTION_PX = 36, 32
OPACITY = 0.82  # opacity of the white behind text on tissue

LegendEntry = tuple[str, tuple[int, int, int]]  # a text and its colour


def nice_length(longest: float) -> float:
    """The largest number up to ``longest`` that is 1, 2 or 5 times a power of ten."""
    power = 10.0 ** np.floor(np.log10(longest))
    return float(max(step * power for step in (1, 2, 5) if step * power <= longest * (1 + 1e-9)))


def add_strip(
    picture: np.ndarray, um_per_px: float, inside: bool = False
) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    """Put ``picture`` (h, w, 3) uint8 on a canvas with a scale bar in a strip, ``STRIP_PX`` high.

    The strip is below the picture, or translucent ``inside`` its lower end. Returns the canvas, its
    pen and the x in px at which the legend may begin.
    """
    height, width = picture.shape[:2]
    canvas = Image.new("RGB", (width, height + (0 if inside else STRIP_PX)), PAPER)
    canvas.paste(Image.fromarray(picture), (0, 0))
    middle = canvas.height - STRIP_PX // 2
    if inside:
        _whiten(canvas, (0, canvas.height - STRIP_PX, width, canvas.height))
    pen = ImageDraw.Draw(canvas)
    length_um = nice_length(width * um_per_px / 4)
    end = 12 + length_um / um_per_px
    pen.rectangle((12, middle - 3, end, middle + 2), fill=INK)
    text = f"{length_um:g} um" if length_um < 1000 else f"{length_um / 1000:g} mm"
    return canvas, pen, write_label(pen, (end + 8, middle), text) + 24


def add_caption(canvas: Image.Image, text: str) -> None:
    """Write ``text`` on a pale box in the top left corner."""
    pen = ImageDraw.Draw(canvas)
    end = 24 + int(np.ceil(pen.textlength(_printable(text), font=_font())))
    _whiten(canvas, (0, 0, min(end, canvas.width), CAPTION_PX))
    write_label(pen, (12, CAPTION_PX // 2), text)


def _whiten(canvas: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Lighten ``box`` = (left, top, right, bottom) with translucent white."""
    part = canvas.crop(box)
    canvas.paste(Image.blend(part, Image.new("RGB", part.size, PAPER), OPACITY), box[:2])


def add_legend(
    pen: ImageDraw.ImageDraw, left: int, middle: int, entries: Sequence[LegendEntry], right: int
) -> None:
    """Draw swatches and texts from ``left`` to at most ``right``; "+2" replaces two entries that do
    not fit.
    """
    for i, (text, color) in enumerate(entries):
        end = left + 22 + pen.textlength(_printable(text), font=_font())
        if end > right - (40 if i + 1 < len(entries) else 0):
            write_label(pen, (left, middle), f"+{len(entries) - i}", FAINT)
            return
        pen.ellipse((left, middle - 7, left + 14, middle + 7), fill=color)
        left = write_label(pen, (left + 20, middle), text) + 18


def write_label(
    pen: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, color: tuple[int, int, int] = INK
) -> int:
    """Write ``text`` with the middle of its left edge at ``xy``, and return the x of its right
    end.
    """
    pen.text(xy, _printable(text), fill=color, font=_font(), anchor="lm")
    return int(np.ceil(xy[0] + pen.textlength(_printable(text), font=_font())))


def save_picture(canvas: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    with complete_file(path) as partial:
        write_png(partial, np.asarray(canvas))


def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=17)


def _printable(text: str) -> str:
    return text.encode("ascii", "replace").decode()  # Pillow's font lacks other characters


LONG_SIDE_PX = 900
_OUTLINE = (74, 84, 98)
_LEGEND_PX = 100  # width of an entry of the legend
_GLASS_GREY = 236
# From pale yellow through orange to deep violet: darkness increases with density, so hue need not
# be recognised.
_RAMP = np.array(
    [(255, 240, 178), (254, 196, 96), (240, 120, 62), (200, 52, 84), (128, 20, 108), (62, 10, 92)],
    float,
)


def _heat_colours(strength: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) uint8 of densities (h, w) from 0 to 1."""
    levels, stops = np.linspace(0, 1, 256), np.linspace(0, 1, len(_RAMP))
    table = np.stack([np.interp(levels, stops, channel) for channel in _RAMP.T], -1)
    return cv2.applyColorMap(np.uint8(np.rint(255 * strength)), np.uint8(np.rint(table))[:, None])


def draw_density(
    grid: DensityGrid,
    mask: np.ndarray,
    backdrop: np.ndarray,
    path: Path,
    areas: Sequence[ClassArea],
    slide_mpp: tuple[float, float],
) -> None:
    """Write the heat map of a slide as PNG, with the outlines of ``areas`` in level-0 px of
    ``slide_mpp``.

    The ``mask`` (h, w) of the tissue and the picture ``backdrop`` (h, w, 3), each of any size, show
    the whole slide.
    """
    # A cell of the grid is never larger than the picture.
    um_per_px = max(*grid.size_um, CELL_UM) / LONG_SIDE_PX
    size = tuple(max(1, round(extent / um_per_px)) for extent in grid.size_um)
    how = cv2.INTER_AREA if backdrop.shape[1] > size[0] else cv2.INTER_CUBIC
    backdrop = cv2.resize(backdrop, size, interpolation=how)
    grey = cv2.cvtColor(backdrop, cv2.COLOR_RGB2GRAY).astype(np.float32)
    inside = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 127
    density = cv2.GaussianBlur(grid.per_mm2, (0, 0), 0.8, borderType=cv2.BORDER_REPLICATE)
    scale = CELL_UM / um_per_px
    density = cv2.resize(density, None, fx=scale, fy=scale)[: size[1], : size[0]]
    top = _round_up(np.percentile(density[density > 1], 99.5)) if (density > 1).any() else 1.0
    strength = np.clip(density / top, 0, 1).astype(np.float32)
    # Greys become paler, and glass white. White also hides pen marks beside the tissue.
    pale = np.rint(255 - 0.65 * np.clip(_GLASS_GREY - grey, 0, None) * inside)
    pale = cv2.cvtColor(np.uint8(pale), cv2.COLOR_GRAY2RGB)
    opacity = np.clip(8 * strength, 0, 0.8) * inside
    picture = cv2.blendLinear(_heat_colours(strength), pale, opacity, 1 - opacity)
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, contours, -1, _OUTLINE, 1, cv2.LINE_AA)
    for area in areas:
        rings = map(shapely.get_coordinates, shapely.get_rings(shapely.get_parts(area.shape)))
        corners = [np.rint(xy * slide_mpp / um_per_px).astype(np.int32) for xy in rings]
        cv2.polylines(picture, corners, True, PAPER, 5, cv2.LINE_AA)
        cv2.polylines(picture, corners, True, area.color, 2, cv2.LINE_AA)
    canvas, pen, left = add_strip(picture, um_per_px)
    legend = list(dict.fromkeys((area.class_name.lower(), area.color) for area in areas))
    end = _add_colour_bar(canvas, pen, left + 8, top, _LEGEND_PX * len(legend))
    add_legend(pen, end + 24, canvas.height - STRIP_PX // 2, legend, canvas.width)
    save_picture(canvas, path)


def _add_colour_bar(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, left: int, top: float, beside_px: int = 0
) -> int:
    """Draw the colour bar from ``left``, keep ``beside_px`` free for the legend, and return the x
    of its end.
    """
    width = min(160, canvas.width - left - 190 - beside_px)
    if width < 40:  # on a narrow slide the strip only has room for the scale bar
        return left
    middle = canvas.height - STRIP_PX // 2
    start = write_label(pen, (left, middle), "0", FAINT) + 8
    bar = _heat_colours(np.tile(np.linspace(0, 1, width), (12, 1)))
    canvas.paste(Image.fromarray(bar), (start, middle - 6))
    return write_label(pen, (start + width + 8, middle), f"{top:,.0f} nuclei/mm2")


def _round_up(value: float) -> float:
    """Round up to two significant digits, or to an integer below 10."""
    step = 10.0 ** max(0, np.floor(np.log10(value)) - 1)
    return float(np.ceil(value / step) * step)


ENLARGEMENT = 2  # minimum enlargement, so that outlines between pixels of the store are crisp
LEAST_PX = 640  # a narrower field is enlarged more, so that caption and legend fit
_MARGIN_UM = 20.0  # nuclei with centres up to this far outside a field are also drawn
_SUBPIXEL_BITS = 4


def draw_field(
    store: Store,
    nuclei: Path,
    field: Field,
    classes: Sequence[NucleusClass],
    path: Path,
    *,
    column: str = "label",
) -> dict[str, int]:
    """Write a PNG of the part of a field on the slide, with its nuclei, a scale bar, a legend and a
    caption.

    The values of ``column`` in the table ``nuclei`` are indices of ``classes``. Returns the number
    of nuclei centred in the field by class name, without nuclei that totals leave out.
    """
    width, height = field_size_px(store, field)
    enlargement = max(ENLARGEMENT, -(-LEAST_PX // width))
    size = width * enlargement, height * enlargement
    pixels = store.read(_corner_px(store, field), (width, height))
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
    low, high = _level0_corners(store, field, 0.0)
    outer = _level0_corners(store, field, _MARGIN_UM)
    geometry, xy, label, flagged = read_outlines(nuclei, *outer, column)
    inside = ((xy >= low) & (xy < high)).all(1)
    counts = {
        kind.name: int((label[inside & ~flagged] == i).sum()) for i, kind in enumerate(classes)
    }
    label[flagged] = NO_CLASS
    parts, nucleus = shapely.get_parts(geometry, return_index=True)
    corners, ring = shapely.get_coordinates(shapely.get_exterior_ring(parts), return_index=True)
    corners = level0_to_work(corners - low, store.slide_mpp, store.mpp) * enlargement
    rings = np.split(corners, np.flatnonzero(np.diff(ring)) + 1) if len(corners) else []
    draw_outlines(pixels, rings, label[nucleus], classes)
    canvas, pen, left = add_strip(pixels, store.mpp / enlargement, inside=True)
    legend = [(f"{kind.name} {counts[kind.name]:,}", kind.color) for kind in classes]
    if n_flagged := int((flagged & inside).sum()):
        legend.append((f"in artefacts {n_flagged:,}", BLACK))
    add_legend(pen, left, canvas.height - STRIP_PX // 2, legend, canvas.width)
    add_caption(canvas, field.caption.capitalize())
    save_picture(canvas, path)
    return counts


def draw_outlines(
    pixels: np.ndarray, rings: list[np.ndarray], label: np.ndarray, classes: Sequence[NucleusClass]
) -> None:
    """Draw closed rings, (n, 2) in px of ``pixels``, into ``pixels`` (h, w, 3) uint8, in the
    colours of the labels.
    """
    scale = 1 << _SUBPIXEL_BITS
    fixed = [np.round(xy_to_xy_index(ring) * scale).astype(np.int32) for ring in rings]
    style = {"isClosed": True, "lineType": cv2.LINE_AA, "shift": _SUBPIXEL_BITS}
    halo = pixels.copy()  # separates the line from dark chromatin
    cv2.polylines(halo, fixed, color=PAPER, thickness=3, **style)
    cv2.addWeighted(pixels, 0.5, halo, 0.5, 0, pixels)
    for i in np.unique(label):
        color = classes[i].color if 0 <= i < len(classes) else BLACK
        of_class = [fixed[k] for k in np.flatnonzero(label == i)]
        for _ in range(2):  # twice, since an antialiased line between two pixels is pale
            cv2.polylines(pixels, of_class, color=color, thickness=1, **style)


def field_size_px(store: Store, field: Field) -> tuple[int, int]:
    """(width, height) of a field in work pixels, smaller if part of the field is beyond the
    slide.
    """
    side = round(field.side_um / store.mpp)
    width, height = (
        min(side, size - at)
        for size, at in zip(store.size_px, _corner_px(store, field), strict=True)
    )
    return width, height


def _corner_px(store: Store, field: Field) -> tuple[int, int]:
    x, y = (round(length / store.mpp) for length in field.xy_um)
    return x, y


def _level0_corners(store: Store, field: Field, margin_um: float) -> tuple[np.ndarray, np.ndarray]:
    corner = np.array(field.xy_um)
    corners = np.stack([corner - margin_um, corner + field.side_um + margin_um])
    low, high = work_to_level0(corners, store.slide_mpp, 1.0)
    return low, high
