"""What a run reports equals what tests/oracle.py computes, in a cohort in which no setting has its
default value.
"""

import csv
import gzip
import json
from types import SimpleNamespace

import h5py
import numpy as np
import oracle
import pandas as pd
import pytest
import shapely
from awkward_cohort import (
    BLURRED_PX,
    CORE_UM,
    CORES,
    EXPAND_UM,
    INTENSITIES,
    N_PATIENTS,
    PITCH_UM,
    SUBTRACT,
    run_cohort,
    run_microarray,
    run_sheet,
    write_areas,
    write_patients,
)
from scipy import sparse

from muse_pipeline.cli.main import main

SLIDES = ("S1", "S2", "S3")
SCORED = {"dab_od": "", "cytoplasm_dab_mean": "cytoplasm_", "membrane_dab_mean": "membrane_"}


@pytest.fixture(scope="module")
def folder(once, tiled_slide):
    demo = tiled_slide.folder / "demo.svs"
    return once("awkward", lambda folder: run_cohort(folder, demo))


@pytest.fixture(scope="module")
def slides(folder):
    return {name: oracle.Slide(folder / "results" / name) for name in SLIDES}


@pytest.fixture(scope="module")
def microarray(once, tiled_slide):
    demo = tiled_slide.folder / "demo.svs"
    return once("awkward-tma", lambda folder: run_microarray(folder, demo)) / "tma/T"


@pytest.fixture(scope="module")
def patients(once):
    """A folder of results of many patients, compared by the sheet's own column of patients."""

    def fill(folder):
        results, sheet = write_patients(folder), f"--sheet {folder}/slides.tsv"
        groups = f"--group grade --patient case -o {folder}/statistics.tsv"
        assert main(f"statistics {results} {sheet} {groups}".split()) == 0
        assert main(f"step anndata {results} {sheet} -o {folder}/cohort.h5ad".split()) == 0

    return once("awkward-patients", fill)


def read_rows(path, key="slide_id"):
    """The rows of a table, keyed by a column; empty cells are NaN."""
    with path.open(encoding="utf-8", newline="") as file:
        return {row[key]: row for row in csv.DictReader(file, dialect="excel-tab")}


def assert_close(reported, expected, rtol=1e-4, atol=0.0, most=None):
    """Compare each value; with ``most``, nearly all to the tolerance, and all to within
    ``most``.
    """
    reported, expected = np.asarray(reported, float), np.asarray(expected, float)
    np.testing.assert_array_equal(np.isnan(reported), np.isnan(expected))
    if most is not None:
        np.testing.assert_allclose(reported, expected, rtol=rtol, atol=most)
        reported, expected = (values[np.isfinite(reported)] for values in (reported, expected))
        close = np.abs(reported - expected) <= atol + rtol * np.abs(expected)
        assert close.mean() > 0.7
        return
    np.testing.assert_allclose(reported, expected, rtol=rtol, atol=atol)


def assert_counts(row, expected):
    """Compare numbers in a row of a table, which are rounded to 0.1 per mm2 or 0.01 %, or to 5e-5
    mm2.
    """
    for name, value in expected.items():
        assert (row[name] == "") == bool(np.isnan(value)), name
        if row[name]:
            assert float(row[name]) == pytest.approx(
                value, rel=1e-3 if "mm2" in name else 1e-9, abs=0.06
            ), name


def measured_pixels(slide):
    return oracle.Pixels(slide, slide.provenance["features"]["stains"]["vectors"])


@pytest.mark.parametrize("name", SLIDES)
def test_sizes_and_shapes(slides, name):
    slide = slides[name]
    assert shapely.hausdorff_distance(slide.outlines, slide.rings).max() < 0.05
    shapes = pd.DataFrame([oracle.shape_of(outline) for outline in slide.rings])
    assert set(oracle.SIZES) <= set(shapes)
    turned = np.abs(slide.table["shape_orientation"] - shapes.pop("shape_orientation"))
    assert np.median(np.minimum(turned, np.pi - turned)) < 0.05
    for column in shapes:
        assert_close(slide.table[column], shapes[column], rtol=0.005, atol=0.002, most=0.2)


