"""`muse evaluate` on a table, a folder and a sheet: how truth is found, printed scores, rejected
input.
"""

import json

import cv2
import numpy as np
import pytest
import shapely
from scored_slides import CLASSES, TRUTH, XY, draw_results, write_result

from muse_pipeline.cohort.patients import find_patients
from muse_pipeline.core.files import read_json
from muse_pipeline.evaluation.truth import pair_folder
from muse_pipeline.tissue.mask import TissueMask


@pytest.fixture
def cohort(tmp_path):
    """A folder with results of slides a, b and c, and truth of slides a, b and d."""
    draw_results(tmp_path)
    return tmp_path


def test_one_table(muse, tmp_path):
    path = write_result(tmp_path, "a")
    (tmp_path / "t.csv").write_text(TRUTH + "5000,1,Dark\n")
    out = muse.ok(f"evaluate {path} --truth {tmp_path / 't.csv'} --json {tmp_path / 's.json'}")
    for words in (
        "within 3 um",
        "mpp 0.25",
        "score cut 0.4 (the model's own)",
        "intervals: none, as there is one patient",
    ):
        assert words in out
    assert "a: 1 true nucleus lies outside the slide (first at x 5000, y 1)" in out
    scores = read_json(tmp_path / "s.json")
    assert scores["detection"]["f1"] == 75
    assert scores["detection"]["f1_interval"] is None
    assert [scores["by_class"][name]["f1"] for name in CLASSES] == [50, 50]
    assert scores["mean_class"]["f1"] == 50
    assert scores["confusion"]["counts"] == [[1, 0, 1], [1, 1, 0], [0, 1, 0]]
    assert scores["n_true"] == 4
    assert scores["outlines"] is None
    assert scores["rules"]["mpp"] == [[0.25, 0.25]]


def test_radius_and_score_cut_are_printed_and_kept_to(muse, tmp_path):
    path = write_result(tmp_path, "a")
    (tmp_path / "t.csv").write_text(TRUTH)
    arguments = f"evaluate {path} --truth {tmp_path / 't.csv'} --json {tmp_path / 's.json'}".split()
    _, out, _ = muse(*arguments, "--radius-um", "0.5", "--score", "0.7")
    assert "within 0.5 um; mpp 0.25; score cut 0.7\n" in out
    assert read_json(tmp_path / "s.json")["detection"]["true_positives"] == 1
    assert read_json(tmp_path / "s.json")["n_found"] == 2


def test_a_folder_names_what_it_cannot_score(muse, cohort):
    out = muse.ok(
        f"evaluate {cohort / 'results'} --truth {cohort / 'truth'} --json {cohort / 's.json'}"
    )
    assert "not scored, no truth: 1 slide\n" in out
    assert "not scored, no result: 1 slide (d)\n" in out
    assert (
        "bootstrap over 2 patients, fewer than 6: too few to rely on "
        "(each slide counts as a patient, since no patients are given)" in out
    )
    scores = read_json(cohort / "s.json")
    assert scores["not_scored"] == {
        "without_truth": ["c"],
        "without_result": ["d"],
        "beyond_sheet": [],
    }
    assert [slide["slide_id"] for slide in scores["slides"]] == ["a", "b"]
    assert scores["detection"]["true_positives"] == 6
    assert scores["detection"]["f1_interval"] == [75, 75]


def test_a_folder_of_regions_has_one_for_every_slide(muse, cohort):
    region = {
        "type": "Feature",
        "geometry": json.loads(shapely.to_geojson(shapely.box(50, 50, 250, 250))),
    }
    (cohort / "regions").mkdir()
    for name in ("a", "B"):
        (cohort / f"regions/{name}.geojson").write_text(json.dumps(region))
    call = (
        f"evaluate {cohort / 'results'} --truth {cohort / 'truth'} --region {cohort / 'regions'}"
    ).split()
    output = muse.fails(*call)
    assert "has no region of slide 'b', nor does its truth" in output
    (cohort / "regions/B.geojson").rename(cohort / "regions/b.geojson")
    muse.ok(*call)


