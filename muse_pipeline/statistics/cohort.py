"""Tables of a cohort: its nuclei, its slides (``cohort.h5ad``), and the comparison of its groups
(``statistics.tsv``).

``cohort.h5ad`` has a row per slide, with the measures by which groups are compared. Their means per
patient, which the tests use, are in ``statistics.patients.tsv``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
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
from muse_pipeline.core.files import complete_file, read_json, read_tsv, write_tsv
from muse_pipeline.core.process import map_in_order
from muse_pipeline.core.text import count_noun
from muse_pipeline.features.catalogue import MIX_UM, WITHOUT_CLASSES, every_feature
from muse_pipeline.inference.counts import count_in_regions, median_features
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
    the border of regions; all nuclei count there, since the areas of regions include artefacts.
    """
    files = SlideFiles(folder)
    provenance = parquet.read_provenance(files.nuclei)
    counts = provenance.n_by_class
    n = provenance.n_nuclei
    is_ihc = provenance.positive_od is not None
    classes = () if is_ihc else provenance.class_names
    area_mm2 = _read_area(files.mask) - provenance.left_out_mm2
    measures = {Measure("nuclei_per_mm2", "density", "1/mm2"): _divide(n, area_mm2)}
    if is_ihc:
        positive = Measure("percent_positive", "mix", "%", (POSITIVE,))
        measures[positive] = _divide(100 * provenance.n_positive, n)
    for name in classes:
        own = (of_class(name),)
        density = Measure(f"nuclei_per_mm2_{name}", "density", "1/mm2", own)
        measures[density] = _divide(counts[name], area_mm2)
        measures[Measure(f"percent_{name}", "mix", "%", own)] = _divide(100 * counts[name], n)
    units = {feature.name: feature.unit for feature in every_feature(classes)}
    for name, median in median_features(files.nuclei, classes).items():
        of = (NUCLEI if name in WITHOUT_CLASSES else CLASSES,)
        measures[Measure(f"median_{name}", "feature", units[name], of)] = median
    measures |= _mixing(files.nuclei, classes)
    regions = provenance.regions
    if regions and regions.bands is not None and classes:
        counted = count_in_regions(files.nuclei, regions, provenance.classes)
        for area in (*counted["classes"], *counted["bands"]):
            for name, n_there in area["n_by_class"].items():
                of = (REGIONS, of_class(name))
                title = f"nuclei_per_mm2_in_{area['name']}_{name}"
                density = Measure(title, INFILTRATION, "1/mm2", of)
                measures[density] = _divide(n_there, area["area_mm2"])
    return measures


def _divide(part: float, whole: float) -> float:
    return part / whole if whole else np.nan


def _read_area(path: Path) -> float:
    try:
        with np.load(path) as arrays:
            return float(arrays["area_mm2"])
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(f"{path}: is not a tissue mask; run `muse step tissue` again") from error


def _mixing(path: Path, classes: Sequence[str]) -> dict[Measure, float]:
    share_of = {name: f"neighbours_fraction_{name}" for name in classes}
    with parquet.open_nuclei(path) as file:
        if len(classes) < 2 or not {EDGE, *share_of.values()} <= {*file.schema_arrow.names}:
            return {}
    columns = ["label", EDGE, *share_of.values()]
    tables = [table.select(columns) for table in parquet.iterate_counted(path, columns)]
    values = {
        name: np.concatenate([np.zeros(0), *(to_numpy(table[name]) for table in tables)])
        for name in columns
    }
    is_inner, mixing = values[EDGE] >= MIX_UM, {}
    for other, column in share_of.items():
        share = values[column]
        for number, name in enumerate(classes):
            if name != other:
                own = share[(values["label"] == number) & is_inner & np.isfinite(share)]
                mean = float(own.mean()) if len(own) else np.nan
                mixing[Measure(f"mixing_{name}_with_{other}", "mixing", "1", (CLASSES,))] = mean
    return mixing


# not written as categories: the index, a number, and a column without effect
LEFT_OUT = {"slide_id", "mpp", "shards"}
OF_TABLE = ("status", "appearance", "left_out", "marked")  # columns taken from cohort.tsv
PROVENANCE = ("fingerprint", "model", "features", "versions")