@pytest.mark.parametrize("name", SLIDES)
def test_stains_and_texture(slides, name):
    slide = slides[name]
    pixels, some = measured_pixels(slide), slice(0, None, 9)
    chosen = range(len(slide.table))[some]
    rows = [
        oracle.stains_of(pixels, slide, index) | oracle.texture_of(pixels, slide.rings[index])
        for index in chosen
    ]
    for column, values in pd.DataFrame(rows).items():
        assert_close(slide.table[column][some], values, rtol=1e-3, atol=1e-3, most=0.7)


@pytest.mark.parametrize("name", SLIDES)
def test_neighbours(slides, name):
    slide = slides[name]
    for column, values in oracle.neighbours(slide).items():
        assert_close(slide.table[column], values, rtol=1e-5)
    edge = shapely.union_all(slide.mask).buffer(16).boundary
    distance = shapely.distance(shapely.points(slide.xy), edge)
    assert_close(slide.table["neighbours_tissue_edge_um"], distance, atol=8, most=14)


@pytest.mark.parametrize("name", SLIDES)
def test_nuclei_are_kept_in_the_roi_near_the_tissue(slides, name):
    slide = slides[name]
    assert shapely.contains_xy(slide.roi, slide.xy).all()
    assert (
        shapely.distance(shapely.union_all(slide.mask), shapely.points(slide.xy)).max()
        < 16 + slide.mask_mpp.max()
    )


def test_artefacts_and_what_totals_leave_out(slides, folder):
    slide, row = slides["S1"], read_rows(folder / "results/cohort.tsv")["S1"]
    artefacts = slide.artefacts()
    assert {"blurred", "ink", "fold"} == set(artefacts)
    for kind, area in artefacts.items():
        inside = shapely.contains_xy(area, slide.xy)
        np.testing.assert_array_equal(inside, slide.table["quality"] == kind)
        assert float(row[f"{kind}_mm2"]) == pytest.approx(slide.tissue_mm2(area), rel=0.08)
    corner = slide.offset_px + np.array([BLURRED_PX + 200, 800])
    blurred = shapely.box(*corner * slide.mpp, *slide.size_um)
    assert not artefacts["ink"].intersects(blurred) and artefacts["blurred"].intersects(
        blurred
    )  # the ink crosses it
    out = slide.left_out(SUBTRACT)
    assert int(row["nuclei_left_out"]) == out.sum() > 50
    assert int(row["nuclei_in_artefacts"]) == slide.table["quality"].notna().sum() > out.sum()
    median = np.quantile(slide.table["area_um2"][~out], 0.5, method="lower")
    assert median == pytest.approx(float(row["median_area_um2"]), abs=0.11)


@pytest.mark.parametrize("name", SLIDES)
def test_counts_and_densities(slides, folder, name):
    slide, row = slides[name], read_rows(folder / "results/cohort.tsv")[name]
    artefacts = slide.artefacts()
    mm2 = slide.tissue_mm2(without=[artefacts[kind] for kind in SUBTRACT if kind in artefacts])
    assert float(row["tissue_mm2"]) == pytest.approx(mm2, rel=0.01)
    assert_counts(
        row,
        oracle.counts(slide, ~slide.left_out(SUBTRACT), float(row["tissue_mm2"])),
    )


def test_annotations_of_a_roi(slides, folder):
    slide, rows = slides["S1"], read_rows(folder / "results/roi.tsv", "roi")
    artefacts = slide.artefacts()
    areas = oracle.annotations(slide, folder / "roi.geojson")
    assert list(rows) == [name for name, _, _ in areas] == ["most", "Tumor: Positive"]
    for name, word, area in areas:
        assert rows[name]["class"] == word
        assert float(rows[name]["area_mm2"]) == pytest.approx(area.area / 1e6, rel=1e-4)
        mm2 = float(rows[name]["tissue_mm2"])
        assert mm2 == pytest.approx(slide.tissue_mm2(area, map(artefacts.get, SUBTRACT)), rel=5e-3)
        inside = shapely.contains_xy(area, slide.xy) & ~slide.left_out(SUBTRACT)
        assert_counts(rows[name], oracle.counts(slide, inside, mm2))


