"""Tables of a cohort: its nuclei, its slides (``cohort.h5ad``), and the comparison of its groups
(``statistics.tsv``).

``cohort.h5ad`` has a row per slide, with the measures by which groups are compared. Their means per
patient, which the tests use, are in ``statistics.patients.tsv``.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial, reduce
from operator import and_
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs

from muse_pipeline.cohort import sheet
from muse_pipeline.cohort.layout import CohortFiles, SlideFiles
from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.cohort.sheet import is_missing, read_cells
from muse_pipeline.core.errors import ConfigError, MissingPackageError, NucleiError, StoreError
from muse_pipeline.core.files import complete_file, read_json
from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.provenance import Regions
from muse_pipeline.core.text import count_noun
from muse_pipeline.features.catalogue import MIX_UM, WITHOUT_CLASSES, every_feature
from muse_pipeline.inference.trust import (
    CLASSES,
    LEAVE_OUT,
    MARK,
    NUCLEI,
    POSITIVE,
    REGIONS,
    describe_marks,
    describe_slides,
    judge_results,
    of_class,
)
from muse_pipeline.nuclei import parquet
from muse_pipeline.nuclei.arrow import to_numpy
from muse_pipeline.scverse.anndata import (
    begin_anndata,
    categorical,
    frame,
    write_anndata,
    write_var,
)
from muse_pipeline.scverse.elements import Elements, open_hdf5
from muse_pipeline.statistics.comparison import (
    Difference,
    compare_pairs,
    mean_by_patient,
    require_groups,
)

if TYPE_CHECKING:
    import anndata

EDGE = "neighbours_tissue_edge_um"
INFILTRATION = "infiltration"  # group of the measures of tissue regions


class Measure(NamedTuple):
    """One number per slide."""

    name: str  # name in ``statistics.tsv`` and ``cohort.h5ad``
    group: str  # "density", "mix", "feature", "mixing" or "infiltration"
    unit: str  # "1/mm2", "%", "1", or the unit of the feature
    of: tuple[str, ...] = (NUCLEI,)  # quantities (``inference.trust``) on which it depends


def measure_slides(
    results: Path, slides: Iterable[str], threads: int
) -> tuple[list[Measure], np.ndarray]:
    """Every measure that any slide has, and the values (S, M) of the slides; NaN if a slide lacks a
    measure.
    """
    rows = list(map_in_order(lambda slide: measure_slide(results / slide), slides, threads))
    measures = list(dict.fromkeys(measure for row in rows for measure in row))
    return measures, np.array(
        [[row.get(measure, np.nan) for measure in measures] for row in rows], float
    )


def measure_slide(folder: Path) -> dict[Measure, float]:
    """Measure densities per mm2 of tissue, percentages of classes, medians of features, mixing and
    infiltration.

    In immunohistochemistry, the percentage of positive nuclei replaces all measures that depend on
    classes.

    The mixing of A with B is the mean fraction of B among the nuclei within 50 um of a nucleus of
    A; nuclei of A nearer than that to the edge of the tissue are left out, since they lack
    neighbours on one side. Infiltration is the density of a class in a region, or in a band along
    the border of regions.
    """
    files = SlideFiles(folder)
    path = files.nuclei
    provenance = parquet.read_provenance(path)
    counts, n, is_ihc = (
        provenance.n_by_class,
        provenance.n_nuclei,
        provenance.positive_od is not None,
    )
    classes = [] if is_ihc else provenance.class_names
    area_mm2 = _read_area(files.mask) - provenance.left_out_mm2
    measures = {_density("nuclei_per_mm2"): _divide(n, area_mm2)}
    if is_ihc:
        measures[Measure("percent_positive", "mix", "%", (POSITIVE,))] = _divide(
            100 * provenance.n_positive, n
        )
    for name in classes:
        own = (of_class(name),)
        measures[_density(f"nuclei_per_mm2_{name}", "density", own)] = _divide(
            counts[name], area_mm2
        )
        measures[Measure(f"percent_{name}", "mix", "%", own)] = _divide(100 * counts[name], n)
    features = every_feature(classes)
    columns = _read_columns(
        path, ["label", *(feature.name for feature in features)], parquet.iterate_counted
    )
    for feature in features:
        if feature.name in columns:
            values = columns[feature.name][np.isfinite(columns[feature.name])]
            median = float(np.median(values)) if len(values) else np.nan
            of = (NUCLEI if feature.name in WITHOUT_CLASSES else CLASSES,)
            measures[Measure(f"median_{feature.name}", "feature", feature.unit, of)] = median
    if EDGE in columns and len(classes) > 1:
        measures |= _mixing(columns, classes)
    if provenance.regions and provenance.regions.bands is not None:
        borders = {parquet.border_of(band.region) for band in provenance.regions.bands}
        everywhere = _read_columns(
            path,
            ["label", parquet.REGION, *borders],
            partial(parquet.iterate_rows, batch_size=parquet.ROW_GROUP),
        )
        # All nuclei count here, since the areas of regions include artefacts.
        measures |= _infiltration(everywhere, provenance.regions, classes)
    return measures


def _density(name: str, group: str = "density", of: tuple[str, ...] = (NUCLEI,)) -> Measure:
    return Measure(name, group, "1/mm2", of)


def _divide(part: float, whole: float) -> float:
    return part / whole if whole else np.nan


def _read_area(path: Path) -> float:
    try:
        with np.load(path) as arrays:
            return float(arrays["area_mm2"])
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(f"{path}: is not a tissue mask; run `muse step tissue` again") from error


def _read_columns(
    path: Path, names: Sequence[str], iterate: Callable[..., Iterator[pa.Table]]
) -> dict[str, np.ndarray]:
    """The columns among ``names`` that a table has, (N,) each, for the nuclei from ``iterate``;
    regions as strings.
    """
    with parquet.open_nuclei(path) as file:
        present = sorted(set(names) & set(file.schema_arrow.names))
    parts = {name: [np.zeros(0)] for name in present}
    for table in iterate(path, columns=present):
        for name in present:
            column = table[name]
            parts[name].append(
                column.cast(pa.string()).to_numpy() if name == parquet.REGION else to_numpy(column)
            )
    # The empty first part is only for tables without rows; it would change the type of other
    # columns.
    return {name: np.concatenate(own[1:] or own) for name, own in parts.items()}


def _mixing(columns: Mapping[str, np.ndarray], classes: list[str]) -> dict[Measure, float]:
    label, inner = columns["label"], columns[EDGE] >= MIX_UM
    mixing = {}
    for other in classes:
        share = columns[f"neighbours_fraction_{other}"]
        for number, name in enumerate(classes):
            if name != other:
                values = share[(label == number) & inner & np.isfinite(share)]
                mean = float(values.mean()) if len(values) else np.nan
                mixing[Measure(f"mixing_{name}_with_{other}", "mixing", "1", (CLASSES,))] = mean
    return mixing


def _infiltration(
    columns: Mapping[str, np.ndarray], regions: Regions, classes: list[str]
) -> dict[Measure, float]:
    """Densities of the classes in each region, and in the bands on either side of the border."""
    label, region = columns["label"], columns[parquet.REGION]
    areas = [(area.name, region == area.name, area.area_mm2) for area in regions.classes]
    for band in regions.bands:
        border = columns[parquet.border_of(band.region)]
        for side, is_there in (("inside", border <= 0), ("outside", border > 0)):
            areas.append(
                (band.name_side(side), is_there & (np.abs(border) <= band.um), band.side_mm2(side))
            )
    return {
        _density(
            f"nuclei_per_mm2_in_{area}_{name}", INFILTRATION, (REGIONS, of_class(name))
        ): _divide(int((is_there & (label == number)).sum()), mm2)
        for area, is_there, mm2 in areas
        for number, name in enumerate(classes)
    }


LEFT_OUT = {
    "slide_id",
    "mpp",
    "shards",
}  # not written as categories: the index, a number, and a column without effect
OF_TABLE = ("status", "appearance", "left_out", "marked")  # columns taken from cohort.tsv
PROVENANCE = ("fingerprint", "model", "features", "versions")


def write_cohort(
    results: Path, rows: Iterable[Mapping[str, Any]], output: Path, threads: int = 1
) -> int:
    """Write ``cohort.h5ad`` with those slides of the sheet's ``rows`` that have nuclei, and return
    their number.
    """
    files = CohortFiles(results)
    slides = [row for row in rows if files.slide(row["slide_id"]).nuclei.is_file()]
    if not slides:
        raise NucleiError(
            f"{results}: has no slides of the sheet with nuclei.parquet; run the slides first"
        )
    measures, values = measure_slides(results, [row["slide_id"] for row in slides], threads)
    with complete_file(output) as partial, open_hdf5(partial) as elements:
        begin_anndata(elements)
        elements.array("X", values.shape, np.float64)[0 : len(slides)] = values
        columns = {
            name: [getattr(measure, name) for measure in measures] for name in ("group", "unit")
        }
        write_var(elements, [measure.name for measure in measures], columns)
        _write_obs(elements, slides, _read_table(files.table))
        origins = {}
        for row in slides:
            provenance = parquet.read_provenance(files.slide(row["slide_id"]).nuclei).to_dict()
            origins[row["slide_id"]] = {
                name: provenance[name] for name in PROVENANCE if name in provenance
            }
        elements.scalar(
            "uns/muse", json.dumps({"slides": origins}, sort_keys=True, ensure_ascii=False)
        )
    return len(slides)


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    """The rows of cohort.tsv by slide; empty without the file."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["slide_id"]: row for row in csv.DictReader(file, dialect="excel-tab")}


