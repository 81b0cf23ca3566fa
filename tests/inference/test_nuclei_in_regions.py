"""The regions that nuclei lie in: from a model, from drawn areas, or unknown because the model
failed.
"""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from drawn_regions import SLIDE_MPP
from drawn_shapes import feature, write_features
from qupath_check import check_geojson
from region_slides import read_region

from muse_pipeline import read_nuclei
from muse_pipeline.cli.main import main
from muse_pipeline.core.errors import LeftOutWarning
from muse_pipeline.core.files import read_json, read_tsv, write_json
from muse_pipeline.inference.region_lookup import MARGIN_UM
from muse_pipeline.nuclei.parquet import read_provenance
from muse_pipeline.qupath.regions import read_areas, read_class_areas
from muse_pipeline.slides.inspect import read_info

COLUMNS = ["region", "region_prob", "border_distance_um"]


@pytest.fixture(scope="session")
def shards(drawn_slide, tmp_path_factory) -> Path:
    """The shard of the slide's nuclei; every third nucleus is made epithelial, because the slide
    has none.
    """
    shard = tmp_path_factory.mktemp("shards") / "1-of-1.parquet"
    colour = str(drawn_slide.folder / "colour.json")
    detect = (
        f"step detect {drawn_slide.store} --colour {colour} --shard 1-of-1 --output {shard}"
    ).split()
    assert main(detect) == 0
    table = pq.read_table(shard).replace_schema_metadata(pq.read_metadata(shard).metadata)
    prob = np.array(table["prob"].to_pylist(), np.float32)
    prob[::3] = 0.1, 0.8, 0.1
    column = pa.FixedSizeListArray.from_arrays(prob.ravel(), prob.shape[1])
    pq.write_table(
        table.set_column(table.schema.get_field_index("prob"), table.schema.field("prob"), column),
        shard,
    )
    return shard


def stitch(slide, shards: Path, output: Path, *more: str) -> Path:
    info, tissue = str(slide.folder / "slide.json"), str(slide.folder / "tissue.npz")
    words = [
        *f"step stitch {shards} --info {info} --tissue {tissue} --output {output}".split(),
        *more,
    ]
    assert main(words) == 0
    return output


@pytest.fixture(scope="session")
def nuclei(drawn_slide, shards, found, tmp_path_factory) -> Path:
    """The table of nuclei with the regions from the model."""
    output = tmp_path_factory.mktemp("nuclei") / "nuclei.parquet"
    return stitch(drawn_slide, shards, output, "--regions", str(found))


def test_without_regions_there_is_no_column(drawn_slide, shards, tmp_path):
    plain = stitch(drawn_slide, shards, tmp_path / "nuclei.parquet")
    assert not set(COLUMNS) & set(pq.read_schema(plain).names)
    assert b'"regions"' not in pq.read_metadata(plain).metadata[b"muse"]


def test_a_failed_model_costs_the_regions_alone(drawn_slide, shards, nuclei, tmp_path):
    assert main(f"regions {drawn_slide.store} --model compact -o {tmp_path}".split()) == 2
    output, ledger = tmp_path / "nuclei.parquet", tmp_path / "stitch.json"
    stitch(drawn_slide, shards, output, "--regions", str(tmp_path), "--ledger", str(ledger))
    table, expected = pq.read_table(output), pq.read_table(nuclei)
    assert all(table[name].null_count == len(table) for name in COLUMNS)
    assert table.drop_columns(COLUMNS).equals(expected.drop_columns(COLUMNS))
    [warning] = [each for each in read_json(ledger)["warnings"] if "regions" in each]
    assert warning.startswith("no tissue regions: ")
    assert json.loads(pq.read_metadata(output).metadata[b"muse"])["regions"]["status"] == "failed"
    info, geojson = str(drawn_slide.folder / "slide.json"), str(tmp_path / "nuclei.geojson")
    assert main(f"step geojson {output} --info {info} --output {geojson}".split()) == 0


def test_regions_of_another_slide_are_rejected(drawn_slide, shards, found, tmp_path, capsys):
    shutil.copytree(found, tmp_path / "other")
    record = read_json(found / "regions.json")
    (tmp_path / "other/regions.json").write_text(json.dumps({**record, "fingerprint": "0" * 64}))
    info, tissue = str(drawn_slide.folder / "slide.json"), str(drawn_slide.folder / "tissue.npz")
    words = (
        f"step stitch {shards} --info {info} --tissue {tissue} --regions {tmp_path / 'other'}"
    ).split()
    assert main([*words, "--output", str(tmp_path / "nuclei.parquet")]) == 2
    assert "made for a different slide" in capsys.readouterr().err