@pytest.mark.parametrize("name, drawn", [("S1", "regions.geojson"), ("S3", "stained.geojson")])
def test_regions(slides, folder, name, drawn):
    slide, row = slides[name], read_rows(folder / "results/cohort.tsv")[name]
    regions = oracle.Regions(slide, folder / drawn)
    np.testing.assert_array_equal(slide.table["region"].astype(object).fillna(""), regions.region())
    assert len(regions.shapes) == 2
    for border in regions.borders:
        column = f"border_distance_um_{border}" if border else "border_distance_um"
        assert_close(slide.table[column], regions.distance(border), atol=0.01, most=3)
    assert float(row["border_mm"]) == pytest.approx(regions.borders[""][1].length / 1000, rel=0.03)
    chosen = {name: regions.region() == name for name in regions.shapes}
    for border in regions.borders:
        of, distance = f"border_of_{border}" if border else "border", regions.distance(border)
        for um in (50, 100):
            chosen[f"{of}_inside_{um}um"] = (distance <= 0) & (distance >= -um)
            chosen[f"{of}_outside_{um}um"] = (distance > 0) & (distance <= um)
    for area, mm2 in regions.mm2().items():
        assert float(row[area]) == pytest.approx(mm2, rel=0.04, abs=1e-4), area
        place = area.removeprefix("mm2_in_")
        expected = oracle.counts(slide, chosen[place], float(row[area]))
        assert int(row[f"nuclei_in_{place}"]) == expected["nuclei"]
        assert float(row[f"nuclei_per_mm2_in_{place}"]) == pytest.approx(
            expected["nuclei_per_mm2"], rel=5e-3, abs=0.1
        )
        for kind in slide.classes:
            assert int(row[f"nuclei_in_{place}_{kind}"]) == expected[f"nuclei_{kind}"]


def test_positive_nuclei_and_scores(slides, folder):
    slide, row = slides["S3"], read_rows(folder / "results/cohort.tsv")["S3"]
    pixels = oracle.Pixels(slide, [oracle.HAEMATOXYLIN, oracle.DAB])
    od = [pixels.mean(outline, 1) for outline in slide.outlines]
    assert_close(slide.table["dab_od"], od, atol=0.008, rtol=0.01, most=0.12)
    np.testing.assert_array_equal(slide.table["positive"], slide.table["dab_od"] >= INTENSITIES[0])
    places = {f"_in_{name}": slide.table["region"] == name for name in ("Tumor", "Other")}
    places[""] = np.ones(len(od), bool)
    for place, chosen in places.items():
        for column, prefix in SCORED.items():
            expected = oracle.scores(slide.table[column].to_numpy()[chosen], INTENSITIES, prefix)
            placed = {f"{name}{place}": value for name, value in expected.items()}
            assert_counts(row, {name: placed[name] for name in placed.keys() & row.keys()})
            assert place or 0 < expected[f"{prefix}h_score"] < 300


@pytest.mark.parametrize("name", SLIDES)
def test_cells(slides, name):
    slide = slides[name]
    table, cells = slide.table, slide.cells
    assert_close(table["cell_area_um2"], shapely.area(cells), rtol=1e-5)
    assert_close(table["nucleus_cell_ratio"], table["area_um2"] / shapely.area(cells), rtol=1e-5)
    differences = []
    for index in range(0, len(table), 8):
        left, top, right, bottom = slide.outlines[index].buffer(EXPAND_UM + 1).bounds
        points = np.stack(
            np.meshgrid(np.arange(left, right, 0.5), np.arange(top, bottom, 0.5)), -1
        ).reshape(-1, 2)
        expected = oracle.is_in_cell(slide, index, points, EXPAND_UM)
        cell = shapely.contains_xy(cells[index], points)
        differences.append(((expected & ~cell).sum(), (cell & ~expected).sum(), expected.sum()))
    missing, excess, total = np.transpose(differences)
    assert missing.sum() < 0.03 * total.sum() and excess.sum() < 0.02 * total.sum()
    assert np.percentile(excess / total, 95) < 0.1  # rays may cross narrow gaps of the tissue
    assert shapely.covers(slide.scanned.buffer(0.05), cells).all()


