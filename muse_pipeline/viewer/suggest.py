"""Which fields of a cohort to check next: where classes are unsure, unlike the other fields, and unlike each other.

Fields are squares of a fixed grid. Unsureness is the mean over a field's nuclei of one less the margin between the two
largest class probabilities (Scheffer et al. 2001). Fields are chosen one by one, each far from those before it in the
space of what fields hold (k-centre, Sener & Savarese 2018), weighted by how unsure and how unusual it is.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.errors import NucleiError
from muse_pipeline.core.files import complete_file
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.nuclei.arrow import to_numpy
from muse_pipeline.nuclei.parquet import ROW_GROUP, footer_checksum, iterate_rows, open_nuclei, read_provenance
from muse_pipeline.slides.inspect import read_info

FIELD_UM = 256.0
LEAST_NUCLEI = 20  # of a field that is worth checking
FILE = "suggest.tsv"
COLUMNS = ("rank", "slide_id", "x", "y", "side_px", "nuclei", "unsure", "unusual", "why", "checksum")


@dataclass(frozen=True, eq=False)
class Fields:
    """Fields of one or more slides.

    Attributes:
        slide_id: (F,) str.
        checksum: (F,) str, of the slide's nuclei.
        xy: (F, 2) centres, in QuPath px.
        side_px: (F,) in level-0 px along x.
        n_nuclei: (F,).
        unsure: (F,) 0 to 1.
        content: (F, D) share of each class, log of the density, mean and deviation of the area, mean score.
    """

    slide_id: np.ndarray
    checksum: np.ndarray
    xy: np.ndarray
    side_px: np.ndarray
    n_nuclei: np.ndarray
    unsure: np.ndarray
    content: np.ndarray

    def __len__(self) -> int:
        return len(self.slide_id)

    @classmethod
    def concatenate(cls, parts: Sequence[Fields]) -> Fields:
        """All fields of several slides."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def suggest_fields(results: Path, n_fields: int) -> list[dict[str, object]]:
    """Choose fields among all slides of ``results``, or of one slide's folder; rows of ``COLUMNS``, the first first.

    Raises:
        NucleiError: there are no nuclei, the slides were run with different models, or no field has enough nuclei.
    """
    folders = [results] if (results / "nuclei.parquet").is_file() else find_slides(results)
    _require_one_model(folders)
    fields = Fields.concatenate([measure_fields(folder) for folder in folders])
    if not len(fields):
        raise NucleiError(
            f"{results}: no field of {FIELD_UM:g} um has {LEAST_NUCLEI} nuclei; look at the slides one by one"
        )
    unusual = _unusual(fields.content)
    return [_row(fields, unusual, rank, i) for rank, i in enumerate(choose(fields, unusual, n_fields), 1)]


def find_slides(results: Path) -> list[Path]:
    """The folders of the slides in ``results`` that have nuclei.

    Raises:
        NucleiError: there are none.
    """
    folders = sorted(path.parent for path in results.glob("*/nuclei.parquet"))
    if not folders:
        raise NucleiError(f"{results}: has no slide with nuclei; give the output folder of a run")
    return folders


def _require_one_model(folders: Sequence[Path]) -> None:
    models = {read_provenance(folder / "nuclei.parquet")["model"]["sha256"]: folder for folder in folders}
    if len(models) > 1:
        names = " and ".join(folder.name for folder in list(models.values())[:2])
        raise NucleiError(f"{names} were run with different models, whose probabilities do not compare; run them again")


def measure_fields(folder: Path) -> Fields:
    """The fields of a slide that have ``LEAST_NUCLEI``; memory holds a sum for each and a batch of nuclei."""
    path, info = folder / "nuclei.parquet", read_info(folder / "slide.json")
    n_classes = len(read_provenance(path)["card"]["classes"])
    sums: dict[tuple[int, int], np.ndarray] = {}
    for xy, values in _measure_nuclei(path, n_classes):
        cell = np.floor(xy * info.mpp / FIELD_UM).astype(int)
        cells, member = np.unique(cell, axis=0, return_inverse=True)
        totals = np.zeros((len(cells), values.shape[1]))
        np.add.at(totals, member.ravel(), values)
        for key, total in zip(map(tuple, cells.tolist()), totals, strict=True):
            sums[key] = sums.get(key, 0) + total
    kept = sorted(key for key, total in sums.items() if total[0] >= LEAST_NUCLEI)
    totals = np.array([sums[key] for key in kept]).reshape(-1, 5 + n_classes)
    return _to_fields(np.array(kept).reshape(-1, 2), totals, info, footer_checksum(path))


