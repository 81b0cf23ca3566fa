"""Nuclei as a GeoDataFrame: read from ``nuclei.parquet``, and written as GeoJSON for QuPath.

Each row is a nucleus; ``geometry`` is its outline in absolute level-0 px, without a CRS. The other
columns are those of the file, except ``label``, which becomes the categorical ``class``, and
``rays`` and ``cell_rays``, which are left out. ``attrs`` has ``slide_id``, ``mpp`` (x, y) in um per
level-0 px, ``model`` and the file's whole ``provenance``.
"""

from pathlib import Path

import geopandas
import numpy as np
import pandas
import pyarrow as pa
import shapely

from muse_pipeline.core.coords import qupath_offset_px
from muse_pipeline.core.errors import ArgumentError
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.core.types import NucleusClass
from muse_pipeline.nuclei.arrow import lists_to_numpy, polygons_to_wkb, to_arrow, to_numpy
from muse_pipeline.nuclei.parquet import (
    CELL_RAYS,
    POSITIVE,
    QUALITY,
    REGION,
    left_out,
    open_nuclei,
    parse_outlines,
    read_provenance,
    read_within,
)
from muse_pipeline.qupath.write import (
    BATCH,
    COLUMNS,
    OPTIONAL,
    FeatureRenderer,
    encode,
    open_features,
    split_name,
)

NEW_CLASS_RGB = (128, 128, 128)
Box = tuple[float, float, float, float]


def read_nuclei(path: Path | str, box: Box | None = None) -> geopandas.GeoDataFrame:
    """Read the nuclei of a slide from ``nuclei.parquet``.

    Args:
        path: path of the file.
        box: (x, y, width, height) in absolute level-0 px, to read only the nuclei whose centres (x,
            y) lie in it.

    Returns:
        A row per nucleus, with the columns that the docstring of this module describes.

    Raises:
        NucleiError: the file is missing, damaged, or not a table of nuclei.
        ArgumentError: the box is not four finite numbers, or has no area.
    """
    provenance = read_provenance(path)
    low, high = (-np.inf, np.inf) if box is None else box_corners(box)
    with open_nuclei(path) as file:
        names = [
            name for name in file.schema_arrow.names if name not in {"class", "rays", CELL_RAYS}
        ]
    table = read_within(path, np.broadcast_to(low, 2), np.broadcast_to(high, 2), names)
    return _to_geodataframe(table, provenance)


def box_corners(box: Box) -> tuple[np.ndarray, np.ndarray]:
    """The upper left and lower right corners (2,) of a box (x, y, width, height).

    Raises:
        ArgumentError: the box is not four finite numbers, or has no area.
    """
    values = np.asarray(box, float)
    if values.shape != (4,) or not np.isfinite(values).all() or (values[2:] <= 0).any():
        raise ArgumentError(
            f"box {box}: give (x, y, width, height) in level-0 px, with width and height above 0"
        )
    return values[:2], values[:2] + values[2:]


def _to_geodataframe(table: pa.Table, provenance: Provenance) -> geopandas.GeoDataFrame:
    columns = {}
    for name in table.column_names:
        if name == "label":
            columns["class"] = pandas.Categorical.from_codes(
                to_numpy(table[name]), provenance.class_names
            )
        elif name == "embedding":
            columns[name] = list(lists_to_numpy(table[name]))
        elif name in (REGION, QUALITY):
            columns[name] = table[name].combine_chunks().to_pandas()
        elif name != "geometry":
            columns[name] = to_numpy(table[name])
    outlines = parse_outlines(table["geometry"].to_numpy())
    nuclei = geopandas.GeoDataFrame(columns, geometry=outlines)
    nuclei.attrs = {
        "slide_id": provenance.slide_id,
        "mpp": list(provenance.slide_mpp),
        "model": provenance.model.name,
        "provenance": provenance.to_dict(),
    }
    return nuclei