def _write_obs(
    elements: Elements, slides: Sequence[Mapping[str, Any]], table: Mapping[str, Mapping[str, str]]
) -> None:
    """Write the sheet's columns that contain a value, named as in cohort.tsv, the patient, and
    ``OF_TABLE``.
    """
    of_sheet = dict.fromkeys(name for row in slides for name in row if name not in sheet.COLUMNS)
    header = list(next(iter(table.values()), {}))
    taken = header[
        : max(len(header) - len(of_sheet), 0)
    ]  # the user's own columns are the last of cohort.tsv
    own = sheet.name_own(of_sheet, {*sheet.COLUMNS, *OF_TABLE, *taken})
    rows = []
    for row in slides:
        outcome = table.get(row["slide_id"], {})
        cells = {own.get(name, name): cell for name, cell in row.items()}
        patient = row.get("patient") or patient_in_name(row["slide_id"])
        rows.append(
            {
                **{name: outcome.get(name) for name in OF_TABLE if name in taken},
                **cells,
                "patient": patient,
            }
        )
    filled = {name for row in rows for name, value in row.items() if value is not None}
    kept = [
        name for name in (*sheet.COLUMNS, *OF_TABLE, *own.values()) if name in filled - LEFT_OUT
    ]
    column_of: dict[str, str] = {}
    for name in kept:
        column = name.replace("/", "_")  # "/" separates groups in HDF5
        while column in column_of.values():
            column = f"sheet_{column}"
        column_of[name] = column
    frame(elements, "obs", [*column_of.values(), *(["mpp"] if "mpp" in filled else [])])
    elements.strings("obs/_index", [row["slide_id"] for row in rows])
    for name, column in column_of.items():
        names = sorted({str(row[name]) for row in rows if row.get(name) is not None})
        code = {value: number for number, value in enumerate(names)}
        codes = [-1 if row.get(name) is None else code[str(row[name])] for row in rows]
        categorical(elements, column, names, len(rows))[0 : len(rows)] = np.array(codes)
    if "mpp" in filled:
        mpps = [row.get("mpp") or np.nan for row in rows]
        elements.array("obs/mpp", (len(rows),), np.float64)[0 : len(rows)] = np.array(mpps)