@pytest.fixture
def results(drawn_slide, nuclei, found, tmp_path) -> Path:
    """The results folder of a cohort with one slide and its regions, as the steps write it."""
    folder = tmp_path / "results/drawn"
    shutil.copytree(drawn_slide.folder, folder, ignore=shutil.ignore_patterns("drawn.tif"))
    shutil.copytree(found, folder, dirs_exist_ok=True)
    shutil.copy(nuclei, folder)
    info, output = folder / "slide.json", str(folder / "nuclei.geojson.gz")
    assert (
        main(f"step geojson {folder / 'nuclei.parquet'} --info {info} --output {output}".split())
        == 0
    )
    for step in ("inspect", "tissue", "tile", "regions", "detect", "stitch", "geojson"):
        write_json(folder / f"ledger/{step}.json", {"step": step, "status": "ok", "seconds": 1.0})
    row = {"slide_id": "drawn", "path": read_json(info)["path"], "shards": 1}
    write_json(tmp_path / "results/sheet.json", [row])
    return tmp_path / "results"


def read_row(results: Path) -> dict[str, str]:
    [row] = read_tsv(results / "cohort.tsv")
    return row


def test_a_slide_without_its_regions_stands_in_the_report(results, drawn_slide, shards, capsys):
    folder = results / "drawn"
    assert main(f"regions {drawn_slide.store} --model compact -o {folder}".split()) == 2
    write_json(
        folder / "ledger/regions.json",
        {"step": "regions", "status": "failed", "reason": "no model"},
    )
    stitch(drawn_slide, shards, folder / "nuclei.parquet", "--regions", str(folder))
    assert main(["report", str(results)]) == 0
    row = read_row(results)
    assert (row["status"], row["regions"]) == ("ok", "failed")
    assert int(row["nuclei"]) > 500
    assert "no regions (1 slide; " in capsys.readouterr().out
    assert "no tissue regions: " in (results / "report.html").read_text()


@pytest.fixture(scope="session")
def of_epithelium(found, tmp_path_factory) -> Path:
    """A folder with the same regions under the names of epithelium and other tissue."""
    folder = tmp_path_factory.mktemp("epithelium") / "regions"
    shutil.copytree(found, folder)
    for name in ("regions.json", "regions.geojson"):
        text = (
            (folder / name)
            .read_text()
            .replace('"Tumour"', '"Epithelium"')
            .replace('"Stroma"', '"Other"')
        )
        (folder / name).write_text(text)
    return folder


def test_nuclei_of_a_class_that_their_region_does_not_have(
    drawn_slide, shards, nuclei, of_epithelium, results, tmp_path
):
    folder = results / "drawn"
    output = stitch(drawn_slide, shards, folder / "nuclei.parquet", "--regions", str(of_epithelium))
    table = pandas.read_parquet(output)
    epithelium, other = (read_region(of_epithelium, name) for name in ("Epithelium", "Other"))
    border = shapely.intersection(shapely.boundary(epithelium), shapely.boundary(other))
    inside, outside = (
        shapely.contains_xy(each, table["x"], table["y"]) for each in (epithelium, other)
    )
    is_far = (
        shapely.distance(shapely.points(table["x"], table["y"]), border) * SLIDE_MPP > MARGIN_UM
    )
    expected = is_far & (
        (table["class"] == "Epithelial") & outside | (table["class"] == "Stroma") & inside
    )
    assert (table["unlike_region"] == expected).all()
    assert 0 < expected.sum() < len(table) / 2
    assert {*table[expected]["class"]} == {"Epithelial", "Stroma"}
    assert table.drop(columns="unlike_region").columns.equals(pandas.read_parquet(nuclei).columns)
    # The number of these nuclei is in the summary, the cohort table and the report; a measurement
    # marks each in QuPath.
    info, geojson = str(drawn_slide.folder / "slide.json"), str(folder / "nuclei.geojson.gz")
    assert main(f"step geojson {output} --info {info} -o {geojson}".split()) == 0
    assert main(["step", "overlay", str(folder)]) == 0 and main(["report", str(results)]) == 0
    assert read_json(folder / "summary.json")["regions"]["n_unlike_region"] == expected.sum()
    page, row = (results / "report.html").read_text(), read_row(results)
    assert int(row["nuclei_unlike_region"]) == expected.sum()
    n_judged = (table["region"].notna() & (table["class"] != "Lymphocyte")).sum()
    assert (
        f"of {n_judged:,}: Epithelial outside epithelium" in page
        and expected.sum() > 0.15 * n_judged
    )
    # The nuclei of the drawn slide are large.
    assert row["left_out"] == "nuclei: doubtful scale; regions: doubtful regions"
    assert (
        f"check the regions: {expected.sum():,} of {n_judged:,} nuclei are epithelial outside"
        " epithelium or" in page
    )
    assert main(f"report {results} --include-doubtful regions".split()) == 0
    assert read_row(results)["left_out"] == "nuclei: doubtful scale"
    features = json.loads(gzip.decompress(Path(geojson).read_bytes()))["features"]
    assert [
        each["properties"]["measurements"]["Unlike region"] for each in features
    ] == expected.tolist()
    assert check_geojson(Path(geojson)).is_good
    assert (read_nuclei(output)["unlike_region"] == expected).all()


