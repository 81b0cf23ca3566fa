"""A folder of synthesised masks: instances and points, laid out like a label source without
pictures.

`muse synthesize masks --fit` fits the settings of the tissue to sizes, shapes and density of
detected nuclei.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from muse_pipeline.core.environment import find_versions
from muse_pipeline.core.errors import LabelError, NucleiError
from muse_pipeline.core.files import complete_file, read_json, require_own_folder, write_json
from muse_pipeline.core.pictures import list_pictures, write_png
from muse_pipeline.core.process import map_in_order
from muse_pipeline.methods.unit.synthesis_masks import (
    EPITHELIAL,
    KINDS,
    InstanceMask,
    Population,
    TissueSettings,
    contours,
    draw_page,
    require_drawable,
    stylise,
    synthesise_mask,
)
from muse_pipeline.nuclei.arrow import to_numpy
from muse_pipeline.nuclei.masks import INSTANCES, POINTS, read_label_image, write_instances
from muse_pipeline.nuclei.parquet import open_nuclei, read_provenance

QUANTILES = (5, 25, 50, 75, 95)
MEASURES = ("area_um2", "major_um", "minor_um", "ratio")
TOTALS = ("nuclei", "epithelial", "covered")


def measure_axes(instances: np.ndarray, n: int, mpp: float) -> np.ndarray:
    """(n, 4) ``MEASURES`` of instances 1..n, from the second moments of their pixels; zeros for
    missing ones.
    """
    row, column = np.nonzero(instances)
    number = instances[row, column].astype(np.intp) - 1

    def total(values: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(number, values, minlength=n)

    area = total()
    count = np.maximum(area, 1)
    mean_x, mean_y = total(column) / count, total(row) / count
    x, y = column - mean_x[number], row - mean_y[number]
    # A pixel is a square with a second moment of 1/12; an ellipse has (a / 4) ** 2 along a full
    # axis of length a.
    xx, yy, xy = (
        total(values) / count + own
        for values, own in ((x * x, 1 / 12), (y * y, 1 / 12), (x * y, 0))
    )
    middle, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    major, minor = 4 * np.sqrt(middle + spread), 4 * np.sqrt(np.maximum(middle - spread, 0))
    table = np.stack([area * mpp**2, major * mpp, minor * mpp, minor / major], 1)
    return table * (area > 0)[:, None]


def summarise_masks(masks: Sequence[InstanceMask], mpp: float) -> dict[str, Any]:
    """Summarise the measures of nuclei by kind, and totals per mask, as in ``measure``.

    For each kind, these are the number of nuclei ``n`` and the ``QUANTILES`` (%) over nuclei of
    each of ``MEASURES``; and the number of ``masks``, and the quantiles over masks of the number of
    ``nuclei``, the ``epithelial`` fraction of nuclei and the fraction of pixels that are
    ``covered``.
    """
    tables, totals = measure(masks, mpp)
    of_kind = {
        name: {"n": len(table), **_quantiles(table, MEASURES)} for name, table in tables.items()
    }
    return {"masks": len(masks), **of_kind, **_quantiles(totals, TOTALS)}


def measure(masks: Sequence[InstanceMask], mpp: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(n, 4) ``MEASURES`` by kind of nuclei that do not touch the border, without contours; (masks,
    3) ``TOTALS``.
    """
    tables, kinds, totals = [], [], []
    for mask in masks:
        inner = np.where(contours(mask.instances), 0, mask.instances)
        table = measure_axes(inner, len(mask.kinds), mpp)
        whole = table[:, 0] > 0
        whole[border_instances(mask.instances) - 1] = False
        tables.append(table[whole])
        kinds.append(mask.kinds[whole])
        totals.append((len(mask.kinds), (mask.kinds == EPITHELIAL).mean(), (inner > 0).mean()))
    table, kind = np.concatenate(tables), np.concatenate(kinds)
    return {name: table[kind == index] for index, name in enumerate(KINDS)}, np.array(totals, float)