def test_a_sheet_names_patients_truths_and_regions(muse, cohort):
    write_result(cohort / "results", "e")
    region = {
        "type": "Feature",
        "geometry": json.loads(shapely.to_geojson(shapely.box(50, 50, 250, 250))),
    }
    (cohort / "r.geojson").write_text(json.dumps(region))
    (cohort / "s.tsv").write_text(
        "slide_id\tpath\tpatient\ttruth\tregion\n"
        "a\ta.svs\tp1\ttruth/a.csv\tr.geojson\nb\tb.svs\tp1\ttruth/b.csv\t\n"
        "c\tc.svs\tp2\ttruth/d.csv\t\n"
    )
    out = muse.ok(
        f"evaluate {cohort / 'results'} --sheet {cohort / 's.tsv'} --json {cohort / 's.json'}"
    )
    assert "bootstrap over 2 patients, fewer than 6: too few to rely on (as in the sheet)" in out
    assert "not scored, not in the sheet: 1 slide\n" in out
    assert (
        "1 slide scored within annotated regions (0.0025 mm2); outside them, 2 found nuclei and 2"
        " true nuclei are set" in out
    )
    scores = read_json(cohort / "s.json")
    assert scores["slides"][0]["counts"][0] == [2, 0, 0]
    assert scores["n_patients"] == 2


def test_the_region_of_the_geojson_itself_and_quality_of_outlines(muse, tmp_path):
    """The region has two nuclei, one found exactly and one a sixth of its width off; two found
    nuclei lie outside.
    """
    path = write_result(tmp_path, "a", bounds={"x": 50, "y": 20, "width": 900, "height": 900})
    angles = 2 * np.pi * np.arange(32) / 32
    circle = 12 * np.stack([np.cos(angles), np.sin(angles)], -1)

    def detection(x, y, name):
        geometry = json.loads(
            shapely.to_geojson(shapely.Polygon(circle + np.array([x - 50, y - 20])))
        )
        return {
            "type": "Feature",
            "geometry": geometry,
            "properties": {"objectType": "detection", "classification": name},
        }

    region = {
        "type": "Feature",
        "geometry": json.loads(shapely.to_geojson(shapely.box(0, 0, 200, 200))),
        "properties": {"objectType": "annotation", "classification": {"name": "Region*"}},
    }
    features = [region, detection(100, 100, "Dark"), detection(204, 100, "Pale")]
    (tmp_path / "t.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": features})
    )
    out = muse.ok(f"evaluate {path} --truth {tmp_path / 't.geojson'} --json {tmp_path / 's.json'}")
    assert "2 found nuclei and 0 true nuclei are set aside" in out
    scores = read_json(tmp_path / "s.json")
    assert scores["detection"]["f1"] == 100
    polygon = shapely.Polygon(circle)
    moved = shapely.Polygon(circle + np.array([4, 0]))
    iou = polygon.intersection(moved).area / polygon.union(moved).area
    outlines = scores["outlines"]
    assert outlines["any_class"]["pq"] == pytest.approx((1 + iou) / 2, abs=0.01)
    assert outlines["mean_class"]["pq"] == pytest.approx((1 + iou) / 2, abs=0.01)
    shared = polygon.area + polygon.intersection(moved).area
    assert outlines["aji"] == pytest.approx(
        shared / (polygon.area + polygon.union(moved).area), abs=0.01
    )
    assert "mean class (mPQ)" in out


def write_drawn(path, *shapes):
    """Write GeoJSON with a region and, as ``shapes``, nuclei without a class."""
    features = [
        {
            "type": "Feature",
            "geometry": json.loads(shapely.to_geojson(shape)),
            "properties": {"classification": name},
        }
        for shape, name in (
            (shapely.box(0, 0, 900, 900), "Region*"),
            *((shape, None) for shape in shapes),
        )
    ]
    path.write_text(json.dumps(features))


@pytest.mark.parametrize(
    "nucleus, n_outlined", [(shapely.Point(100, 100).buffer(12), 2), (None, 0)]
)
def test_what_is_found_where_no_nucleus_is_counts_for_outlines(muse, tmp_path, nucleus, n_outlined):
    """Slide b has no true nuclei.

    Slide a has one: an outline, or only a point, for which outlines are not scored.
    """
    write_result(tmp_path / "results", "a", XY[:1], (0,))
    write_result(tmp_path / "results", "b")
    (tmp_path / "truth").mkdir()
    write_drawn(tmp_path / "truth/a.geojson", nucleus or shapely.Point(100, 100))
    write_drawn(tmp_path / "truth/b.geojson")
    out = muse.ok(
        f"evaluate {tmp_path / 'results'} --truth {tmp_path / 'truth'} --json {tmp_path / 's.json'}"
    )
    assert "b: the truth has no nucleus; is it the right file?" in out
    outlines = read_json(tmp_path / "s.json")["outlines"]
    assert ("PQ" in out) == bool(n_outlined)
    if not n_outlined:
        assert outlines is None
        return
    assert outlines["n_slides"] == n_outlined
    assert outlines["any_class"]["dq"] == pytest.approx(
        1 / 3
    )  # 1 match; 4 false nuclei on b count half each