def write_geojson(
    nuclei: geopandas.GeoDataFrame, output: Path | str, frame: str = "qupath"
) -> None:
    """Write nuclei as detections for QuPath: outline, class and measurements, as `muse run` does.

    Args:
        nuclei: nuclei of one slide, from ``find_nuclei`` or ``read_nuclei``; rows may be removed,
            and classes and outlines changed. Classes that the model lacks are grey.
        output: path that ends in ``.geojson.gz``, or in ``.geojson`` for an uncompressed file.
        frame: "qupath" to count from the corner of the scanner's bounds, "openslide" from the
            corner of level 0.

    Raises:
        ArgumentError: a column or the provenance in ``attrs`` is missing, or an outline is not a
            simple polygon.
        GeoJSONError: ``output`` has a different ending, or the frame is unknown.
        OutputError: the file cannot be written.
    """
    output = Path(output)
    suffix = split_name(output)[1]
    provenance = _require_provenance(nuclei)
    names = {kind.name for kind in provenance.classes}
    added = sorted(set(nuclei["class"].astype("string").dropna()) - names)
    classes = [*provenance.classes, *(NucleusClass(name, NEW_CLASS_RGB) for name in added)]
    renderer = FeatureRenderer(
        classes, provenance.run_name, qupath_offset_px(provenance.bounds, frame)
    )
    table = _to_table(_flag_artefacts(nuclei, provenance), [kind.name for kind in classes])
    with open_features(output) as write:
        for start in range(0, len(table), BATCH):
            write(encode(renderer.render(table[start : start + BATCH]), suffix))


def _require_provenance(nuclei: geopandas.GeoDataFrame) -> Provenance:
    if missing := {*COLUMNS, "class"} - {"label", *nuclei.columns}:
        raise ArgumentError(
            f"nuclei: column {', '.join(sorted(missing))} is missing; give a table with all columns"
            " from find_nuclei"
        )
    if "provenance" not in nuclei.attrs:
        raise ArgumentError(
            "nuclei.attrs has no 'provenance'; copy .attrs from the result of find_nuclei"
        )
    return Provenance.from_dict(nuclei.attrs["provenance"])


def _flag_artefacts(
    nuclei: geopandas.GeoDataFrame, provenance: Provenance
) -> geopandas.GeoDataFrame:
    """Replace ``quality`` by 1 for nuclei that totals leave out and 0 for all others, as in the
    GeoJSON of a run.
    """
    if QUALITY not in nuclei:
        return nuclei
    if provenance.quality is None:  # the user has added the column
        return nuclei.drop(columns=QUALITY)
    kinds = pa.table({QUALITY: pa.array(nuclei[QUALITY].astype("string"), pa.string())})
    return nuclei.assign(**{QUALITY: left_out(kinds, provenance).astype(float)})


def _to_table(nuclei: geopandas.GeoDataFrame, class_names: list[str]) -> pa.Table:
    """Convert nuclei to the columns that ``FeatureRenderer`` renders; reject outlines that are not
    simple polygons.
    """
    polygons = nuclei.geometry.to_numpy()
    simple = shapely.get_type_id(polygons) == shapely.GeometryType.POLYGON
    simple &= (
        (shapely.get_num_interior_rings(polygons) == 0)
        & ~shapely.is_empty(polygons)
        & ~shapely.has_z(polygons)
    )
    if not simple.all():
        first = nuclei.index[int(np.argmin(simple))]
        raise ArgumentError(
            f"nuclei: the geometry of row {first} is not a polygon without holes; correct or"
            " drop it"
        )
    label = pandas.Categorical(
        nuclei["class"].astype("string"), categories=class_names
    ).codes.astype(np.int32)
    possible = {*COLUMNS, *OPTIONAL, POSITIVE} - {"label", "geometry"}
    numbers = [name for name in nuclei.columns if name in possible]
    columns = {name: to_arrow(nuclei[name].to_numpy()) for name in numbers}
    return pa.table(columns | {"label": to_arrow(label), "geometry": polygons_to_wkb(polygons)})
