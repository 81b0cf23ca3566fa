"""Areas of a slide that are out of focus, folded, under an air bubble or inked, in which nuclei
cannot be trusted.

Focus is measured in the green channel, in which both stains are dark. The channel is blurred
repeatedly, each blur about twice as wide as the last, from 0.5 to 1.7 um; the difference between
two successive blurs is the detail of that size. In focus, the energy of the detail of 0.5 to 0.9 um
is 0.3 to 1 times that of the detail of 0.9 to 1.7 um, whatever the stain and contrast; a defocus of
1 um reduces this ratio to two fifths. The ratio also depends on tissue and scanner, so the
threshold below which a cell is out of focus is a fraction of the slide's median ratio, clipped to a
fixed range. Camera noise is measured in the finest detail and subtracted. Folds, bubbles and ink
are mapped by the built-in region model ``artefacts``, which runs only where tissue is dark or out
of focus. An area is kept if its mean colour agrees: folds and ink are darker than the slide, folds
have more of both stains than the tissue around them, ink is darker than bone and blood, and focus
is not judged in tissue without haematoxylin, such as bone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import shapely
from numpy import ndarray

from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.provenance import Quality
from muse_pipeline.core.types import ARTEFACTS, LEFT_OUT, SlideInfo
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.model import BUILT_IN
from muse_pipeline.inference.predictor import RegionPredictor
from muse_pipeline.inference.region_maps import map_slide, tissue_on_cells
from muse_pipeline.inference.stains import colour_of_fit, reference_stains
from muse_pipeline.qupath.regions import ClassArea, write_class_areas
from muse_pipeline.store.resample import MAX_COARSER
from muse_pipeline.store.store import Store
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.stain import DENSITY, IDENTITY, MacenkoFit

MODEL = BUILT_IN / "regions/artefacts.onnx"
# "blurred" is measured; the others are the model's classes after the first, in its order
KINDS = ARTEFACTS
FOLD = KINDS.index("fold")  # index among the kinds, and among the classes of the model
COLORS = ((255, 170, 0), (128, 0, 128), (0, 160, 200), (60, 60, 60))
CLEAN = -1
MPP = 0.5  # um per pixel at which focus is measured
CELL_UM = 16.0  # side of a cell
_CELL_PX = 32
MIN_PROBABILITY = 0.5  # minimum probability of a kind that the model maps
# minimum probability of cells connected to a fold: docs/results/artefacts.md
CONNECTED_PROBABILITY = 0.05
# Colours of areas, as natural logarithms: docs/results/artefacts.md
# mean of an area in which focus is judged; bone and other tissue without nuclei have less
MIN_HAEMATOXYLIN = 0.1
MIN_INK = 0.95  # minimum density of ink; bone and blood have up to 0.91
DARKER = 1.6  # minimum density of folds and ink, relative to the slide's median
# minimum haematoxylin and eosin of a fold, relative to the tissue around it
MORE_STAIN = (1.3, 1.6)
MIN_FOLD_UM = 200.0  # minimum length of a fold, without its margin
# maximum fraction of the cells around a fold that have less than ``PALE`` of its density
MAX_PALE = 0.4
PALE = 0.25
# minimum density of the middle of a fold, at least so many cells from its edge, relative to its rim
MIDDLE_CELLS, MIN_MIDDLE = 2.5, 0.9
_AROUND = 5  # width in cells of the border in which a fold is compared with the tissue around it
_SQUARE = np.ones((3, 3), np.uint8)
# least area searched for folds and for ink, if dark, and for bubbles, if soft
_SEARCHED_MM2 = (0.002, 0.001, 0.004)
# side of the model's windows, small because most tissue is neither dark nor out of focus
_WINDOW_PX = 480
# minimum area of each of ``KINDS``; smaller areas are dropped
MIN_AREAS_MM2 = (0.004, 0.002, 0.004, 0.0)
# threshold of the ratio, as a fraction of the slide's median: docs/results/artefacts.md
SHARE_OF_MEDIAN = 0.58
# range of that threshold, for slides that are mostly blurred or rich in fine collagen
RATIO_LIMITS = (0.2, 0.36)
# minimum energy of coarse detail in grey levels squared; cells with less are not judged
MIN_ENERGY = 0.5
# the same for cells that count for the median, since noise has a high ratio, as in cartilage
USUAL_ENERGY = 8.0
# energy of white noise in fine and in coarse detail, relative to that in the finest detail
_NOISE = (0.0334, 0.0139)
# minimum fraction of tissue in a cell, since the edge of tissue would count as detail
MIN_TISSUE = 0.6
MAX_GREEN = 220  # brighter pixels are glass
# maximum fraction of blurred tissue that is left out, and of another artefact that is not unusual
# colour
MOST = 0.5
_BLOCK_CELLS = 16  # side of a block in cells; a block is one chunk at 0.5 um/px, blurred by itself
# integer steps per grey level; blurring 16-bit integers gives the same result on every machine
_STEPS = 64


@dataclass(frozen=True, eq=False)
class ArtefactMap:
    """The kind of artefact in each cell of a slide.

    The areas are empty if artefacts were not searched for, and without "blurred" if focus cannot be
    judged.
    """

    # (rows, columns) int8 index into ``kinds``, or ``CLEAN``; the grid starts at level 0's corner
    kind: ndarray
    area_mm2: dict[str, float]  # area of the tissue with each kind of artefact
    slide_mpp: tuple[float, float]  # (x, y) um per level-0 pixel
    model_sha256: str  # checksum of the model that mapped all kinds but the first
    kinds: tuple[str, ...] = KINDS
    subtract: tuple[str, ...] = LEFT_OUT  # kinds whose nuclei and areas are left out of totals
    tissue_mm2: float = 0.0  # area of the tissue

    @property
    def focus_doubt(self) -> str:
        """A warning if focus is not judged, or if nothing is left out for it although this was
        requested; or "".

        Focus is measured relative to the rest of the slide, which is not a reference if most of it
        is out of focus. An enlarged slide looks out of focus everywhere.
        """
        if self.kinds and not has_detail(self.slide_mpp):
            return f"focus is not judged in slides coarser than {MPP * MAX_COARSER:g} um per pixel"
        if KINDS[0] not in self.subtract or not self.kinds:
            return ""
        share = self.area_mm2.get(KINDS[0], 0.0) / max(self.tissue_mm2, 1e-6)
        if share <= MOST:
            return ""
        return (
            f"{share:.0%} of the tissue is out of focus, so nothing is left out for it; check the"
            " slide"
        )

    def at(self, xy: ndarray) -> ndarray:
        """(N,) int32 kinds at positions (N, 2) in level-0 pixels."""
        last = np.array(self.kind.shape[::-1]) - 1
        column, row = (np.asarray(xy) * self.slide_mpp / CELL_UM).astype(int).clip(0, last).T
        return self.kind[row, column].astype(np.int32)

    def describe(self) -> Quality:
        """The description for the provenance of the table."""
        left_out = tuple(
            kind for kind in self.subtract if not (self.focus_doubt and kind == KINDS[0])
        )
        return Quality(
            MPP, CELL_UM, self.model_sha256, self.area_mm2, tuple(self.subtract), left_out
        )

    def write_outlines(self, path: Path, info: SlideInfo) -> None:
        """Write the areas as QuPath annotations, classified by kind."""
        areas, to_level0 = [], CELL_UM / np.array(self.slide_mpp)
        for number, (name, color) in enumerate(zip(self.kinds, COLORS, strict=False)):
            row, column = np.nonzero(self.kind == number)
            outlines = shapely.coverage_union_all(shapely.box(column, row, column + 1, row + 1))
            scanned = shapely.box(*info.scanned_box)
            parts = shapely.get_parts(
                scanned & shapely.transform(outlines, lambda xy: xy * to_level0)
            )
            areas += [ClassArea(name.capitalize(), color, part) for part in parts if part.area]
        write_class_areas(path, areas, info, "artefacts")


def find_artefacts(
    store: Store,
    tissue: TissueMask,
    fit: MacenkoFit | None,
    threads: int = 1,
    subtract: Sequence[str] = LEFT_OUT,
) -> ArtefactMap:
    """Find the areas of a slide that are out of focus, folded, under a bubble or inked.

    The image ``store`` is at ``MPP`` or a finer mpp that divides it. Areas outside ``tissue`` are
    not counted. The fit of the slide's stains is None if it failed. The kinds in ``subtract``,
    whose nuclei and areas are left out of totals, take precedence where kinds overlap.
    """
    masks = find_masks(store, fit, threads)
    kind = np.full(masks[0].shape, CLEAN, np.int8)
    # Later kinds overwrite earlier ones, so those that totals leave out come last.
    for number in sorted(range(len(KINDS)), key=lambda number: KINDS[number] in subtract):
        kind[masks[number]] = number
    areas = _measure_areas(kind, tissue)
    if not has_detail(store.slide_mpp):
        del areas[KINDS[0]]
    return ArtefactMap(
        kind,
        areas,
        store.slide_mpp,
        sha256_of(MODEL),
        subtract=tuple(subtract),
        tissue_mm2=tissue.area_mm2,
    )


def find_masks(store: Store, fit: MacenkoFit | None, threads: int = 1) -> list[ndarray]:
    """A mask (rows, columns) bool for each kind of artefact; they may overlap.

    Arguments as in ``find_artefacts``.
    """
    image, model = store.at(MPP), RegionPredictor(MODEL)
    model.card = replace(model.card, input_px=_WINDOW_PX)
    colour = colour_of_fit(model.card.colour, fit)
    is_tissue = tissue_on_cells(image, _CELL_PX)
    density, stains = measure_stains(image, colour, model.card.colour)
    usual = float(np.median(density[is_tissue])) if is_tissue.any() else 0.0
    fine, coarse = measure_focus(image, is_tissue.shape, threads)
    blurred = find_blurred(fine, coarse) & has_detail(store.slide_mpp)
    dark = density >= DARKER * usual

    def map_kinds(candidates: ndarray, colour: ndarray) -> ndarray:
        where = candidates & is_tissue, CELL_UM / model.card.mpp
        maps = map_slide(image, model, colour, where=where, threads=threads)
        # cells of the model's map along the side of a cell of ``CELL_UM``
        n = round(CELL_UM / maps.cell_um)
        # class 0 is clean tissue
        return average_over_tissue(maps.prob[1:], maps.tissue, n, is_tissue.shape) / 255

    # Normalised stains tell folds from darkly stained tissue, but normalisation would distort the
    # colours of ink.
    fold, *_ = map_kinds(settle_areas(dark, _SEARCHED_MM2[0]), colour)
    unfocused = settle_areas(blurred | ((coarse > 0) & (coarse <= MIN_ENERGY)), _SEARCHED_MM2[2])
    _, bubble, ink = map_kinds(unfocused | settle_areas(dark, _SEARCHED_MM2[1]), IDENTITY)
    masks = (
        keep_areas(blurred, stains[..., 0], MIN_HAEMATOXYLIN),
        find_folds(fold, density, stains, is_tissue, usual),
        bubble > MIN_PROBABILITY,
        keep_areas(ink > MIN_PROBABILITY, density, max(DARKER * usual, MIN_INK)),
    )
    settled = [
        settle_areas(mask, least) & is_tissue
        for mask, least in zip(masks, MIN_AREAS_MM2, strict=True)
    ]
    settled[1:] = [drop_most(mask, is_tissue) for mask in settled[1:]]
    settled[FOLD] &= masks[FOLD]  # without the margin by which areas grew
    return settled


def has_detail(slide_mpp: tuple[float, float]) -> bool:
    """True if a slide is fine enough to judge focus at ``MPP``."""
    return max(slide_mpp) <= MPP * MAX_COARSER


def seek_no_artefacts(store: Store, subtract: Sequence[str]) -> ArtefactMap:
    """An empty map, for slides with a stain other than H&E: the model would mistake brown tissue
    for ink.
    """
    clean = np.full((1, 1), CLEAN, np.int8)
    return ArtefactMap(
        clean, {}, store.slide_mpp, sha256_of(MODEL), kinds=(), subtract=tuple(subtract)
    )


def _measure_areas(kind: ndarray, tissue: TissueMask) -> dict[str, float]:
    """Area of the tissue with each kind of artefact, in mm2."""
    row, column = (
        ((np.arange(n) + 0.5) * um / CELL_UM).astype(int).clip(0, n_cells - 1)
        for n, um, n_cells in zip(tissue.mask.shape, tissue.mask_mpp[::-1], kind.shape, strict=True)
    )
    # one byte per pixel, of which large slides have 20 million
    kinds = kind[np.ix_(row, column)][tissue.mask]
    n = np.array([np.count_nonzero(kinds == number) for number in range(len(KINDS))])
    return dict(zip(KINDS, np.round(n * np.prod(tissue.mask_mpp) / 1e6, 6).tolist(), strict=True))


def measure_stains(
    image: Store, colour: ndarray, reference: ColourReference
) -> tuple[ndarray, ndarray]:
    """Optical density of each cell of an image, and the amounts (rows, columns, 2) of haematoxylin
    and eosin.

    The amounts are those after normalisation by the map ``colour`` (3, 4) to the stains of
    ``reference``.
    """
    cells = image.at(CELL_UM)
    density = cv2.LUT(cells.read((0, 0), cells.size_px), DENSITY)
    amounts = np.linalg.pinv(reference_stains(reference)).T.astype(np.float32)
    return density.mean(-1), cv2.transform(cv2.transform(density, colour), amounts)


def keep_areas(mask: ndarray, values: ndarray, minimum: float) -> ndarray:
    """The connected areas of a mask (rows, columns) bool in which the mean of ``values`` is at
    least ``minimum``.
    """
    n, number = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    count = np.maximum(np.bincount(number.ravel(), minlength=n), 1)
    return mask & (np.bincount(number.ravel(), values.ravel(), n) / count >= minimum)[number]


def find_folds(
    prob: ndarray, density: ndarray, stains: ndarray, is_tissue: ndarray, usual: float
) -> ndarray:
    """Find long areas with a high probability ``prob`` of a fold that have more of both stains than
    tissue around them.

    Other areas are parts of such a fold if they lie on the same dark tissue, because a fold that
    crosses dense cells has hardly more haematoxylin than these. The slide's median density is
    ``usual``; for the other arrays see ``measure_stains``.
    """
    dark = density >= DARKER * usual
    folds = np.zeros(prob.shape, bool)
    _, number, facts, _ = cv2.connectedComponentsWithStats(
        apply_hysteresis(prob).view(np.uint8), connectivity=8
    )
    for index, (x, y, width, height, _) in enumerate(facts[1:].tolist(), 1):
        box = (
            slice(max(y - _AROUND, 0), y + height + _AROUND),
            slice(max(x - _AROUND, 0), x + width + _AROUND),
        )
        area = number[box] == index
        _, sides, _ = cv2.minAreaRect(np.argwhere(area).astype(np.float32))
        core = area & (prob[box] > MIN_PROBABILITY)
        is_long = (max(sides) + 1) * CELL_UM >= MIN_FOLD_UM
        is_dark = density[box][core].mean() >= DARKER * usual
        if is_long and is_dark and not has_lumen(area, density[box]):
            folds[box] |= area & _stands_out(area, core, density[box], stains[box], is_tissue[box])
    _, dark_area = cv2.connectedComponents(dark.view(np.uint8), connectivity=8)
    beside = (number > 0) & dark & np.isin(dark_area, dark_area[folds & dark])
    return folds | np.isin(number, number[beside])


def has_lumen(area: ndarray, density: ndarray) -> bool:
    """True if the middle of an area (rows, columns) is paler than its rim, as in a crypt; folds are
    densest in the middle.
    """
    _, outside = cv2.connectedComponents(np.pad(~area, 1, constant_values=True).view(np.uint8), 4)
    filled = (outside != outside[0, 0])[1:-1, 1:-1]
    depth = cv2.distanceTransform(np.pad(filled, 1).view(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    middle, rim = depth >= MIDDLE_CELLS, filled & (depth < MIDDLE_CELLS)
    return bool(middle.any() and density[middle].mean() < MIN_MIDDLE * density[rim].mean())


def _stands_out(
    area: ndarray, core: ndarray, density: ndarray, stains: ndarray, is_tissue: ndarray
) -> bool:
    """True if ``core``, part of an area, has more of both stains than the tissue around the area,
    with little glass.
    """
    inner, near, wide = (
        cv2.dilate(area.view(np.uint8), _SQUARE, iterations=n) > 0
        for n in (1, _AROUND - 1, _AROUND)
    )
    is_pale = density < PALE * density[core].mean()
    around = wide & ~inner & is_tissue & ~is_pale
    if not around.any() or is_pale[near & ~inner].mean() > MAX_PALE:
        return False
    return bool((stains[core].mean(0) >= MORE_STAIN * np.median(stains[around], 0)).all())


def apply_hysteresis(prob: ndarray) -> ndarray:
    """Connected areas above ``CONNECTED_PROBABILITY`` that contain a cell above
    ``MIN_PROBABILITY``, as a mask.
    """
    _, area = cv2.connectedComponents(
        (prob > CONNECTED_PROBABILITY).astype(np.uint8), connectivity=8
    )
    return np.isin(area, area[prob > MIN_PROBABILITY])


def average_over_tissue(
    values: ndarray, tissue: ndarray, fine: int, n_cells: tuple[int, int]
) -> ndarray:
    """Means (C, rows, columns) float32 over the tissue in each cell, 0 in cells without tissue.

    The ``values`` (C, h, w) are 0 outside ``tissue`` (h, w) bool; a cell is ``fine`` of their
    pixels wide.
    """

    def average(plane: ndarray) -> ndarray:
        padded = np.zeros([fine * n for n in n_cells], np.float32)
        part = plane[: padded.shape[0], : padded.shape[1]]
        padded[: part.shape[0], : part.shape[1]] = part
        return cv2.resize(padded, n_cells[::-1], interpolation=cv2.INTER_AREA)

    # A single pixel of tissue averages to 1 / fine**2, so this limit affects only cells without
    # tissue.
    return np.stack([average(plane) for plane in values]) / np.maximum(average(tissue), 1 / fine**2)


def drop_most(areas: ndarray, is_tissue: ndarray) -> ndarray:
    """The areas, or none if they cover more than ``MOST`` of the tissue: then the slide has unusual
    colours.
    """
    return areas & (areas.sum() <= MOST * is_tissue.sum())


def measure_focus(
    image: Store, n_cells: tuple[int, int], threads: int = 1
) -> tuple[ndarray, ndarray]:
    """Energies (rows, columns) of fine (0.5 to 0.9 um) and coarse (0.9 to 1.7 um) detail in the
    cells of an image.

    Each is in grey levels squared, averaged with the tissue cells around a cell, and 0 outside
    tissue.
    """
    cv2.setNumThreads(1)
    measures = np.zeros((*n_cells, 3), np.float32)
    corners = list(_blocks(image, *n_cells))
    measured = map_in_order(lambda corner: _measure_block(image, corner), corners, threads)
    for (row, column), block in zip(corners, measured, strict=True):
        part = measures[row : row + _BLOCK_CELLS, column : column + _BLOCK_CELLS]
        part[:] = block[: part.shape[0], : part.shape[1]]
    fine, coarse, tissue = np.moveaxis(measures, -1, 0)
    is_tissue = tissue > MIN_TISSUE
    width, height = np.array(image.size_px) // _CELL_PX
    is_tissue[height:], is_tissue[:, width:] = False, False  # not wholly inside the image
    share, fine, coarse = (
        cv2.blur(values * is_tissue, (3, 3), borderType=cv2.BORDER_REPLICATE)
        for values in (np.ones_like(fine), fine, coarse)
    )
    # The share is 1/9 or more in cells of tissue, so this limit affects only the other cells, which
    # become 0.
    share = np.maximum(share, 0.1)
    return np.where(is_tissue, fine / share, 0), np.where(is_tissue, coarse / share, 0)


def find_blurred(
    fine: ndarray,
    coarse: ndarray,
    share_of_median: float = SHARE_OF_MEDIAN,
    limits: tuple[float, float] = RATIO_LIMITS,
) -> ndarray:
    """Find cells whose ratio of fine to coarse detail, from ``measure_focus``, is low compared with
    the slide's median.

    The threshold is ``share_of_median`` times the median, clipped to ``limits``. Cells with too
    little coarse detail are found only between blurred cells.
    """
    judged, clear = coarse > MIN_ENERGY, coarse > USUAL_ENERGY
    compared = clear if clear.any() else judged
    usual = np.median(fine[compared] / coarse[compared]) if compared.any() else 0.0
    blurred = judged & (fine < np.clip(share_of_median * usual, *limits) * coarse)
    return (
        cv2.morphologyEx(blurred.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
    )


def _blocks(image: Store, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Yield (row, column) of the first cell of every block that contains tissue."""
    tissue, side_px = image.tissue
    step = _CELL_PX / side_px
    for row in range(0, rows, _BLOCK_CELLS):
        for column in range(0, columns, _BLOCK_CELLS):
            (top, bottom), (left, right) = (
                (int(first * step), int((first + _BLOCK_CELLS) * step) + 1)
                for first in (row, column)
            )
            if tissue[top:bottom, left:right].any():
                yield row, column


