"""The measures of a slide that groups of patients are compared by."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from muse_pipeline.core.errors import StoreError
from muse_pipeline.features.catalogue import FIRST_COLUMNS, MIX_UM, features_of
from muse_pipeline.nuclei.arrow import to_numpy
from muse_pipeline.nuclei.parquet import ROW_GROUP, iterate_rows, open_nuclei, read_provenance

EDGE = "neighbours_tissue_edge_um"


def measure_slide(folder: Path) -> dict[str, float]:
    """Densities per mm2 of tissue, percentages of the classes, medians of the features, mixing of the classes.

    The mixing of A with B is the mean share of B among the nuclei within 50 um of nuclei of A; nuclei of A nearer than
    that to the edge of the tissue, which have neighbours on one side only, are left out.

    Args:
        folder: results of the slide.

    Raises:
        NucleiError: its table is missing or damaged.
        StoreError: it has no tissue mask.
    """
    path = folder / "nuclei.parquet"
    provenance = read_provenance(path)
    counts, area_mm2, n = provenance["n_by_class"], _read_area(folder / "tissue.npz"), provenance["n_nuclei"]
    if quality := provenance.get("quality"):
        counts = {name: n_of_class - quality["n_by_class"][name] for name, n_of_class in counts.items()}
        area_mm2, n = area_mm2 - sum(quality["area_mm2"].values()), n - sum(quality["n_by_class"].values())
    found = {"nuclei_per_mm2": n / area_mm2 if area_mm2 else np.nan}
    for name, n_of_class in counts.items():
        found[f"nuclei_per_mm2_{name}"] = n_of_class / area_mm2 if area_mm2 else np.nan
        found[f"percent_{name}"] = 100 * n_of_class / n if n else np.nan
    with open_nuclei(path) as file:
        columns = file.schema_arrow.names
    features = [each.name for each in (*FIRST_COLUMNS, *features_of("all", list(counts))) if each.name in columns]
    for name in features:
        found[f"median_{name}"] = _median(_read(path, name))
    if EDGE in columns and len(counts) > 1:
        found |= _mixing(path, list(counts))
    return found


def _read_area(path: Path) -> float:
    try:
        with np.load(path) as arrays:
            return float(arrays["area_mm2"])
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(f"{path}: is no tissue mask; run `muse tissue` again") from error


def _read(path: Path, name: str) -> np.ndarray:
    parts = [to_numpy(table[name]) for table in iterate_rows(path, ROW_GROUP, [name])]
    return np.concatenate(parts) if parts else np.zeros(0)


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def _mixing(path: Path, classes: list[str]) -> dict[str, float]:
    label, inner = _read(path, "label"), _read(path, EDGE) >= MIX_UM
    found = {}
    for other in classes:
        share = _read(path, f"neighbours_fraction_{other}")
        for number, name in enumerate(classes):
            values = share[(label == number) & inner & np.isfinite(share)]
            if name != other:
                found[f"mixing_{name}_with_{other}"] = float(values.mean()) if len(values) else np.nan
    return found