def test_a_mask_must_be_of_the_slides_size(muse, tmp_path):
    path = write_result(tmp_path, "a", size_px=(500, 450))
    mask = np.zeros((450, 500), np.uint16)
    mask[88:112, 88:112] = 1
    cv2.imwrite(str(tmp_path / "t.png"), mask)
    out = muse.ok(f"evaluate {path} --truth {tmp_path / 't.png'}")
    assert "1 true" in out
    cv2.imwrite(str(tmp_path / "t.png"), mask[::2, ::2])
    status, out, errors = muse(f"evaluate {path} --truth {tmp_path / 't.png'}")
    assert (status, out) == (2, "")
    assert (
        "t.png: is 250 x 225 px, but level 0 of the slide is 500 x 450 px; give a mask of the whole"
        " slide" in errors
    )


def test_a_truth_without_classes_is_scored_for_detection_alone(muse, tmp_path):
    path = write_result(tmp_path, "a", size_px=None)
    (tmp_path / "t.csv").write_text("x,y,class\n100,100,\n")
    _, out, _ = muse(f"evaluate {path} --truth {tmp_path / 't.csv'} --json {tmp_path / 's.json'}")
    assert "the truth names no classes" in out
    assert read_json(tmp_path / "s.json")["by_class"] is None


def write_tissue(result, mask, mask_um=8.0):
    TissueMask(np.array(mask, bool), np.array([mask_um] * 2), None, 0.0).save(
        result.with_name("tissue.npz")
    )


def test_a_truth_that_means_other_positions_is_doubted(muse, tmp_path):
    path = write_result(tmp_path, "a")
    write_tissue(path, [[1] * 32] * 4 + [[0] * 32] * 28)  # tissue in the top 32 um only
    truth = tmp_path / "t.csv"
    truth.write_text(TRUTH)
    assert "level-0 pixels" not in muse(f"evaluate {path} --truth {truth}")[1]
    truth.write_text("x,y,class\n" + "".join(f"{y:.0f},{x:.0f},Dark\n" for x, y in XY))
    output = (
        "a: true nuclei in the searched tissue: 1 of 4; are they in level-0 pixels, x before y?"
    )
    assert output in muse(f"evaluate {path} --truth {truth}")[1]
    path.with_name("tissue.npz").unlink()
    truth.write_text("x,y,class\n" + "".join(f"{x / 4:.0f},{y / 4:.0f},Dark\n" for x, y in XY + 40))
    assert (
        "a: true nuclei found: 0 of 4; are they in level-0 pixels"
        in muse(f"evaluate {path} --truth {truth}")[1]
    )


def test_results_within_a_roi_ask_for_it_as_region(muse, tmp_path):
    path = write_result(
        tmp_path, "a", roi={"name": "core.geojson", "sha256": "ef", "area_mm2": 0.1}
    )
    write_tissue(path, [[0] * 32] * 32)
    (tmp_path / "t.csv").write_text(TRUTH)
    out = muse(f"evaluate {path} --truth {tmp_path / 't.csv'}")[1]
    assert "a: nuclei were detected only within core.geojson: give that as --region" in out
    assert "x before y" not in out


def test_scores_do_not_depend_on_a_mask_and_an_empty_truth_is_rejected(muse, tmp_path):
    path = write_result(tmp_path, "a")
    path.with_name("tissue.npz").write_text("no mask")
    (tmp_path / "t.csv").write_text(TRUTH)
    muse.ok(f"evaluate {path.parent} --truth {tmp_path / 't.csv'}")
    (tmp_path / "t.csv").write_text("x,y,class\n")
    write_drawn(tmp_path / "t.geojson")  # a region without nuclei
    for truth in ("t.csv", "t.geojson"):
        status, out, errors = muse(f"evaluate {path} --truth {tmp_path / truth}")
        assert (status, out) == (2, "")
        assert f"{truth}: holds no nucleus, so nothing can be scored; export all objects" in errors