def test_other_regions_have_no_such_column(drawn_slide, shards, nuclei, results, tmp_path):
    assert "unlike_region" not in pq.read_schema(nuclei).names
    areas = draw_areas(tmp_path / "areas.geojson", {"Epithelium": shapely.box(0, 0, 4000, 4000)})
    output = stitch(drawn_slide, shards, tmp_path / "nuclei.parquet", "--regions", str(areas))
    assert "unlike_region" not in pq.read_schema(output).names
    assert main(["report", str(results)]) == 0
    assert "nuclei_unlike_region" not in read_row(results)
    assert "Unlike region" not in (results / "report.html").read_text()


def test_a_slide_without_a_border_is_far_from_it(drawn_slide, shards, of_epithelium, tmp_path):
    """The whole slide is mapped as other tissue."""
    folder = tmp_path / "regions"
    shutil.copytree(of_epithelium, folder)
    draw_areas(folder / "regions.geojson", {"Other": shapely.box(0, 0, 9999, 9999)})
    output = stitch(drawn_slide, shards, tmp_path / "nuclei.parquet", "--regions", str(folder))
    table = pandas.read_parquet(output)
    assert table["border_distance_um"].isna().all() and set(table["region"]) == {"Other"}
    assert (table["unlike_region"] == (table["class"] == "Epithelial")).all() and table[
        "unlike_region"
    ].any()


def draw_areas(path: Path, areas: dict[str, shapely.Geometry]) -> Path:
    return write_features(path, *[feature(shape, name) for name, shape in areas.items()])


def test_areas_of_one_class_have_the_border_of_the_slide_alone(drawn_slide, shards, tmp_path):
    areas = draw_areas(tmp_path / "areas.geojson", {"Tumour": shapely.box(1000, 1000, 4000, 4000)})
    output = stitch(drawn_slide, shards, tmp_path / "nuclei.parquet", "--regions", str(areas))
    assert not [
        name for name in pq.read_schema(output).names if name.startswith("border_distance_um_")
    ]
    assert [band.region for band in read_provenance(output).regions.bands] == [None, None]


def test_ignored_areas_and_further_planes_are_no_part_of_drawn_areas(drawn_slide, tmp_path):
    """The rules are the same as for a region of interest."""
    info = read_info(drawn_slide.folder / "slide.json")
    outer, ignored = shapely.box(0, 0, 3000, 1000), shapely.box(0, 0, 500, 1000)
    path = draw_areas(
        tmp_path / "areas.geojson",
        {"Tumour": outer, "Ignore*: Positive": ignored, "Far": outer, "Late": outer},
    )
    content = read_json(path)
    for number, plane in ((2, {"z": 1, "t": 0}), (3, {"z": 0, "t": 2})):
        content["features"][number]["geometry"]["plane"] = {"c": -1, **plane}
    content["features"] += [feature(shapely.LineString([(0, 0), (9, 9)]), "Tumour")]
    path.write_text(json.dumps(content))
    with pytest.warns(LeftOutWarning, match="out 2 objects"):
        (area,) = read_class_areas(path, info)
        assert read_areas(path).equals(area.shape)
    assert (area.class_name, area.color) == ("Tumour", (1, 2, 3))
    assert area.shape.equals(outer - ignored)