def border_instances(instances: np.ndarray) -> np.ndarray:
    """Values in ``instances``, from 1, of the instances that touch the border."""
    rim = np.concatenate([instances[0], instances[-1], instances[:, 0], instances[:, -1]])
    return np.unique(rim[rim > 0])


def _quantiles(table: np.ndarray, names: Sequence[str]) -> dict[str, list[float]]:
    if not len(table):
        return {name: [] for name in names}
    return {
        name: np.percentile(table[:, i], QUANTILES).round(3).tolist()
        for i, name in enumerate(names)
    }


SETTINGS, PAGE = "masks.json", "page.png"
PAGE_COLUMNS, PAGE_PX = 6, 1600  # the page has 4 rows of at most 6 masks and about 1,600 px
SUMMARISED = 500  # largest number of masks that statistics are computed from
COLUMNS = ("x", "y", "major_axis_um", "minor_axis_um")
LEAST_NUCLEI = 100
BOX_UM = 64.0  # the density is the median over all boxes of this side that contain nuclei
TRIAL_PX, TRIAL_MPP, TRIALS, ROUNDS = 512, 0.5, 8, 4
MOST_PER_MM2 = 30_000.0  # highest density that the settings allow


def write_mask_folder(
    folder: Path,
    n: int,
    tissue: TissueSettings,
    *,
    seed: int,
    mpp: float,
    size_px: int,
    threads: int = 1,
    fit: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Write masks 0 to n - 1 of a seed, ``masks.json`` and ``page.png``; the bytes do not depend on
    ``threads``.

    An earlier set of masks in the folder is replaced. ``fit`` describes, for ``masks.json``, the
    data that ``tissue`` was fitted to. Returns the contents of ``masks.json``.
    """
    require_drawable(size_px, mpp, tissue)
    require_own_folder(folder, is_ours=(folder / SETTINGS).is_file())
    with complete_file(folder) as unfinished:

        def draw(index: int) -> InstanceMask:
            mask = synthesise_mask(index, seed, size_px, mpp, tissue)
            words = [KINDS[kind] for kind in mask.kinds]
            write_instances(unfinished, f"mask-{index:06}", None, mask.instances, words)
            return mask

        unfinished.mkdir()
        first: list[InstanceMask] = []
        for index, mask in enumerate(map_in_order(draw, range(n), threads)):
            if index < SUMMARISED:
                first.append(mask)
            progress(index + 1, n)
        facts = {
            "n": n,
            "seed": seed,
            "mpp": mpp,
            "size_px": size_px,
            "tissue": asdict(tissue),
            "fit": fit,
            "statistics": summarise_masks(first, mpp),
            "versions": find_versions(("muse-pipeline", "numpy", "opencv-python-headless")),
        }
        write_json(unfinished / SETTINGS, facts)
        columns = max(1, min(PAGE_COLUMNS, PAGE_PX // size_px))
        shown = [
            stylise(mask, mpp, np.random.default_rng(i))
            for i, mask in enumerate(first[: 4 * columns])
        ]
        write_png(unfinished / PAGE, draw_page(shown, columns))
    return facts


def read_mask_folder(folder: Path) -> tuple[list[InstanceMask], float]:
    """Read the masks in a folder written by ``write_mask_folder``, and their um per pixel."""
    if not (folder / SETTINGS).is_file():
        raise LabelError(
            f"{folder}: contains no {SETTINGS}; make masks with `muse synthesize masks -o {folder}`"
        )
    masks = []
    for path in list_pictures(folder / INSTANCES):
        words = [
            line.split("\t")[-1]
            for line in (folder / POINTS / f"{path.stem}.tsv").read_text("utf-8").splitlines()
        ]
        kinds = np.array([KINDS.index(word) for word in words[1:]], np.uint8)
        masks.append(InstanceMask(read_label_image(path).astype(np.uint16), kinds))
    return masks, float(read_json(folder / SETTINGS)["mpp"])


class Fit(NamedTuple):
    """Settings fitted to tissue."""

    tissue: TissueSettings  # the fitted settings
    wanted_per_mm2: float  # nuclei per mm2 of the tissue
    reached_per_mm2: (
        float  # nuclei per mm2 of the masks; lower if no more nuclei fit in without overlap
    )


def fit_tissue(paths: Sequence[Path], tissue: TissueSettings) -> Fit:
    """Fit the sizes, axis ratios and density of nuclei to tables of nuclei with outlines; other
    settings are kept.

    Both kinds of nuclei get the same sizes, because proposals have no classes. Long axes are fitted
    to the median and the quartiles of the tables, and ratios of axes to their mean and variance.
    The density is matched on trial masks, because the number of nuclei dropped for overlap depends
    on all settings.
    """
    tables = [_read(path) for path in paths]
    axes = np.concatenate([table[:, 2:] for table in tables])
    axes = axes[(axes > 0).all(1)]
    if len(axes) < LEAST_NUCLEI:
        raise NucleiError(
            f"{paths[0]}: {len(axes)} nuclei have outlines, but a fit needs {LEAST_NUCLEI}; give"
            " the table of a slide with more tissue"
        )
    population = fit_population(axes)
    fitted = replace(tissue, epithelial=population, stroma=population)
    boxes = (np.floor(table[:, :2] / BOX_UM) for table in tables)
    per_box = np.median(
        np.concatenate([np.unique(box, axis=0, return_counts=True)[1] for box in boxes])
    )
    wanted = float(per_box) / BOX_UM**2 * 1e6
    for _ in range(
        ROUNDS
    ):  # the densities of glands and stroma are scaled towards the wanted number of nuclei
        factor = wanted / density_per_mm2(fitted)
        scaled = {
            name: getattr(fitted, name) * factor for name in ("glands_per_mm2", "stroma_per_mm2")
        }
        scaled["glands_per_mm2"] = min(scaled["glands_per_mm2"], TissueSettings.glands_per_mm2)
        fitted = replace(
            fitted,
            **{
                name: round(float(np.clip(value, 1, MOST_PER_MM2)), 1)
                for name, value in scaled.items()
            },
        )
    return Fit(fitted, round(wanted), round(density_per_mm2(fitted)))


def fit_population(axes_um: np.ndarray) -> Population:
    """Fit a population to the full long and short axes (N, 2), um, of nuclei."""
    low, median, high = np.percentile(np.log(axes_um[:, 0]), (25, 50, 75))
    ratio = (axes_um[:, 1] / axes_um[:, 0]).clip(0.01, 0.99)
    mean, precision = ratio.mean(), ratio.mean() * (1 - ratio.mean()) / ratio.var() - 1
    beta = round(float(mean * precision), 3), round(float((1 - mean) * precision), 3)
    # The quartiles of a normal distribution lie 1.349 standard deviations apart.
    return Population(
        round(float(np.exp(median)), 3), round(float((high - low) / 1.349), 3), beta, spindles=0.0
    )


def _read(path: Path) -> np.ndarray:
    """(N, 4) ``COLUMNS`` of a table of nuclei, with positions in um."""
    mpp = read_provenance(path).slide_mpp
    with open_nuclei(path) as file:
        table = file.read(columns=list(COLUMNS))
    return np.stack([to_numpy(table[name]).astype(float) for name in COLUMNS], 1) * (*mpp, 1, 1)


def density_per_mm2(tissue: TissueSettings) -> float:
    """Nuclei per mm2 of synthesised masks; nuclei at the border count half."""
    masks = [synthesise_mask(index, 0, TRIAL_PX, TRIAL_MPP, tissue) for index in range(TRIALS)]
    n = sum(len(mask.kinds) - len(border_instances(mask.instances)) / 2 for mask in masks)
    return n / (TRIALS * (TRIAL_PX * TRIAL_MPP) ** 2 / 1e6)