def write_cohort(
    results: Path, rows: Iterable[Mapping[str, Any]], output: Path, threads: int
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
    origins = {}
    for row in slides:
        facts = parquet.read_provenance(files.slide(row["slide_id"]).nuclei).to_dict()
        origins[row["slide_id"]] = {name: facts[name] for name in PROVENANCE if name in facts}
    with complete_file(output) as partial, open_hdf5(partial) as elements:
        begin_anndata(elements)
        elements.array("X", values.shape, np.float64)[0 : len(slides)] = values
        described = {
            name: [getattr(measure, name) for measure in measures] for name in ("group", "unit")
        }
        write_var(elements, [measure.name for measure in measures], described)
        rows = read_tsv(files.table) if files.table.is_file() else []
        _write_obs(elements, slides, {row["slide_id"]: row for row in rows})
        text = json.dumps({"slides": origins}, sort_keys=True, ensure_ascii=False)
        elements.scalar("uns/muse", text)
    return len(slides)


def _write_obs(
    elements: Elements, slides: Sequence[Mapping[str, Any]], table: Mapping[str, Mapping[str, str]]
) -> None:
    """Write the sheet's columns that contain a value, named as in cohort.tsv, the patient, and
    ``OF_TABLE``.
    """
    of_sheet = dict.fromkeys(name for row in slides for name in row if name not in sheet.COLUMNS)
    header = list(next(iter(table.values()), {}))
    # The user's own columns are the last of cohort.tsv.
    taken = header[: max(len(header) - len(of_sheet), 0)]
    own = sheet.name_own(of_sheet, {*sheet.COLUMNS, *OF_TABLE, *taken})
    rows = []
    for row in slides:
        outcome = table.get(row["slide_id"], {})
        cells = {name: outcome.get(name) for name in OF_TABLE if name in taken}
        cells |= {own.get(name, name): cell for name, cell in row.items()}
        rows.append(cells | {"patient": row.get("patient") or patient_in_name(row["slide_id"])})
    filled = {name for row in rows for name, cell in row.items() if cell is not None}
    column_of = {}
    for name in (*sheet.COLUMNS, *OF_TABLE, *own.values()):
        if name in filled - LEFT_OUT:
            column = name.replace("/", "_")  # "/" separates groups in HDF5
            while column in column_of.values():
                column = f"sheet_{column}"
            column_of[name] = column
    frame(elements, "obs", [*column_of.values(), *(["mpp"] if "mpp" in filled else [])])
    elements.strings("obs/_index", [row["slide_id"] for row in rows])
    for name, column in column_of.items():
        cells = [row.get(name) for row in rows]
        names = sorted({str(cell) for cell in cells if cell is not None})
        codes = [-1 if cell is None else names.index(str(cell)) for cell in cells]
        categorical(elements, column, names, len(rows))[0 : len(rows)] = np.array(codes)
    if "mpp" in filled:
        mpps = np.array([row.get("mpp") or np.nan for row in rows])
        elements.array("obs/mpp", mpps.shape, np.float64)[0 : len(rows)] = mpps


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
    return {
        slide: rows.get(slide, {})
        | {"patient": rows.get(slide, {}).get("patient") or patient_in_name(slide)}
        for slide in slides
    }


def _judge_all(results: Path | str) -> dict[str, dict[str, str]]:
    """For every slide with nuclei: its name, patient and verdicts, as in ``cohort.tsv``."""
    rows = rows_of(results)
    organs = {slide: row.get("organ") or "" for slide, row in rows.items()}
    return {
        slide: {
            "slide_id": slide,
            "patient": rows[slide]["patient"],
            "left_out": trust.describe(LEAVE_OUT),
            "marked": trust.describe(MARK),
        }
        for slide, trust in judge_results(CohortFiles(Path(results)), organs).items()
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
    kind = pads.ParquetFileFormat()
    fragments = []
    schemas = []
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
            files = CohortFiles(Path(results)).slide(slide)
            written = Path(folder, "nuclei.h5ad")
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
    included: Sequence[str],
    threads: int,
) -> list[str]:
    """Compare the groups of a results folder, write a row per measure and pair of groups, and
    return a summary.

    ``statistics.patients.tsv`` in the same folder has a row per patient, with the group and the
    means of the slides. Slides with an empty cell in the column ``group`` of the ``sheet`` are left
    out. If a cell in the column ``patient`` is empty, or there is no column "patient", the patient
    is taken from the sheet of the run, or else from the slide's name. The findings
    ``included`` (``inference.trust``) leave nothing out.
    """
    grouped, patients, organs = read_groups(results, sheet, group, patient)
    judged = judge_results(CohortFiles(results), organs, included)
    ihc = {slide for slide, trust in judged.items() if POSITIVE in trust.effects}
    if len(ihc) < len(grouped):  # measures of the two stains cannot be averaged
        judged |= {slide: judged[slide].add("stain", "IHC") for slide in ihc}
    used = {slide: one for slide, one in judged.items() if one.verdict(NUCLEI) != LEAVE_OUT}
    left_out = describe_slides(judged.values(), NUCLEI)
    group_of = require_groups({slide: grouped[slide] for slide in used}, patients, left_out)
    measures, values = measure_slides(results, used, threads)
    for row, trust in zip(values, used.values(), strict=True):
        row[[LEAVE_OUT in map(trust.verdict, measure.of) for measure in measures]] = np.nan
    means, order = mean_by_patient(values, [patients[slide] for slide in used])
    compared = list(compare_pairs(means, [group_of[name] for name in order]))
    write_tsv(output, COLUMNS, _rows_of_measures(measures, compared))
    n_slides = Counter(patients[slide] for slide in used)
    names = [measure.name for measure in measures]
    of_patients = (
        {"patient": name, "group": group_of[name], "n_slides": n_slides[name]}
        | dict(zip(names, map(_text, mean), strict=True))
        for name, mean in zip(order, means, strict=True)
    )
    header = ["patient", "group", "n_slides", *names]
    write_tsv(output.with_suffix(f".patients{output.suffix}"), header, of_patients)
    n_without = len(rows_of(results)) - len(grouped)
    without = f"{count_noun(n_without, 'slide')} without a value in the column '{group}'"
    lines = [
        (
            f"{len(used)} slides of {len(order)} patients; the patient is the unit of every test,"
            " represented by the mean of its slides"
        ),
        left_out,
        *(describe_slides(used.values(), quantity) for quantity in (CLASSES, POSITIVE, REGIONS)),
        describe_slides(used.values(), NUCLEI, MARK),
        *(f"* {line}" for line in describe_marks(used.values())),
        f"left out: {without}" if n_without else "",
        *(
            f"{second} against {first}: {(difference.q < 0.05).sum()} of {len(measures)} measures"
            " differ at a false discovery rate of 5 %"
            for first, second, difference in compared
        ),
    ]
    return list(filter(None, lines))


def read_groups(results: Path, sheet: Path, group: str, patient: str) -> tuple[dict[str, str], ...]:
    """The group, patient and organ ("" if unknown) of each slide that has results and a group."""
    of_slide = read_cells(sheet, group, *({patient} - {"patient"}))
    rows = rows_of(results)
    groups = {slide: of_slide[slide][group] for slide in rows if of_slide.get(slide, {}).get(group)}
    if not groups:
        raise ConfigError(f"no slide of {results} has a value in the column '{group}' of {sheet}")
    patients, organs = {}, {}
    for slide in groups:
        cells, row = of_slide[slide], rows[slide]
        named = cells.get(patient)
        is_named = named and not is_missing("patient", named)
        patients[slide] = named if is_named else row["patient"]
        organs[slide] = cells.get("organ") or row.get("organ") or ""
    return groups, patients, organs


def _rows_of_measures(
    measures: list[Measure], compared: list[tuple[str, str, Difference]]
) -> Iterator[dict[str, Any]]:
    for first, second, difference in compared:
        for k, measure in enumerate(measures):
            tests = (getattr(difference, name)[k] for name in ("effect", "low", "high", "p", "q"))
            numbers = map(_text, (*difference.mean[:, k], *tests))
            row = measure.name, measure.unit, first, second, *difference.n[:, k], *numbers
            yield dict(zip(COLUMNS, row, strict=True))


def _text(number: float) -> str:
    return f"{number:.5g}" if np.isfinite(number) else ""