@pytest.mark.parametrize("name", SLIDES)
def test_cytoplasm_and_membranes(slides, name):
    slide = slides[name]
    pixels, some = measured_pixels(slide), range(0, len(slide.table), 5)
    cytoplasm = {index: slide.cells[index] - slide.rings[index] for index in some}
    columns = {
        f"cytoplasm_{name}_mean": [pixels.mean(cytoplasm[i], n, 2) for i in some]
        for n, name in enumerate("he")
    }
    if "dab_od" in slide.table:
        pixels = oracle.Pixels(slide, [oracle.HAEMATOXYLIN, oracle.DAB])
        columns["cytoplasm_dab_mean"] = [pixels.mean(cytoplasm[i], 1, 2) for i in some]
        densest = []
        for i in some:
            nucleus, cell = (np.array(slide.table[rays][i]) for rays in ("rays", "cell_rays"))
            shares = []
            for step in np.arange(0, EXPAND_UM):
                inner = np.maximum(np.minimum(nucleus + step, cell - 1), nucleus)
                outer = np.minimum(inner + 1, cell)
                zone = oracle.ring(slide.xy[i], outer) - oracle.ring(slide.xy[i], inner)
                shares.append(pixels.mean(zone, 1, 2))
            densest.append(np.nanmax(shares))
        columns["membrane_dab_mean"] = densest
    for column, values in columns.items():
        assert_close(
            slide.table[column][some.start :: some.step], values, rtol=0.01, atol=0.003, most=0.05
        )


@pytest.mark.parametrize("name", SLIDES)
def test_csv_and_geojson_have_the_nuclei_of_the_table(slides, name):
    slide = slides[name]
    table = pd.read_csv(slide.folder / "nuclei.csv.gz")
    for column in table.select_dtypes("number"):
        assert_close(table[column], slide.table[column].astype(float), rtol=1e-5, atol=0.005)
    with gzip.open(slide.folder / "nuclei.geojson.gz") as file:
        features = json.load(file)["features"]
    shapes = shapely.from_geojson([json.dumps(feature["geometry"]) for feature in features])
    shapes = slide.to_um(shapely.transform(shapes, lambda xy: xy + slide.offset_px))
    assert shapely.hausdorff_distance(shapes, slide.outlines).max() < 0.03
    classes = slide.table["class"].astype(object)
    names = [feature["properties"]["classification"] for feature in features]
    if name == "S3":
        ends = np.where(slide.table["positive"], "Positive", "Negative")
        assert [word["names"] for word in names] == [
            list(pair) for pair in zip(classes, ends, strict=True)
        ]
    else:
        assert [word["name"] for word in names] == list(classes)
    measured = pd.DataFrame([feature["properties"]["measurements"] for feature in features])
    assert_close(measured["h_mean"], slide.table["h_mean"], atol=1e-4)
    assert_close(measured["Detection probability"], slide.table["score"], atol=1e-3)
    if "In artefact" in measured:
        np.testing.assert_array_equal(measured["In artefact"], slide.left_out(SUBTRACT))


def test_shards_and_threads_change_no_byte(folder, tmp_path):
    header, *rows = (folder / "slides.tsv").read_text().splitlines()
    for name in ("S1.scn", "S3.scn", "roi.geojson", "regions.geojson", "stained.geojson"):
        (tmp_path / name).symlink_to(folder / name)
    sheet = tmp_path / "slides.tsv"
    sheet.write_text("\n".join([header, rows[0], rows[2]]) + "\n")
    results = run_sheet(sheet, tmp_path / "results", shards=3, threads=2)
    tables = "nuclei.parquet", "nuclei.geojson.gz", "nuclei.csv.gz", "nuclei.h5ad", "summary.json"
    for name in (
        "S1/artefacts.geojson",
        *(f"{slide}/{table}" for slide in ("S1", "S3") for table in tables),
    ):
        assert (results / name).read_bytes() == (folder / "results" / name).read_bytes(), name


