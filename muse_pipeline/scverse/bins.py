"""Counts of genes per nucleus, from Visium HD bins or Xenium transcripts, as AnnData.

A position belongs to the nucleus whose outline contains it, or else to the nearest outline within a
given distance. The formats are ``binned_outputs`` of 10x Genomics' Space Ranger and
``transcripts.parquet`` of Xenium Onboard Analysis.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy import ndarray
from scipy import sparse

from muse_pipeline.core.errors import LabelError, MuseWarning
from muse_pipeline.core.files import complete_file, read_json
from muse_pipeline.core.text import one_line, some_of
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.nuclei.arrow import to_numpy
from muse_pipeline.nuclei.parquet import open_nuclei, parse_outlines
from muse_pipeline.registration.transform import read_given
from muse_pipeline.scverse.anndata import begin_anndata, write_nuclei_elements, write_var
from muse_pipeline.scverse.elements import NucleiTable, open_hdf5, require_h5py
from muse_pipeline.tissue.mask import TissueMask

# pixel size of the morphology picture, if experiment.xenium does not state it
XENIUM_UM_PER_PX = 0.2125
# the last two in recent versions of Xenium
GENE, IS_GENE, CODEWORD = "feature_name", "is_gene", "codeword_category"
GENE_EXPRESSION = "Gene Expression"  # type of the features of Space Ranger that are genes
# Prefixes of the names of features that are no genes, regardless of case.
CONTROLS = (
    "negcontrol",
    "blank",
    "antisense_",
    "unassigned",
    "deprecated",
    "intergenic",
    "genomiccontrol",
)
LARGE_BIN_UM = 5.0  # bins larger than this contain parts of several nuclei
LEAST_QUALITY = 20.0  # minimum quality of a transcript, Phred-scaled; 10x Genomics' own limit
BATCH = 1 << 20
LEAST_ON_TISSUE = 0.5  # minimum fraction of positions in the tissue
MOVED_UM = 20.0  # displacement of positions, for comparison: more than the size of a nucleus
LEAST_EXCESS = 1.05  # minimum ratio between the counts in nuclei and those of displaced positions
MOST_COMPARED = 200_000  # maximum number of positions that are compared
LEAST_COMPARED = 2_500  # minimum number of counts of displaced positions in nuclei
LEAST_EXCHANGED = 500  # the same for other orientations, since chance does not reach LEAST_GAIN
LEAST_GAIN = 1.2  # minimum ratio between the counts in nuclei in another orientation and as given
# The other orientations of a picture: whether x and y are exchanged, and whether x and y are
# mirrored then.
ORIENTATIONS = {
    "x and y exchanged": (True, False, False),
    "x mirrored": (False, True, False),
    "y mirrored": (False, False, True),
    "both mirrored (a turn by 180 degrees)": (False, True, True),
    "x and y exchanged, then x mirrored (a turn by 90 degrees clockwise)": (True, True, False),
    "x and y exchanged, then y mirrored (a turn by 90 degrees counterclockwise)": (
        True,
        False,
        True,
    ),
    "x and y exchanged, then both mirrored": (True, True, True),
}
MOST_SCALE = 1.1  # largest ratio between lengths of the same tissue on the slide and in the assay
STEPS = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)])

# positions (N, 2), um from the corner of the picture, and counts (N, G)
Spots = tuple[ndarray, sparse.csr_matrix]


@dataclass(frozen=True)
class Assay:
    """A spatial assay on the tissue of a slide."""

    path: Path  # file or folder of the assay
    genes: list[str]  # unique names of the G genes
    gene_ids: list[str]  # identifiers of the genes
    n_others: int  # number of features that are no genes and are left out
    um_per_px: float  # um per pixel of the picture in which its positions are given
    batches: Callable[[], Iterator[Spots]]  # function that yields the spots in batches
    bin_um: float | None = None  # side of a bin; None for transcripts


def read_visium_hd(path: Path) -> Assay:
    """Open the finest bins of Space Ranger's ``binned_outputs``, or those in the folder of a single
    bin size.

    Antibodies and other features that are no genes are left out.
    """
    sizes = sorted(path.glob("square_*um"))
    folder = sizes[0] if sizes else path
    matrix_file = folder / "filtered_feature_bc_matrix.h5"
    positions_file = folder / "spatial/tissue_positions.parquet"
    h5py = require_h5py()
    try:
        with matrix_file.open("rb") as opened, h5py.File(opened) as file:
            group = file["matrix"]
            parts = tuple(group[name][:] for name in ("data", "indices", "indptr"))
            # 10x Genomics stores genes x barcodes, column by column.
            counts = sparse.csc_matrix(parts, shape=group["shape"][:]).T.tocsr()
            barcodes = group["barcodes"][:].astype(str)
            features = group["features"]
            names, ids = (features[name][:].astype(str) for name in ("name", "id"))
            types = features["feature_type"][:].astype(str) if "feature_type" in features else None
        columns = ["barcode", "pxl_col_in_fullres", "pxl_row_in_fullres"]
        positions = pq.read_table(positions_file, columns=columns).to_pandas().set_index("barcode")
        xy_px = positions.reindex(barcodes).to_numpy(float)
        scales = read_json(folder / "spatial/scalefactors_json.json")
        stated = re.search(r"square_(\d+)um", folder.name)  # as in "square_008um"
        bin_um = float(scales.get("bin_size_um") or (stated[1] if stated else 0))
        scale = scales["microns_per_pixel"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise LabelError(
            f"{folder}: is not a folder of Visium HD bins ({one_line(error)}); give Space Ranger's"
            " `binned_outputs`"
        ) from error
    if len(lost := np.flatnonzero(~np.isfinite(xy_px).all(1))):
        raise LabelError(
            f"{positions_file}: has no position of bin '{barcodes[lost[0]]}'; give the files of"
            " one run"
        )
    um_per_px = _require_scale(scale, folder / "spatial/scalefactors_json.json: microns_per_pixel")
    is_gene = _are_genes(names, types)
    xy_um, counts = xy_px * um_per_px, counts[:, is_gene]
    if bin_um > LARGE_BIN_UM:
        what = (
            f"its bins of {bin_um:g} um are larger than most nuclei; give the `binned_outputs` with"
            " bins of 2 um"
        )
        warnings.warn(f"{folder}: {what}", MuseWarning, stacklevel=2)

    def batches() -> Iterator[Spots]:
        for start in range(0, len(xy_um), BATCH):
            yield xy_um[start : start + BATCH], counts[start : start + BATCH]

    ids = ids[is_gene].tolist()
    genes = _unique_names(folder, names[is_gene].tolist(), ids)
    return Assay(folder, genes, ids, int((~is_gene).sum()), um_per_px, batches, bin_um)


def _are_genes(names: ndarray, types: ndarray | None = None) -> ndarray:
    """(N,) bool: True for features that are genes, from their names and, if known, their types."""
    by_name = np.array([not name.lower().startswith(CONTROLS) for name in names.tolist()], bool)
    return by_name if types is None else by_name & (types == GENE_EXPRESSION)


def _unique_names(path: Path, names: Sequence[str], ids: Sequence[str]) -> list[str]:
    """The names of genes, as NAME_ID for genes whose names are equal."""
    often = {name for name, n in Counter(names).items() if n > 1}
    if often:
        what = (
            f"{some_of(sorted(often))} {'are names' if len(often) > 1 else 'is the name'} of"
            " several genes"
        )
        warnings.warn(f"{path}: {what}, written as NAME_ID", MuseWarning, stacklevel=3)
    unique = {}
    for name, own in zip(names, ids, strict=True):
        full = f"{name}_{own}" if name in often else name
        possible = (f"{full}_{number}" if number > 1 else full for number in count(1))
        unique[next(name for name in possible if name not in unique)] = None
    return list(unique)


def read_xenium(path: Path) -> Assay:
    """Open Xenium's ``transcripts.parquet``; controls and transcripts below Q20 are left out."""
    experiment = path.parent / "experiment.xenium"
    try:
        file = pq.ParquetFile(path)
        present = set(file.schema_arrow.names)
        features = [GENE, *(name for name in (IS_GENE, CODEWORD) if name in present)]
        columns = [*features, "x_location", "y_location", *({"qv"} & present)]
        kinds = {name: file.schema_arrow.field(name).type for name in columns[len(features) :]}
        genes, others = set(), set()
        for batch in file.iter_batches(BATCH, columns=features):
            codes, names = _encode(batch)
            of_genes = set(np.unique(codes[codes >= 0]).tolist())
            genes |= {names[code] for code in of_genes}
            others |= {name for code, name in enumerate(names) if code not in of_genes}
        facts = read_json(experiment) if experiment.is_file() else {}
        scale = facts.get("pixel_size", XENIUM_UM_PER_PX)
    except (OSError, ValueError, KeyError, AttributeError, pa.ArrowException) as error:
        raise LabelError(
            f"{path}: no table of transcripts ({one_line(error)}); give transcripts.parquet"
        ) from error
    for name, kind in kinds.items():
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise LabelError(
                f"{path}: column {name} has {kind}, not numbers; give Xenium's transcripts.parquet"
            )
    genes = sorted(genes)
    number = {name: index for index, name in enumerate(genes)}

    def batches() -> Iterator[Spots]:
        for batch in file.iter_batches(BATCH, columns=columns):
            codes, names = _encode(batch)
            gene = np.where(
                codes < 0, -1, np.array([number.get(name, -1) for name in names], int)[codes]
            )
            table = pa.Table.from_batches([batch])
            good = to_numpy(table["qv"]) >= LEAST_QUALITY if "qv" in columns else True
            kept = np.flatnonzero((gene >= 0) & good)
            rows = np.ones(len(kept), np.float32), gene[kept], np.arange(len(kept) + 1)
            xy_um = np.stack(
                [to_numpy(table[name])[kept] for name in ("x_location", "y_location")], 1
            ).astype(float)
            if not np.isfinite(xy_um).all():
                raise LabelError(
                    f"{path}: a transcript has no x_location or y_location; remove it from the"
                    " table"
                )
            yield xy_um, sparse.csr_matrix(rows, shape=(len(kept), len(genes)))

    um_per_px = _require_scale(scale, f"{experiment}: pixel_size")
    return Assay(path, genes, genes, len(others - set(genes)), um_per_px, batches)