def test_a_truth_of_a_part_of_the_slide_asks_for_its_region(muse, tmp_path):
    xy = np.array([(100, 100), *((2000 + 50 * i, 2000) for i in range(9))], float)
    path = write_result(tmp_path, "a", xy, [0] * 10, size_px=(3000, 3000))
    truth = tmp_path / "t.csv"
    truth.write_text("x,y,class\n100,100,Dark\n")
    assert (
        "a: 9 of 10 found nuclei lie farther than 100 um"
        in muse(f"evaluate {path} --truth {truth}")[1]
    )
    region = {
        "type": "Feature",
        "geometry": json.loads(shapely.to_geojson(shapely.box(0, 0, 500, 500))),
    }
    (tmp_path / "r.geojson").write_text(json.dumps(region))
    assert (
        "farther"
        not in muse(f"evaluate {path} --truth {truth} --region {tmp_path / 'r.geojson'}")[1]
    )


def test_a_truth_outside_the_slide_is_rejected_and_one_outside_the_region_has_its_classes(
    muse, tmp_path
):
    path = write_result(tmp_path, "a")
    truth = tmp_path / "t.csv"
    truth.write_text("x,y,class\n33106,32012,Dark\n-5,3,Pale\n")
    status, out, errors = muse(f"evaluate {path} --truth {truth}")
    assert (status, out) == (2, "")
    assert (
        "t.csv: no true nucleus lies on slide 'a' (the first at x 33106, y 32012); give the"
        " truth of" in errors
    )
    truth.write_text(TRUTH)
    region = {
        "type": "Feature",
        "geometry": json.loads(shapely.to_geojson(shapely.box(800, 800, 900, 900))),
    }
    (tmp_path / "r.geojson").write_text(json.dumps(region))
    out = muse(f"evaluate {path} --truth {truth} --region {tmp_path / 'r.geojson'}")[1]
    assert "names no classes" not in out
    assert "no true nucleus that counts has a class: only detection is scored" in out
    region["geometry"] = json.loads(shapely.to_geojson(shapely.box(1800, 800, 1900, 900)))
    (tmp_path / "r.geojson").write_text(json.dumps(region))
    status, out, errors = muse(f"evaluate {path} --truth {truth} --region {tmp_path / 'r.geojson'}")
    assert (status, out) == (
        2,
        "",
    ) and "r.geojson: its region is outside slide 'a'; give annotations of this" in errors


def test_patients_by_rule(cohort):
    pairing = pair_folder(cohort / "results", cohort / "truth", patient="^(.)")
    assert [pair.patient for pair in pairing.pairs] == ["a", "b"]
    names = ["TCGA-A7-A0D9-01Z", "TCGA-A7-A0D9-02Z"]
    patients, grouping = find_patients(names, {}, r"TCGA-..-....")
    assert set(patients.values()) == {"TCGA-A7-A0D9"}
    assert "--patient" in grouping
    rows = {names[0]: {"patient": "p"}, names[1]: {"patient": ""}}
    assert find_patients(names, rows, None) == (
        {names[0]: "p", names[1]: names[1]},
        "as in the sheet; 1 of 2 slides have none and each count as a patient",
    )


def test_exchanged_coordinates_are_rejected(muse, tmp_path):
    xy = np.random.default_rng(0).uniform(0, 1000, (40, 2)).round()
    path = write_result(tmp_path, "a", xy, [0] * 40)
    truth = tmp_path / "t.csv"
    truth.write_text("x,y,class\n" + "".join(f"{x:.0f},{y:.0f},Dark\n" for x, y in xy[:20]))
    muse.ok(f"evaluate {path} --truth {truth}")
    truth.write_text("x,y,class\n" + "".join(f"{y:.0f},{x:.0f},Dark\n" for x, y in xy[:20]))
    status, out, errors = muse(f"evaluate {path} --truth {truth}")
    assert (status, out, errors.count("\n")) == (2, "", 1)
    assert (
        "t.csv: 0% of its nuclei match found ones as they are, but 100% with x and y exchanged"
        in errors
    )
    few = [
        *xy[:6, ::-1],
        *((x, x) for x in xy[6:8, 0]),
    ]  # two of eight lie on found nuclei in either order of x and y
    path = write_result(tmp_path, "b", np.concatenate([xy, few[6:]]), [0] * 42)
    truth.write_text("x,y,class\n" + "".join(f"{x:.0f},{y:.0f},Dark\n" for x, y in few))
    status, out, errors = muse(f"evaluate {path} --truth {truth}")
    assert (status, out) == (
        2,
        "",
    ) and "t.csv: 25% of its nuclei match found ones as they are, but 100%" in errors
    truth.write_text(
        "x,y,class\n" + "".join(f"{x:.0f},{y:.0f},Dark\n" for x, y in (*xy[:2], *xy[2:6, ::-1]))
    )
    muse.ok(f"evaluate {path} --truth {truth}")  # neither order of x and y fits all nuclei