def read_column(file, name):
    """A column of ``obs``, categories as strings."""
    if isinstance(file[name], h5py.Dataset):
        return file[name].asstr()[:] if h5py.check_string_dtype(file[name].dtype) else file[name][:]
    categories, codes = file[f"{name}/categories"].asstr()[:], file[f"{name}/codes"][:]
    return np.where(codes < 0, "", np.append(categories, "")[codes])


@pytest.mark.parametrize("name", SLIDES)
def test_anndata_of_a_slide(slides, name):
    slide = slides[name]
    with h5py.File(slide.folder / "nuclei.h5ad") as file:
        np.testing.assert_allclose(file["obsm/spatial"][:], slide.xy)
        np.testing.assert_allclose(file["obsm/spatial_px"][:] * slide.mpp, slide.xy)
        for column in ("class", "quality", "region"):
            if column in slide.table:
                values = slide.table[column].astype(object).fillna("")
                np.testing.assert_array_equal(read_column(file, f"obs/{column}"), values)
        assert set(read_column(file, "obs/patient")) == {"P"} and set(
            read_column(file, "obs/slide_id")
        ) == {name}
        np.testing.assert_array_equal(file["obs/score"][:], slide.table["score"])
        values = slide.table[list(file["var/_index"].asstr()[:])].to_numpy(np.float32)
        np.testing.assert_array_equal(file["X"][:], values)
        scale = file[f"uns/spatial/{name}/scalefactors"]
        assert [scale["um_per_px_x"][()], scale["um_per_px_y"][()]] == pytest.approx(
            list(slide.mpp)
        )


def test_cores_of_a_microarray(microarray):
    slide, rows = oracle.Slide(microarray), read_rows(microarray.parent / "cohort.tsv", "core")
    shapes = {
        item["name"]: (item["isMissing"], shape)
        for item, shape in slide.areas(microarray / "tma.geojson")
    }
    names = {
        oracle.core_name(row, column): (row, column) for row in range(27) for column in range(2)
    }
    assert set(shapes) == set(names) == set(rows) - {""}
    corner = np.array([0.3, 0.5]) * PITCH_UM + slide.offset_px * slide.mpp + CORE_UM
    for name, (row, column) in names.items():
        missing, shape = shapes[name]
        assert missing == ((row, column) not in CORES) == (rows[name]["status"] == "missing")
        centre = corner + np.array([column, row]) * PITCH_UM
        assert np.linalg.norm(np.array(shape.centroid.coords[0]) - centre) < (60 if missing else 12)
        assert (slide.tissue_mm2(shape) < 0.1 * shape.area / 1e6) == missing
        if not missing:
            assert float(rows[name]["tissue_mm2"]) == pytest.approx(
                slide.tissue_mm2(shape), rel=0.01
            )
            inside = shapely.contains_xy(shape, slide.xy)
            assert_counts(rows[name], oracle.counts(slide, inside, float(rows[name]["tissue_mm2"])))