def _measure_block(image: Store, corner: tuple[int, int]) -> ndarray:
    """Energies of fine and coarse detail, and fraction of tissue, in the cells of a block: (n, n,
    3).
    """
    corner_px = np.array(corner[::-1]) * _CELL_PX
    side_px = _BLOCK_CELLS * _CELL_PX
    width, height = np.minimum(image.size_px - corner_px, side_px).tolist()
    (green,) = image.read_planes(tuple(corner_px.tolist()), (width, height), slice(1, 2))
    beyond = 0, side_px - height, 0, side_px - width  # the edge of the image is no detail
    sharp = cv2.copyMakeBorder(green, *beyond, cv2.BORDER_REPLICATE).astype(np.uint16)
    sharp *= _STEPS  # in place, which is twice as fast
    soft = cv2.pyrDown(sharp)  # blurred, at half the size; exact in integers, like the blurs below
    softer = cv2.GaussianBlur(soft, (3, 3), 0)
    softer_small = softer[::2, ::2].copy()
    softest = cv2.GaussianBlur(softer_small, (3, 3), 0)
    # every fourth pixel is enough to measure noise
    sampled = (sharp[::4, ::4].copy(), soft[::2, ::2].copy())
    noise, fine, coarse = (
        _measure_energy(*pair) for pair in (sampled, (soft, softer), (softer_small, softest))
    )
    tissue = _average(cv2.compare(softer_small, MAX_GREEN * _STEPS, cv2.CMP_LT)) / np.float32(255)
    return np.stack([fine - _NOISE[0] * noise, coarse - _NOISE[1] * noise, tissue], -1)


def _measure_energy(sharper: ndarray, softer: ndarray) -> ndarray:
    """Mean square of the difference of two images in each cell of a block, in grey levels
    squared.
    """
    difference = cv2.absdiff(sharper, softer).astype(np.float32)
    return _average(np.square(difference, out=difference)) / _STEPS**2


def _average(values: ndarray) -> ndarray:
    """Means (n, n) of values, at any resolution, over the cells of a block."""
    return cv2.resize(values, (_BLOCK_CELLS, _BLOCK_CELLS), interpolation=cv2.INTER_AREA)


def settle_areas(mask: ndarray, min_area_mm2: float) -> ndarray:
    """Mask of areas of at least ``min_area_mm2``, grown by one cell, since a cell's measure
    includes its neighbours.
    """
    _, number, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = facts[:, cv2.CC_STAT_AREA] >= min_area_mm2 * 1e6 / CELL_UM**2
    large[0] = False
    return cv2.dilate(large[number].astype(np.uint8), _SQUARE) > 0