def rows_of(results: Path | str) -> dict[str, dict[str, Any]]:
    """The row of every slide with nuclei in a results folder: its cells in the resolved sheet, and
    its patient, by default from the slide's name.
    """
    files = CohortFiles(Path(results))
    slides = list(files.tables())
    if not slides:
        raise NucleiError(
            f"{results}: has no slides with nuclei.parquet; give the folder of the results of a run"
        )
    rows = {row["slide_id"]: row for row in read_json(files.sheet)} if files.sheet.is_file() else {}
    cells = {slide: rows.get(slide, {}) for slide in slides}
    return {
        slide: {**row, "patient": row.get("patient") or patient_in_name(slide)}
        for slide, row in cells.items()
    }


def _judge_all(results: Path | str) -> dict[str, dict[str, str]]:
    """For every slide with nuclei: its name, patient and verdicts, as in ``cohort.tsv``."""
    rows = rows_of(results)
    organs = {slide: row.get("organ") or "" for slide, row in rows.items()}
    judged = judge_results(CohortFiles(Path(results)), organs)
    return {
        slide: {
            "slide_id": slide,
            "patient": row["patient"],
            "left_out": judged[slide].describe(LEAVE_OUT),
            "marked": judged[slide].describe(MARK),
        }
        for slide, row in rows.items()
    }