def test_genes_count_for_the_nearest_nucleus(slides, tmp_path):
    slide = slides["S2"]
    rng = np.random.default_rng(3)
    low, high = slide.xy.min(0) - 5, slide.xy.max(0) + 5
    xy, counted = rng.uniform(low, high, (3000, 2)), rng.poisson(1.0, (3000, 2))
    near = shapely.STRtree(slide.outlines).query(shapely.points(xy), "dwithin", distance=0.01)[0]
    counted[near] += 6  # most counts are in nuclei
    bins = tmp_path / "square_002um"
    (bins / "spatial").mkdir(parents=True)
    spots, matrix = np.char.add("s", np.arange(len(xy)).astype(str)), sparse.csc_matrix(counted.T)
    with h5py.File(bins / "filtered_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"], group["barcodes"] = matrix.shape, spots.astype("S")
        group["features/name"], group["features/id"] = (
            np.array(["A", "B"], "S"),
            np.array(["1", "2"], "S"),
        )
    column, row = (xy / slide.mpp).T
    table = pd.DataFrame(
        {"barcode": spots, "pxl_row_in_fullres": row, "pxl_col_in_fullres": column}
    )
    table.to_parquet(bins / "spatial/tissue_positions.parquet")
    scale = json.dumps({"microns_per_pixel": slide.mpp.mean()})
    (bins / "spatial/scalefactors_json.json").write_text(scale)
    output = tmp_path / "bins.h5ad"
    words = f"bins {slide.folder} --visium-hd {tmp_path} --expand-um 2.5 -o {output}"
    assert main(words.split()) == 0
    with h5py.File(output) as file:
        parts = [file[f"X/{name}"][:] for name in ("data", "indices", "indptr")]
        reported = sparse.csr_matrix(tuple(parts), shape=tuple(file["X"].attrs["shape"])).toarray()
    np.testing.assert_array_equal(reported, oracle.genes(slide, xy, counted, 2.5))


CLASSES = {"Tumor: Positive": "Epithelial", "Immune cells": "Lymphocyte", "Stroma": "Stroma"}


@pytest.fixture(scope="module")
def truth(slides, folder, tmp_path_factory):
    """True outlines of S1: those found, moved by up to 4 um, some left out, some others added, with
    derived classes.
    """
    slide, rng = slides["S1"], np.random.default_rng(5)
    chosen = rng.random(len(slide.table)) < 0.85
    moved = rng.uniform(-2.8, 2.8, (len(slide.table), 2))
    shapes = [
        shapely.affinity.translate(shape, *by)
        for shape, by in zip(slide.outlines, moved, strict=True)
    ]
    words = {name: word for word, name in CLASSES.items()}
    names = slide.table["class"].astype(str).to_numpy()
    names = np.where(rng.random(len(names)) < 0.2, rng.permutation(names), names)
    areas = [
        (words[name], None, shape)
        for name, shape in zip(names[chosen], np.array(shapes)[chosen], strict=True)
    ]
    path = tmp_path_factory.mktemp("truth") / "S1.geojson"
    drawn = shapely.transform(
        [shape for _, _, shape in areas], lambda xy: xy / slide.mpp - slide.offset_px
    )
    rings = [[list(shape.exterior.coords)[:-1]] for shape in drawn]
    write_areas(
        path, [(word, name, ring) for (word, name, _), ring in zip(areas, rings, strict=True)]
    )
    true = np.array([shape for _, _, shape in areas])
    return SimpleNamespace(
        path=path, shapes=true, names=np.array([CLASSES[word] for word, _, _ in areas])
    )