def _require_scale(um_per_px: object, where: Path | str) -> float:
    if not isinstance(um_per_px, int | float) or not 0 < um_per_px < np.inf:
        raise LabelError(f"{where} is {um_per_px!r}, not a positive number of um; correct it")
    return float(um_per_px)


def _encode(batch: pa.RecordBatch) -> tuple[ndarray, list[str]]:
    """The index (N,) of each transcript's gene, -1 for controls; and the names, which older
    versions write as bytes.
    """
    encoded = batch[GENE].cast(pa.string()).dictionary_encode()
    if encoded.null_count:
        raise ValueError(f"a transcript has no {GENE}")
    names = encoded.dictionary.to_pylist()
    codes = encoded.indices.to_numpy()
    is_gene = _are_genes(np.array(names, object))[codes]
    if IS_GENE in batch.schema.names:
        is_gene &= batch[IS_GENE].cast(pa.bool_()).fill_null(False).to_numpy(zero_copy_only=False)
    if CODEWORD in batch.schema.names:
        ends = pc.ends_with(batch[CODEWORD].cast(pa.string()), "gene")
        is_gene &= ends.fill_null(False).to_numpy(zero_copy_only=False)
    return np.where(is_gene, codes, -1), names


class CountsInNuclei(NamedTuple):
    """The counts of an assay in nuclei."""

    matrix: sparse.csr_matrix  # (N, G) counts of each nucleus
    of_counts: float  # fraction of all counts that belong to nuclei
    of_positions: float  # fraction of all positions that belong to nuclei
    doubt: str  # reason to doubt the alignment; "" if there is none
    unjudged: str  # reason why the alignment is not judged; "" if it is