def _measure_nuclei(path: Path, n_classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions (n, 2) of nuclei, and of each 1, unsureness, score, area, its square, and 1 for its class."""
    with open_nuclei(path) as file:
        names = [name for name in file.schema_arrow.names if name.startswith("prob_")]
    for table in iterate_rows(path, ROW_GROUP, ["x", "y", "label", "score", "area_um2", *names]):
        score, area, label = (to_numpy(table[name]) for name in ("score", "area_um2", "label"))
        unsure = 1 - score
        if len(names) > 1:
            largest = np.sort(np.stack([to_numpy(table[name]) for name in names], 1), axis=1)
            unsure = 1 - (largest[:, -1] - largest[:, -2])
        of_class = (label[:, None] == np.arange(n_classes)).astype(float)
        values = np.column_stack([np.ones(len(score)), unsure, score, area, np.square(area, dtype=float), of_class])
        yield np.stack([to_numpy(table["x"]), to_numpy(table["y"])], 1), values


def _to_fields(cell: np.ndarray, totals: np.ndarray, info: SlideInfo, checksum: str) -> Fields:
    n = totals[:, :1]
    unsure, score, area, square, *_ = (totals[:, 1:] / n).T if len(totals) else np.zeros((4, 0))
    deviation = np.sqrt(np.maximum(square - area**2, 0))
    content = np.column_stack([totals[:, 5:] / n, np.log(n), area, deviation, score])
    xy = (cell + 0.5) * FIELD_UM / info.mpp - qupath_offset_px(info.bounds)
    names, checksums = (np.full(len(cell), name, object) for name in (info.slide_id, checksum))
    return Fields(
        names, checksums, xy, np.full(len(cell), FIELD_UM / info.mpp[0]), n[:, 0].astype(int), unsure, content
    )


def _unusual(content: np.ndarray) -> np.ndarray:
    """(F,) distance from the median field, in median absolute deviations."""
    return np.linalg.norm(_scale(content), axis=1) / np.sqrt(content.shape[1])


def _scale(content: np.ndarray) -> np.ndarray:
    centred = content - np.median(content, axis=0)
    deviation = np.median(abs(centred), axis=0) * 1.4826
    return np.clip(centred / np.where(deviation > 0, deviation, 1), -5, 5)


def choose(fields: Fields, unusual: np.ndarray, n_fields: int) -> list[int]:
    """Indices of the chosen fields, in the order of choice; of equals the first is chosen."""
    scaled = _scale(fields.content)
    weight = (_rank(fields.unsure) + 0.5 * _rank(unusual)) / 1.5
    chosen: list[int] = []
    distance = np.ones(len(fields))
    while len(chosen) < min(n_fields, len(fields)):
        worth = np.where(np.isin(np.arange(len(fields)), chosen), -1, weight * distance / max(distance.max(), 1e-9))
        chosen.append(int(worth.argmax()))
        to_last = np.linalg.norm(scaled - scaled[chosen[-1]], axis=1)
        distance = to_last if len(chosen) == 1 else np.minimum(distance, to_last)
    return chosen


def _rank(values: np.ndarray) -> np.ndarray:
    """(F,) share of values that are no larger."""
    return np.searchsorted(np.sort(values), values, side="right") / len(values)


def _row(fields: Fields, unusual: np.ndarray, rank: int, i: int) -> dict[str, object]:
    is_unsure, is_unusual = (_rank(values)[i] >= 0.8 for values in (fields.unsure, unusual))
    why = {(True, True): "unsure and unusual", (True, False): "unsure", (False, True): "unusual"}
    x, y = np.round(fields.xy[i]).astype(int).tolist()
    return {
        "rank": rank,
        "slide_id": fields.slide_id[i],
        "x": x,
        "y": y,
        "side_px": round(float(fields.side_px[i])),
        "nuclei": int(fields.n_nuclei[i]),
        "unsure": f"{fields.unsure[i]:.3f}",
        "unusual": f"{unusual[i]:.2f}",
        "why": why.get((bool(is_unsure), bool(is_unusual)), "unlike those above"),
        "checksum": fields.checksum[i],
    }


def write_suggestions(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Write ``suggest.tsv``."""
    with complete_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, dialect="excel-tab")
        writer.writeheader()
        writer.writerows(rows)