def test_evaluation(slides, truth, tmp_path):
    slide, output = slides["S1"], tmp_path / "scores.json"
    words = f"--truth {truth.path} --radius-um 2.5 --score 0.5 --json {output} --repeats 20"
    assert main(f"evaluate {slide.folder} {words}".split()) == 0
    scores = json.loads(output.read_text())
    chosen = (slide.table["score"] >= 0.5).to_numpy()
    xy, table = slide.xy[chosen], slide.table[chosen]
    score, names = table["score"].to_numpy(), table["class"].astype(str).to_numpy()
    true_xy = np.array([shape.centroid.coords[0] for shape in truth.shapes])
    pairs = np.array(oracle.match(true_xy, xy, score, 2.5))
    assert scores["detection"]["true_positives"] == len(pairs) > 100
    assert scores["detection"]["f1"] == pytest.approx(200 * len(pairs) / (len(xy) + len(true_xy)))
    matched, of = names[pairs[:, 0]], truth.names[pairs[:, 1]]
    for name, reported in scores["by_class"].items():
        n_right = ((matched == name) & (of == name)).sum()
        expected = 200 * n_right / ((names == name).sum() + (truth.names == name).sum())
        assert reported["f1"] == pytest.approx(expected) and 0 < expected < 100
    for row, true_name in enumerate(scores["classes"]):
        for column, name in enumerate(scores["classes"]):
            expected = ((matched == name) & (of == true_name)).sum()
            assert scores["confusion"]["counts"][row][column] == expected
    assert scores["calibration"]["accuracy"] == pytest.approx((matched == of).mean())
    probs = np.stack([table[f"prob_{name}"] for name in slide.classes], 1).max(1)[pairs[:, 0]]
    assert scores["calibration"]["confidence"] == pytest.approx(probs.mean(), rel=1e-5)
    assert scores["calibration"]["error"] == pytest.approx(
        oracle.calibration_error(probs, matched == of), rel=1e-4
    )
    outlines, reported = slide.outlines[chosen], scores["outlines"]
    assert reported["any_class"]["pq"] == pytest.approx(
        oracle.panoptic(outlines, truth.shapes), rel=2e-3
    )
    for name, values in reported["by_class"].items():
        expected = oracle.panoptic(outlines[names == name], truth.shapes[truth.names == name])
        assert values["pq"] == pytest.approx(expected, rel=2e-3)
    assert reported["aji"] == pytest.approx(oracle.aji(outlines, truth.shapes), rel=2e-3)


def test_statistics_of_many_patients(patients):
    sheet = read_rows(patients / "slides.tsv")
    tables = {name: oracle.read_slide_table(patients / "patients" / name) for name in sheet}
    del tables["s090"]  # its scale is doubtful
    values = pd.DataFrame({name: oracle.measures(*table) for name, table in tables.items()}).T
    cases, grades = (
        np.array([sheet[name][column] for name in values.index]) for column in ("case", "grade")
    )
    means = values.groupby(cases).mean()
    grade = pd.Series(grades, cases).groupby(level=0).first()
    reported = pd.read_csv(patients / "statistics.patients.tsv", sep="\t", index_col="patient")
    assert len(reported) == N_PATIENTS - 1 and reported.loc["case 0", "n_slides"] == 3
    np.testing.assert_array_equal(reported["group"], grade[reported.index])
    rows = pd.read_csv(patients / "statistics.tsv", sep="\t", index_col="measure")
    assert set(rows.index) == set(means)
    for measure, row in rows.iterrows():
        assert_close(reported[measure], means.loc[reported.index, measure], rtol=1e-4, atol=2e-5)
        measured = means[measure].dropna()
        n = measured.groupby(grade[measured.index]).size()
        assert (row["first"], row["second"], row["n_first"], row["n_second"]) == (
            "high",
            "low",
            n["high"],
            n["low"],
        )
        if n.min() < 2:
            assert np.isnan(row[["effect", "low", "high", "p", "q"]].astype(float)).all()
            continue
        first, second, effect, p = oracle.compare(
            measured.to_numpy(), (grade[measured.index] == "low").to_numpy()
        )
        assert_close(row[["mean_first", "mean_second"]], [first, second], rtol=1e-4)
        assert (
            row["effect"] == pytest.approx(effect, rel=1e-3) and row["low"] < effect < row["high"]
        )
        assert row["p"] == pytest.approx(p, abs=0.03)
    assert rows["p"].isna().sum() == 1
    assert_close(rows["q"], oracle.adjust(rows["p"].to_numpy()), rtol=1e-3)


def test_anndata_of_many_patients(patients):
    sheet = read_rows(patients / "slides.tsv")
    with h5py.File(patients / "cohort.h5ad") as file:
        names = file["obs/_index"].asstr()[:]
        assert len(set(names)) == len(sheet)
        for column in ("case", "grade"):
            assert list(read_column(file, f"obs/{column}")) == [
                sheet[name][column] for name in names
            ]
        features, values = file["var/_index"].asstr()[:], file["X"][:]
    expected = pd.DataFrame(
        [oracle.measures(*oracle.read_slide_table(patients / "patients" / name)) for name in names]
    )
    assert set(features) == set(expected)
    assert_close(values, expected[features], rtol=1e-4)
