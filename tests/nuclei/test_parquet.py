from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from nuclei_example import CLASSES, PROVENANCE, draw_nuclei, drawn_provenance, write_example

from muse_pipeline.core.errors import FrameError, NucleiError
from muse_pipeline.core.provenance import Quality
from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei.parquet import (
    NucleiWriter,
    OptionalColumns,
    iterate_rows,
    nuclei_schema,
    read_nuclei,
    read_provenance,
    read_within,
    write_csv,
)
from muse_pipeline.nuclei.rays import rays_to_rings, rings_to_polygons
from muse_pipeline.nuclei.shape import measure_shapes
from muse_pipeline.nuclei.table import COLUMNS


def test_every_column_is_explained():
    text = (Path(__file__).parents[2] / "docs/guide/outputs.md").read_text(encoding="utf-8")
    columns = nuclei_schema(["<class>"], 32, OptionalColumns(embedding_dim=8, clusters=True)).names
    assert [name for name in columns if f"`{name}`" not in text] == []


def test_columns_come_back_and_embeddings_stay_out_of_the_csv(tmp_path):
    nuclei = draw_nuclei(50)
    nuclei.embedding = np.random.default_rng(1).normal(size=(50, 12)).astype(np.float32)
    table = write_example(tmp_path / "nuclei.parquet", nuclei, batch=20)
    back = read_nuclei(table)
    assert back.frame is Frame.LEVEL0
    assert all(np.array_equal(getattr(back, name), getattr(nuclei, name)) for name in COLUMNS)
    write_csv(table, tmp_path / "nuclei.csv.gz")
    assert "embedding" not in pd.read_csv(tmp_path / "nuclei.csv.gz").columns


def test_bytes_do_not_depend_on_the_batches(tmp_path):
    nuclei = draw_nuclei(2000)
    for name, batch in (("one", 2000), ("many", 77)):
        write_example(tmp_path / name, nuclei, batch)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()


def test_row_groups_and_batches_are_full(tmp_path, monkeypatch):
    monkeypatch.setattr("muse_pipeline.nuclei.parquet.ROW_GROUP", 128)
    table = write_example(tmp_path / "nuclei.parquet", draw_nuclei(300), batch=50)
    groups = pq.ParquetFile(table).metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [128, 128, 44]
    assert [len(part) for part in iterate_rows(table, 90)] == [90, 90, 90, 30]
    assert [len(part) for part in iterate_rows(table, 150, ["y", "x"])] == [
        150,
        150,
    ]


@pytest.mark.parametrize(
    "low, high",
    [((3000, 9000), (9000, 20_000)), ((0, 0), (40_000, 40_000)), ((50_000, 0), (60_000, 1))],
)
def test_a_rectangle_is_read_from_the_groups_that_touch_it(tmp_path, monkeypatch, low, high):
    monkeypatch.setattr("muse_pipeline.nuclei.parquet.ROW_GROUP", 128)
    nuclei = draw_nuclei(1000)
    table = write_example(tmp_path / "nuclei.parquet", nuclei[np.argsort(nuclei.xy[:, 1])])
    known = [
        (x, y) for x, y in read_nuclei(table).xy if low[0] <= x < high[0] and low[1] <= y < high[1]
    ]
    found = read_within(table, np.array(low), np.array(high), ["geometry", "x", "y"])
    assert list(zip(*(found[name].to_pylist() for name in ("x", "y")), strict=True)) == known
    centres = shapely.get_coordinates(
        shapely.centroid(shapely.from_wkb(found["geometry"].to_pylist()))
    )
    assert np.allclose(centres, np.array(known).reshape(-1, 2), atol=4)


def test_positions_that_are_no_numbers_lie_in_no_rectangle(tmp_path, monkeypatch):
    monkeypatch.setattr("muse_pipeline.nuclei.parquet.ROW_GROUP", 128)
    nuclei = draw_nuclei(500)
    rows = pq.read_table(write_example(tmp_path / "nuclei.parquet", nuclei))
    x = np.where(
        np.arange(500) < 300, np.nan, nuclei.xy[:, 0]
    )  # the first row groups have no minimum and maximum of x
    for column in (pa.array(x), pa.array(x, from_pandas=True)):
        pq.write_table(
            rows.set_column(0, "x", column), tmp_path / "odd.parquet", row_group_size=128
        )
        assert (
            len(read_within(tmp_path / "odd.parquet", (0, 0), (50_000, 50_000), ["x", "y"])) == 200
        )