def read_cohort(results: Path | str) -> pads.Dataset:
    """The nuclei of all slides of a run as one Arrow dataset; only the schemas of the tables are
    read here.

    Args:
        results: the folder of the results.

    Returns:
        A dataset with the columns ``slide_id`` and ``patient``, ``left_out`` and ``marked`` (as in
            ``cohort.tsv``) and those of every ``nuclei.parquet``; a column that a slide lacks is
            empty there. ``to_table(columns=..., filter=...)`` reads only the requested part.

    Raises:
        NucleiError: no slide has nuclei there.
    """
    files = CohortFiles(Path(results))
    kind, fragments, schemas = pads.ParquetFileFormat(), [], []
    for slide, facts in _judge_all(results).items():
        path = files.slide(slide).nuclei
        with parquet.open_nuclei(path) as file:
            schemas.append(file.schema_arrow.remove_metadata())
        where = reduce(and_, (pads.field(name) == value for name, value in facts.items()))
        fragments.append(kind.make_fragment(str(path), pa.fs.LocalFileSystem(), where))
    schema = pa.unify_schemas([pa.schema([(name, pa.string()) for name in facts]), *schemas])
    return pads.FileSystemDataset(fragments, schema, kind, pa.fs.LocalFileSystem())


def read_anndata(results: Path | str, embedding: str | None = None) -> anndata.AnnData:
    """The nuclei of all slides of a run in memory, for scanpy and squidpy; needs the packages
    anndata and h5py.

    Args:
        results: the folder of the results.
        embedding: name of the model whose ``embeddings-<name>.parquet`` becomes
            ``obsm["X_embedding"]``.

    Returns:
        A row per nucleus, as in ``nuclei.h5ad`` (docs/guide/features.md): features in ``X``, class,
            slide and patient in ``obs``, and positions in um in ``obsm["spatial"]``. Features that
            a slide lacks are NaN.

    Raises:
        NucleiError: no slide has nuclei there, or a slide lacks the embedding.
        MissingPackageError: anndata or h5py is not installed.

    Example:
        >>> nuclei = muse_pipeline.read_anndata("results", embedding="compact")
    """
    try:
        import anndata
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "`read_anndata` needs the package 'anndata'; install the extra `spatial`"
        ) from error
    slides = []
    with TemporaryDirectory() as folder:
        for slide, facts in _judge_all(results).items():
            files, written = CohortFiles(Path(results)).slide(slide), Path(folder, "nuclei.h5ad")
            write_anndata(
                *(files.nuclei, written, facts["patient"]),
                files.embeddings(embedding) if embedding else None,
            )
            slides.append(anndata.read_h5ad(written))
            slides[-1].obs[["left_out", "marked"]] = facts["left_out"], facts["marked"]
    return anndata.concat(slides, join="outer", merge="first", uns_merge="unique")


COLUMNS = (
    *("measure", "unit", "first", "second", "n_first", "n_second", "mean_first", "mean_second"),
    *("effect", "low", "high", "p", "q"),
)