def count_in_nuclei(
    nuclei: Path,
    info: SlideInfo,
    tissue: TissueMask,
    assay: Assay,
    transform: Path | None,
    expand_um: float,
) -> CountsInNuclei:
    """Sum the counts of an assay in each nucleus of a slide.

    The file ``transform`` is read by ``read_given``, and maps the slide to the assay's picture; it
    is None if the slide is that picture. Positions outside all nuclei belong to the nearest one
    within ``expand_um``.
    """
    to_px = _find_map(info, assay, transform)
    n_all, n_counts = _require_on_tissue(info, tissue, assay, to_px)
    with open_nuclei(nuclei) as file:
        outlines = parse_outlines(file.read(["geometry"])["geometry"].to_numpy())
    # in um: pixels may not be square
    tree = shapely.STRtree(shapely.transform(outlines, lambda xy: xy * info.mpp))
    total = sparse.csr_matrix((len(outlines), len(assay.genes)), dtype=np.float32)
    n_inside, compared = 0, np.zeros(len(STEPS) + len(ORIENTATIONS))
    some = slice(None, None, -(-n_all // MOST_COMPARED))
    for xy_um, counts in assay.batches():
        um = to_px(xy_um) * info.mpp
        spot, nucleus = _assign(tree, um, expand_um)
        n_inside += len(spot)
        belongs = sparse.csr_matrix(
            (np.ones(len(spot), np.float32), (nucleus, spot)), (len(outlines), len(xy_um))
        )
        total = total + belongs @ counts
        # At the edge of the tissue, displaced positions would meet no nuclei.
        used, steps_um = np.arange(len(um))[some], MOVED_UM * STEPS
        used = used[
            np.all(
                [tissue.kept.contains((um[used] + step) / info.mpp, info.mpp) for step in steps_um],
                axis=0,
            )
        ]
        exchanged = to_px(xy_um[used, ::-1]) * info.mpp
        size_um = np.multiply(info.size_px, info.mpp)
        places = [um[used] + step for step in steps_um]
        for is_exchanged, *mirrored in ORIENTATIONS.values():
            turned = exchanged if is_exchanged else um[used]
            places.append(np.where(mirrored, size_um - turned, turned))
        compared += [count_inside(tree, xy, counts[used].sum(1).A1) for xy in places]
    return CountsInNuclei(
        total, float(total.sum()) / n_counts, n_inside / n_all, *_find_doubt(*compared)
    )


def _find_doubt(as_given: float, *others: float) -> tuple[str, str]:
    """The reason to doubt the alignment, and why it cannot be judged, from counts in nuclei of
    positions as given, displaced and in other orientations.
    """
    beside = np.mean(others[: len(STEPS) - 1])
    turned = others[len(STEPS) - 1 :]
    name, best = max(zip(ORIENTATIONS, turned, strict=True), key=lambda pair: pair[1])
    if best >= max(LEAST_EXCHANGED, LEAST_GAIN * as_given, LEAST_GAIN * beside):
        gain = f"{best / as_given:.1f} times the counts" if as_given else "counts only"
        what = f"nuclei have {gain} with {name}; turn the positions so, or correct --transform"
        return what, ""
    if beside >= LEAST_COMPARED and as_given < LEAST_EXCESS * beside:
        ratio = (
            f"{as_given / beside:.2f} times the counts of positions displaced by {MOVED_UM:g} um"
        )
        return (
            f"nuclei have only {ratio}; check that the slide and --transform are those of the assay"
        ), ""
    is_judged = max(beside, as_given / LEAST_EXCESS) >= LEAST_COMPARED
    return "", "" if is_judged else "too few counts to judge the alignment"


def _find_map(
    info: SlideInfo, assay: Assay, transform: Path | None
) -> Callable[[ndarray], ndarray]:
    """The function from positions (N, 2) of the assay, in um, to those on the slide, in level-0
    px.
    """
    um_per_px = assay.um_per_px
    given = transform and read_given(
        transform, info, replace(info, mpp=(um_per_px,) * 2, bounds=None), "openslide"
    )
    scale = given.scale if given else um_per_px / np.mean(info.mpp)
    if not 1 / MOST_SCALE < scale < MOST_SCALE:
        raise LabelError(
            f"{transform or assay.path}: the tissue is {scale:.3g} times as large as on the slide;"
            f" correct the um per px of the slide ({np.mean(info.mpp):.4g}) or of the assay"
            f" ({um_per_px:.4g}), or --transform"
        )
    return lambda um: given.to_slide(um) / info.mpp if given else um / um_per_px


def _require_on_tissue(
    info: SlideInfo, tissue: TissueMask, assay: Assay, to_px: Callable[[ndarray], ndarray]
) -> tuple[int, float]:
    """Require most positions, or with a ROI at least one, to lie in tissue; return totals of
    positions and counts.
    """
    n_all = n_inside = n_counts = 0
    for xy_um, counts in assay.batches():
        n_all += len(xy_um)
        n_inside += int(tissue.kept.contains(to_px(xy_um), info.mpp).sum())
        n_counts += float(counts.sum())
    if not n_counts:
        raise LabelError(
            f"{assay.path}: has no counts, or all are of controls or below Q{LEAST_QUALITY:.0f}"
        )
    if n_inside <= (LEAST_ON_TISSUE * n_all if tissue.roi is None else 0):
        raise LabelError(
            f"{assay.path}: {n_all - n_inside:,} of {n_all:,} positions lie outside the slide's"
            " tissue; give the slide of this assay, or --transform"
        )
    return n_all, n_counts


def count_inside(tree: shapely.STRtree, xy: ndarray, counts: ndarray) -> float:
    """Sum of ``counts`` (N,) of those of the positions (N, 2) that lie in outlines."""
    spot, _ = tree.query(shapely.points(xy), "intersects")
    return counts[np.unique(spot)].sum()


def _assign(tree: shapely.STRtree, xy: ndarray, reach: float) -> tuple[ndarray, ndarray]:
    """Indices of the positions (N, 2) that belong to an outline, and indices of these outlines."""
    points = shapely.points(xy)
    spot, outline = tree.query(points, "intersects")
    # A position in two overlapping outlines counts once.
    spot, first = np.unique(spot, return_index=True)
    outline = outline[first]
    others = np.setdiff1d(np.arange(len(xy)), spot)
    if reach and len(others) and len(tree):
        near, nearest = tree.query_nearest(points[others], max_distance=reach, all_matches=False)
        spot = np.concatenate([spot, others[near]])
        outline = np.concatenate([outline, nearest])
    return spot, outline


def write_bins(nuclei: Path, assay: Assay, counts: sparse.csr_matrix, output: Path) -> None:
    """Write counts (N, G) as AnnData: counts as ``X``, nuclei as ``obs``, genes as ``var``,
    features in ``obsm``.
    """
    table = NucleiTable.open(nuclei, None)
    with complete_file(output) as partial, open_hdf5(partial) as elements:
        begin_anndata(elements)
        write_nuclei_elements(elements, table, {}, "obsm/features")
        elements.strings("uns/features", [feature.name for feature in table.features])
        attributes = {
            "encoding-type": "csr_matrix",
            "encoding-version": "0.1.0",
            "shape": np.array(counts.shape),
        }
        elements.group("X", attributes)
        for name in ("data", "indices", "indptr"):
            values = getattr(counts, name)
            elements.array(f"X/{name}", values.shape, values.dtype)[0 : len(values)] = values
        write_var(elements, assay.genes, {"gene_ids": assay.gene_ids})