def test_geopandas_reads_it(tmp_path):
    nuclei = draw_nuclei(200)
    table = write_example(tmp_path / "nuclei.parquet", nuclei)
    frame = geopandas.read_parquet(table)
    assert frame.crs is None and len(frame) == 200
    assert frame.geometry.is_valid.all() and (frame.geom_type == "Polygon").all()
    named = frame["class"].astype(object).where(frame["class"].notna(), None).tolist()
    assert named == [CLASSES[label] if label >= 0 else None for label in nuclei.label]
    geo = pq.ParquetFile(table).metadata.metadata[b"geo"]
    assert b'"version": "1.1.0"' in geo and b'"crs": null' in geo
    assert (
        frame.total_bounds.tolist()
        == shapely.bounds(shapely.union_all(frame.geometry.values)).tolist()
    )


def test_provenance_counts_nuclei(tmp_path):
    nuclei = draw_nuclei(200)
    table = write_example(tmp_path / "nuclei.parquet", nuclei)
    provenance = read_provenance(table)
    counts = {name: int((nuclei.label == label).sum()) for label, name in enumerate(CLASSES)}
    expected = {**PROVENANCE, "n_nuclei": 200, "n_by_class": counts}
    assert provenance.to_dict() == expected
    provenance.to_dict()["card"]["classes"].clear()
    assert read_provenance(table).to_dict() == expected


def test_a_slide_without_nuclei(tmp_path):
    table = write_example(tmp_path / "nuclei.parquet", draw_nuclei(0))
    nuclei = read_nuclei(table)
    assert len(nuclei) == 0 and nuclei.rays.shape == (0, 32) and nuclei.prob.shape == (0, 3)
    assert geopandas.read_parquet(table).empty
    write_csv(table, tmp_path / "nuclei.csv.gz")
    assert pd.read_csv(tmp_path / "nuclei.csv.gz").empty


def test_failure_leaves_nothing(tmp_path):
    with (
        pytest.raises(RuntimeError),
        NucleiWriter(tmp_path / "nuclei.parquet", CLASSES, drawn_provenance(), 32),
    ):
        raise RuntimeError("stopped")
    assert list(tmp_path.iterdir()) == []


def test_only_level0_positions(tmp_path):
    nuclei = draw_nuclei(1)
    nuclei.frame = Frame.WORK
    with (
        pytest.raises(FrameError),
        NucleiWriter(tmp_path / "nuclei.parquet", CLASSES, drawn_provenance(), 32) as writer,
    ):
        writer.write(nuclei, np.array([shapely.box(0, 0, 1, 1)]), {})


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_byte_that_is_another_is_noticed(tmp_path, share):
    """Without checksums, wrong numbers would be read."""
    path = tmp_path / "nuclei.parquet"
    write_example(path, draw_nuclei(500))
    column = pq.read_metadata(path).row_group(0).column(pq.read_schema(path).names.index("x"))
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + int(share * column.total_compressed_size)] ^= 1
    path.write_bytes(content)
    with pytest.raises(NucleiError, match=r"nuclei.parquet: .*(CRC|damaged)"):
        read_nuclei(path)


@pytest.mark.parametrize("metadata", ["{}", "[]", "not JSON", '{"slide_id": "a"}'])
def test_provenance_of_another_kind_is_rejected(tmp_path, metadata):
    table = pa.table({"x": [1.0]}).replace_schema_metadata({"muse": metadata})
    pq.write_table(table, tmp_path / "n.parquet")
    with pytest.raises(NucleiError, match="different version"):
        read_provenance(tmp_path / "n.parquet")


def test_totals_of_positive_nuclei_leave_artefacts_out_too(tmp_path):
    """One of the three positive nuclei is blurred, and therefore not counted."""
    nuclei = replace(draw_nuclei(5), dab_od=np.array([[0.3], [0.3], [0.3], [0.1], [0.1]]))
    quality = Quality(2.0, 64.0, "ab" * 32, {"blurred": 1.0}, ("blurred",), ("blurred",), 2, {})
    optional = OptionalColumns(positive_od=0.2, artefacts=["blurred"])
    rings = rays_to_rings(nuclei.xy, nuclei.rays, (0.25, 0.25))
    shapes = measure_shapes(rings, (0.25, 0.25)) | {"quality": np.array([0, -1, -1, 0, -1])}
    with NucleiWriter(
        tmp_path / "nuclei.parquet", CLASSES, drawn_provenance(), 32, optional
    ) as writer:
        writer.complete(quality=quality)
        writer.write(nuclei, rings_to_polygons(rings)[0], shapes)
    known = read_provenance(tmp_path / "nuclei.parquet")
    assert (known.n_nuclei, known.n_positive) == (3, 2)