def test_unknown_classes_of_all_slides_are_listed_at_once(muse, cohort):
    for name, words in {
        "a": ("Dark", "tumour", "debris"),
        "b": ("mitosis", "debris", "pale"),
    }.items():
        rows = "".join(f"{x:.0f},{y:.0f},{word}\n" for (x, y), word in zip(XY, words, strict=False))
        (cohort / f"truth/{name}.csv").write_text(f"x,y,class\n{rows}")
    errors = muse.fails(f"evaluate {cohort / 'results'} --truth {cohort / 'truth'}")
    assert "a.csv, line 3: class 'tumour'" in errors
    assert errors.endswith("; also unknown: 'debris', 'mitosis'\n")


def test_a_class_map_gives_classes_of_the_truth_those_of_the_model(muse, tmp_path):
    path = write_result(tmp_path, "a")  # classes: Dark, Pale, Dark, Pale
    truth = tmp_path / "t.csv"
    words = "tumour", "round: Positive", "round", "debris"
    truth.write_text(
        "x,y,class\n"
        + "".join(f"{x:.0f},{y:.0f},{word}\n" for (x, y), word in zip(XY, words, strict=True))
    )
    call = f"evaluate {path} --truth {truth} --json {tmp_path / 's.json'} --class-map".split()
    mapped = truth.read_text()
    truth.write_text(mapped.replace("tumour", "Dark"))  # a class of the model needs no entry
    muse.ok(*call, "round=Pale,Dark", "debris=null")
    assert read_json(tmp_path / "s.json")["confusion"]["counts"] == [[2, 0, 0], [0, 1, 0], [0] * 3]
    truth.write_text(mapped)
    muse.ok(*call, "tumour=Dark", "round=Pale,Dark", "debris=null")
    scores = read_json(tmp_path / "s.json")
    assert [scores["by_class"][name]["f1"] for name in CLASSES] == [100, 100]
    assert scores["confusion"]["counts"] == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]
    assert (scores["n_true"], scores["n_true_of_unknown_class"]) == (4, 1)
    assert scores["rules"]["class_map"] == {
        "tumour": ["Dark"],
        "round": ["Pale", "Dark"],
        "debris": None,
    }
    muse.ok(*call, "tumour=Dark", "round=Pale", "debris=")
    assert read_json(tmp_path / "s.json")["confusion"]["counts"] == [
        [1, 0, 0],
        [1, 1, 0],
        [0, 0, 0],
    ]
    muse.ok(*call, "Tumour=dark", "ROUND=pale,DARK", "debris=null")
    assert read_json(tmp_path / "s.json")["confusion"]["counts"] == [
        [2, 0, 0],
        [0, 1, 0],
        [0, 0, 0],
    ]
    for words, message in {
        ("tumour=Dark",): (
            "line 3: class 'round: Positive' is not in class_map (tumour); add it to class_map or"
            " correct it; also unknown: 'round', 'debris'\n"
        ),
        ("tumour=Grey",): (
            "line 2: class_map maps 'tumour' to 'Grey', which is not a class of the model (Dark,"
            " Pale)"
        ),
        ("tumour",): "--class-map tumour: give WORD=CLASS",
    }.items():
        assert message in muse.fails(*call, *words)
    errors = muse.fails(*call[:-1])
    assert "class 'tumour' is not one of the model's (Dark, Pale)" in errors
    assert errors.endswith("; also unknown: 'round: Positive', 'round', 'debris'\n")
    truth.write_text("x,y,class\n100,100,Dark: Positive\n")
    muse.ok(*call[:-1])
    assert read_json(tmp_path / "s.json")["by_class"]["Dark"]["true_positives"] == 1
