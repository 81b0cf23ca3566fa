"""The measures of a slide by which groups of patients are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.environment import count_cores
from muse_pipeline.core.errors import StoreError
from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.provenance import Regions
from muse_pipeline.features.catalogue import MIX_UM, WITHOUT_CLASSES, every_feature
from muse_pipeline.nuclei.arrow import to_numpy
from muse_pipeline.nuclei.parquet import (
    BORDER,
    REGION,
    ROW_GROUP,
    iterate_counted,
    iterate_rows,
    open_nuclei,
    read_provenance,
)

EDGE = "neighbours_tissue_edge_um"
THREADS = 4  # slides that are read at once: a million nuclei take 300 MB


class Measure(NamedTuple):
    """One number per slide.

    Attributes:
        name: name in ``statistics.tsv`` and ``cohort.h5ad``.
        group: "density", "mix", "feature", "mixing" or "infiltration".
        unit: "1/mm2", "%", "1", or the unit of the feature.
    """

    name: str
    group: str
    unit: str

    @property
    def is_of_classes(self) -> bool:
        """True if the measure depends on the classes of the nuclei."""
        return self.name != "nuclei_per_mm2" and self.name.removeprefix("median_") not in WITHOUT_CLASSES


def measure_slides(results: Path, slides: Iterable[str]) -> tuple[list[Measure], np.ndarray]:
    """Every measure that any slide has, and their values (S, M); NaN if a slide lacks one."""
    found = list(map_in_order(lambda slide: measure_slide(results / slide), slides, min(count_cores(), THREADS)))
    measures = list(dict.fromkeys(measure for each in found for measure in each))
    return measures, np.array([[each.get(measure, np.nan) for measure in measures] for each in found], float)


def measure_slide(folder: Path) -> dict[Measure, float]:
    """Densities per mm2 of tissue, percentages of the classes, medians of the features, mixing, infiltration.

    The mixing of A with B is the mean share of B among the nuclei within 50 um of nuclei of A; nuclei of A nearer than
    that to the edge of the tissue have neighbours on one side only and are left out. Infiltration is the density of a
    class in a region, or in a band along the border of regions.

    Args:
        folder: results of the slide.

    Raises:
        NucleiError: the table is missing or damaged.
        StoreError: the slide has no tissue mask.
    """
    files = SlideFiles(folder)
    path = files.nuclei
    provenance = read_provenance(path)
    classes, counts, n = provenance.class_names, provenance.n_by_class, provenance.n_nuclei
    area_mm2 = _read_area(files.mask) - provenance.left_out_mm2
    found = {_density("nuclei_per_mm2"): n / area_mm2 if area_mm2 else np.nan}
    for name in classes:
        n_of_class = counts[name]
        found[_density(f"nuclei_per_mm2_{name}")] = n_of_class / area_mm2 if area_mm2 else np.nan
        found[Measure(f"percent_{name}", "mix", "%")] = 100 * n_of_class / n if n else np.nan
    features = every_feature(classes)
    columns = _read_columns(path, ["label", *(feature.name for feature in features)], iterate_counted)
    for feature in features:
        if feature.name in columns:
            found[Measure(f"median_{feature.name}", "feature", feature.unit)] = _median(columns[feature.name])
    if EDGE in columns and len(classes) > 1:
        found |= _mixing(columns, classes)
    if provenance.regions and provenance.regions.bands is not None:
        everywhere = _read_columns(path, ["label", REGION, BORDER], partial(iterate_rows, batch_size=ROW_GROUP))
        found |= _infiltration(everywhere, provenance.regions, classes)  # regions contain areas that totals lack
    return found


def _density(name: str, group: str = "density") -> Measure:
    return Measure(name, group, "1/mm2")


def _read_area(path: Path) -> float:
    try:
        with np.load(path) as arrays:
            return float(arrays["area_mm2"])
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(f"{path}: is no tissue mask; run `muse tissue` again") from error


def _read_columns(
    path: Path, names: Sequence[str], iterate: Callable[..., Iterator[pa.Table]]
) -> dict[str, np.ndarray]:
    """The columns among ``names`` that a table has, (N,) each, of the nuclei from ``iterate``; regions as names."""
    with open_nuclei(path) as file:
        known = sorted(set(names) & set(file.schema_arrow.names))
    parts = {name: [np.zeros(0)] for name in known}
    for table in iterate(path, columns=known):
        for name in known:
            column = table[name]
            parts[name].append(column.cast(pa.string()).to_numpy() if name == REGION else to_numpy(column))
    return {name: np.concatenate(each[1:] or each) for name, each in parts.items()}


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def _mixing(columns: Mapping[str, np.ndarray], classes: list[str]) -> dict[Measure, float]:
    label, inner = columns["label"], columns[EDGE] >= MIX_UM
    found = {}
    for other in classes:
        share = columns[f"neighbours_fraction_{other}"]
        for number, name in enumerate(classes):
            values = share[(label == number) & inner & np.isfinite(share)]
            if name != other:
                mean = float(values.mean()) if len(values) else np.nan
                found[Measure(f"mixing_{name}_with_{other}", "mixing", "1")] = mean
    return found


def _infiltration(columns: Mapping[str, np.ndarray], regions: Regions, classes: list[str]) -> dict[Measure, float]:
    """Densities of the classes in each region, and in the bands on either side of the border."""
    label, region, border = (columns[name] for name in ("label", REGION, BORDER))
    areas = [(one.name, region == one.name, one.area_mm2) for one in regions.classes]
    for band in regions.bands:
        um = band.um
        for side, is_there in (("inside", border <= 0), ("outside", border > 0)):
            areas.append((f"border_{side}_{um}um", is_there & (np.abs(border) <= um), band.side_mm2(side)))
    found = {}
    for area, is_there, mm2 in areas:
        for number, name in enumerate(classes):
            n = int((is_there & (label == number)).sum())
            measure = _density(f"nuclei_per_mm2_in_{area}_{name}", "infiltration")
            found[measure] = n / mm2 if mm2 else np.nan
    return found