def compare_cohort(
    results: Path,
    sheet: Path,
    group: str,
    patient: str,
    output: Path,
    included: Sequence[str] = (),
    threads: int = 1,
) -> list[str]:
    """Compare the groups of a results folder, write a row per measure and pair of groups, and
    return a summary.

    ``statistics.patients.tsv`` in the same folder has a row per patient, with the group and the
    means of the slides. Slides with an empty cell in the column ``group`` of the ``sheet`` are left
    out. If a cell in the column ``patient`` is empty, or there is no column "patient", the patient
    is taken from the sheet of the run, or else from the slide's name. The findings
    ``included`` (``inference.trust``) leave nothing out.
    """
    groups, patients, organs = read_groups(results, sheet, group, patient)
    judged = judge_results(CohortFiles(results), organs, included)
    ihc = {slide for slide, trust in judged.items() if POSITIVE in trust.effects}
    if len(ihc) < len(groups):  # measures of the two stains cannot be averaged
        judged |= {slide: judged[slide].add("stain", "IHC", included) for slide in ihc}
    left_out = describe_slides(judged.values(), NUCLEI)
    n_grouped = len(groups)
    groups = {
        slide: name for slide, name in groups.items() if judged[slide].verdict(NUCLEI) != LEAVE_OUT
    }
    group_of = require_groups(groups, patients, left_out)
    measures, values = measure_slides(results, groups, threads)
    used = [judged[slide] for slide in groups]
    for row, trust in zip(values, used, strict=True):
        row[[LEAVE_OUT in map(trust.verdict, measure.of) for measure in measures]] = np.nan
    means, order = mean_by_patient(values, [patients[slide] for slide in groups])
    compared = list(compare_pairs(means, [group_of[name] for name in order]))
    _write(output, COLUMNS, _rows_of_measures(measures, compared))
    n_slides = Counter(patients[slide] for slide in groups)
    rows = (
        [name, group_of[name], n_slides[name], *map(_text, mean)]
        for name, mean in zip(order, means, strict=True)
    )
    header = ["patient", "group", "n_slides", *(measure.name for measure in measures)]
    _write(output.with_suffix(f".patients{output.suffix}"), header, rows)
    lines = [
        (
            f"{len(groups)} slides of {len(order)} patients; the patient is the unit of every test,"
            " represented by the mean of its slides"
        ),
        left_out,
        *(describe_slides(used, quantity) for quantity in (CLASSES, POSITIVE, REGIONS)),
        describe_slides(used, NUCLEI, MARK),
        *(f"* {line}" for line in describe_marks(used)),
    ]
    if n_without := len(rows_of(results)) - n_grouped:
        lines.append(
            f"left out: {count_noun(n_without, 'slide')} without a value in the column '{group}'"
        )
    for first, second, difference in compared:
        n_found = int((difference.q < 0.05).sum())
        lines.append(
            f"{second} against {first}: {n_found} of {len(measures)} measures differ at a false"
            " discovery rate of 5 %"
        )
    return list(filter(None, lines))


def read_groups(results: Path, sheet: Path, group: str, patient: str) -> tuple[dict[str, str], ...]:
    """The group, patient and organ ("" if unknown) of each slide that has results and a group."""
    of_slide = read_cells(sheet, group, *({patient} - {"patient"}))
    rows = rows_of(results)
    groups = {slide: of_slide[slide][group] for slide in rows if of_slide.get(slide, {}).get(group)}
    if not groups:
        raise ConfigError(f"no slide of {results} has a value in the column '{group}' of {sheet}")
    named = {slide: of_slide[slide].get(patient) for slide in groups}
    stated = {
        slide: name for slide, name in named.items() if name and not is_missing("patient", name)
    }
    organs = {
        slide: of_slide[slide].get("organ") or rows[slide].get("organ") or "" for slide in groups
    }
    return groups, {slide: rows[slide]["patient"] for slide in groups} | stated, organs


def _rows_of_measures(
    measures: list[Measure], compared: list[tuple[str, str, Difference]]
) -> Iterator[list[Any]]:
    for first, second, difference in compared:
        for k, measure in enumerate(measures):
            numbers = (getattr(difference, name)[k] for name in ("effect", "low", "high", "p", "q"))
            row = [measure.name, measure.unit, first, second, *difference.n[:, k]]
            yield [*row, *map(_text, (*difference.mean[:, k], *numbers))]


def _write(output: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with complete_file(output) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, dialect="excel-tab", lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


def _text(number: float) -> str:
    return f"{number:.5g}" if np.isfinite(number) else ""
