"""Tissue settings fitted to the sizes, eccentricities and density of detected nuclei."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from muse_pipeline.core.errors import NucleiError
from muse_pipeline.nuclei.arrow import to_numpy
from muse_pipeline.nuclei.parquet import open_nuclei, read_provenance
from muse_pipeline.synthesis.masks import synthesise_mask
from muse_pipeline.synthesis.settings import Population, TissueSettings
from muse_pipeline.synthesis.statistics import border_instances

COLUMNS = ("x", "y", "major_axis_um", "minor_axis_um")
LEAST_NUCLEI = 100
BOX_UM = 64.0  # density is that of the median box of this side that holds a nucleus
TRIAL_PX, TRIAL_MPP, TRIALS, ROUNDS = 512, 0.5, 8, 4
MOST_PER_MM2 = 30_000.0  # that settings may have


class Fit(NamedTuple):
    """Settings fitted to tissue.

    Attributes:
        tissue: the fitted settings.
        wanted_per_mm2: density of the tissue.
        reached_per_mm2: density of masks; less where no more nuclei fit without overlap.
    """

    tissue: TissueSettings
    wanted_per_mm2: float
    reached_per_mm2: float


def fit_tissue(paths: Sequence[Path], tissue: TissueSettings) -> Fit:
    """Fit sizes, eccentricities and density to tables of nuclei; glands stay as they are.

    Both kinds get the same sizes, since proposals have no classes. The long axis gets the median of the tables and the
    spread of their quartiles; the ratio of axes the Beta distribution of their mean and variance. The density is
    matched by trial masks, because the number of nuclei left out as overlapping depends on everything else.

    Args:
        paths: ``nuclei.parquet`` or ``proposals.parquet`` with outlines, one or more.
        tissue: all other settings.

    Raises:
        NucleiError: a table cannot be read, or there are too few nuclei with outlines.
    """
    tables = [_read(path) for path in paths]
    axes = np.concatenate([table[:, 2:] for table in tables])
    axes = axes[(axes > 0).all(1)]
    if len(axes) < LEAST_NUCLEI:
        raise NucleiError(
            f"{paths[0]}: has {len(axes)} nuclei with outlines, where a fit needs {LEAST_NUCLEI}; give the table of a "
            "slide with more tissue"
        )
    population = fit_population(axes)
    fitted = replace(tissue, epithelial=population, stroma=population)
    per_box = np.median(np.concatenate([_count_boxes(table[:, :2]) for table in tables]))
    return _match_density(fitted, float(per_box) / BOX_UM**2 * 1e6)


def fit_population(axes_um: np.ndarray) -> Population:
    """The population of nuclei with full long and short axes (N, 2) in um."""
    low, median, high = np.percentile(np.log(axes_um[:, 0]), (25, 50, 75))
    ratio = (axes_um[:, 1] / axes_um[:, 0]).clip(0.01, 0.99)
    mean, precision = ratio.mean(), ratio.mean() * (1 - ratio.mean()) / ratio.var() - 1
    beta = round(float(mean * precision), 3), round(float((1 - mean) * precision), 3)
    return Population(round(float(np.exp(median)), 3), round(float((high - low) / 1.349), 3), beta, spindles=0.0)


def _read(path: Path) -> np.ndarray:
    """(N, 4) ``COLUMNS``, positions in um."""
    mpp = read_provenance(path).slide_mpp
    with open_nuclei(path) as file:
        table = file.read(columns=list(COLUMNS))
    return np.stack([to_numpy(table[name]).astype(float) for name in COLUMNS], 1) * (*mpp, 1, 1)


def _count_boxes(xy_um: np.ndarray) -> np.ndarray:
    """Nuclei of each box that holds one."""
    return np.unique(np.floor(xy_um / BOX_UM), axis=0, return_counts=True)[1]


def _match_density(tissue: TissueSettings, wanted: float) -> Fit:
    """Scale glands and stroma until masks have ``wanted`` nuclei per mm2, or no more fit."""
    for _ in range(ROUNDS):
        factor = wanted / density_per_mm2(tissue)
        scaled = {name: getattr(tissue, name) * factor for name in ("glands_per_mm2", "stroma_per_mm2")}
        scaled["glands_per_mm2"] = min(scaled["glands_per_mm2"], TissueSettings.glands_per_mm2)
        tissue = replace(
            tissue, **{name: round(float(np.clip(value, 1, MOST_PER_MM2)), 1) for name, value in scaled.items()}
        )
    return Fit(tissue, round(wanted), round(density_per_mm2(tissue)))


def density_per_mm2(tissue: TissueSettings) -> float:
    """Nuclei per mm2 of synthesised masks; those at the border count half."""
    masks = [synthesise_mask(index, 0, TRIAL_PX, TRIAL_MPP, tissue) for index in range(TRIALS)]
    n = sum(len(mask.kinds) - len(border_instances(mask.instances)) / 2 for mask in masks)
    return n / (TRIALS * (TRIAL_PX * TRIAL_MPP) ** 2 / 1e6)
