"""`muse evaluate` on a table, a folder and a sheet: how truth is found, printed scores, rejected
input.
"""

import cv2
import numpy as np
import pytest
from drawn_shapes import feature, write_features
from scored_slides import CLASSES, TRUTH, XY, draw_results, write_result
from shapely.geometry import Point, box

from muse_pipeline.cohort.patients import find_patients
from muse_pipeline.core.files import read_json
from muse_pipeline.evaluation.truth import pair_folder
from muse_pipeline.tissue.mask import TissueMask


@pytest.fixture
def cohort(tmp_path):
    """A folder with results of slides a, b and c, and truth of slides a, b and d."""
    draw_results(tmp_path)
    return tmp_path


@pytest.fixture
def result(tmp_path):
    """The table of nuclei of slide a."""
    return write_result(tmp_path, "a")


@pytest.fixture
def evaluate(muse, tmp_path):
    """A function that scores results with `muse evaluate`; it returns what is printed, and the
    scores.
    """

    def run(results, truth, *words):
        words = f"--truth {truth} --json {tmp_path / 's.json'}".split() + list(words)
        return muse.ok(f"evaluate {results}", *words), read_json(tmp_path / "s.json")

    return run


@pytest.fixture
def truth(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(TRUTH)
    return path


def write_points(path, xy, names=None):
    rows = zip(xy, names or ["Dark"] * len(xy), strict=True)
    path.write_text("x,y,class\n" + "".join(f"{x:.0f},{y:.0f},{name}\n" for (x, y), name in rows))


def write_region(path, *corners):
    return write_features(path, feature(box(*corners)))


def test_one_table(evaluate, result, truth):
    truth.write_text(TRUTH + "5000,1,Dark\n")
    out, scores = evaluate(result, truth)
    for words in (
        "within 3 um",
        "mpp 0.25",
        "score cut 0.4 (the model's own)",
        "intervals: none, as there is one patient",
        "a: 1 true nucleus lies outside the slide (first at x 5000, y 1)",
    ):
        assert words in out
    assert (scores["detection"]["f1"], scores["detection"]["f1_interval"]) == (75, None)
    assert [scores["by_class"][name]["f1"] for name in CLASSES] == [50, 50]
    assert scores["mean_class"]["f1"] == 50
    assert scores["confusion"]["counts"] == [[1, 0, 1], [1, 1, 0], [0, 1, 0]]
    assert (scores["n_true"], scores["outlines"]) == (4, None)
    assert scores["rules"]["mpp"] == [[0.25, 0.25]]


def test_radius_and_score_cut_are_printed_and_kept_to(evaluate, result, truth):
    out, scores = evaluate(result, truth, "--radius-um", "0.5", "--score", "0.7")
    assert "within 0.5 um; mpp 0.25; score cut 0.7\n" in out
    assert (scores["detection"]["true_positives"], scores["n_found"]) == (1, 2)


def test_a_folder_names_what_it_cannot_score(evaluate, cohort):
    out, scores = evaluate(cohort / "results", cohort / "truth")
    assert "not scored, no truth: 1 slide\n" in out
    assert "not scored, no result: 1 slide (d)\n" in out
    assert (
        "bootstrap over 2 patients, fewer than 6: too few to rely on "
        "(each slide counts as a patient, since no patients are given)" in out
    )
    not_scored = {"without_truth": ["c"], "without_result": ["d"], "beyond_sheet": []}
    assert scores["not_scored"] == not_scored
    assert [slide["slide_id"] for slide in scores["slides"]] == ["a", "b"]
    assert scores["detection"]["true_positives"] == 6
    assert scores["detection"]["f1_interval"] == [75, 75]


def test_a_folder_of_regions_has_one_for_every_slide(muse, cohort):
    (cohort / "regions").mkdir()
    for name in ("a", "B"):
        write_region(cohort / f"regions/{name}.geojson", 50, 50, 250, 250)
    call = f"evaluate {cohort}/results --truth {cohort}/truth --region {cohort}/regions"
    assert "has no region of slide 'b', nor does its truth" in muse.fails(call)
    (cohort / "regions/B.geojson").rename(cohort / "regions/b.geojson")
    muse.ok(call)


def test_a_sheet_names_patients_truths_and_regions(muse, cohort):
    write_result(cohort / "results", "e")
    write_region(cohort / "r.geojson", 50, 50, 250, 250)
    (cohort / "s.tsv").write_text(
        "slide_id\tpath\tpatient\ttruth\tregion\n"
        "a\ta.svs\tp1\ttruth/a.csv\tr.geojson\nb\tb.svs\tp1\ttruth/b.csv\t\n"
        "c\tc.svs\tp2\ttruth/d.csv\t\n"
    )
    out = muse.ok(f"evaluate {cohort}/results --sheet {cohort}/s.tsv --json {cohort}/s.json")
    assert "bootstrap over 2 patients, fewer than 6: too few to rely on (as in the sheet)" in out
    assert "not scored, not in the sheet: 1 slide\n" in out
    assert (
        "1 slide scored within annotated regions (0.0025 mm2); outside them, 2 found nuclei and 2"
        " true nuclei are set" in out
    )
    scores = read_json(cohort / "s.json")
    assert scores["slides"][0]["counts"][0] == [2, 0, 0]
    assert scores["n_patients"] == 2


def test_the_region_of_the_geojson_itself_and_quality_of_outlines(evaluate, tmp_path):
    """The region has two nuclei, one found exactly and one a sixth of its width off; two found
    nuclei lie outside.
    """
    path = write_result(tmp_path, "a", bounds={"x": 50, "y": 20, "width": 900, "height": 900})
    drawn = write_features(
        tmp_path / "t.geojson",
        feature(box(0, 0, 200, 200), "Region*"),
        feature(Point(50, 80).buffer(12, 8), "Dark", "detection"),
        feature(Point(154, 80).buffer(12, 8), "Pale", "detection"),
    )
    out, scores = evaluate(path, drawn)
    assert "2 found nuclei and 0 true nuclei are set aside" in out and "mean class (mPQ)" in out
    assert scores["detection"]["f1"] == 100
    polygon, moved = (Point(x, 0).buffer(12, 8) for x in (0, 4))
    iou = polygon.intersection(moved).area / polygon.union(moved).area
    outlines = scores["outlines"]
    for kind in ("any_class", "mean_class"):
        assert outlines[kind]["pq"] == pytest.approx((1 + iou) / 2, abs=0.01)


@pytest.mark.parametrize("nucleus, n_outlined", [(Point(100, 100).buffer(12), 2), (None, 0)])
def test_what_is_found_where_no_nucleus_is_counts_for_outlines(
    evaluate, tmp_path, nucleus, n_outlined
):
    """Slide b has no true nuclei.

    Slide a has one: an outline, or only a point, for which outlines are not scored.
    """
    write_result(tmp_path / "results", "a", XY[:1], (0,))
    write_result(tmp_path / "results", "b")
    (tmp_path / "truth").mkdir()
    region = feature(box(0, 0, 900, 900), "Region*")
    drawn = feature(nucleus or Point(100, 100))
    write_features(tmp_path / "truth/a.geojson", region, drawn)
    write_features(tmp_path / "truth/b.geojson", region)
    out, scores = evaluate(tmp_path / "results", tmp_path / "truth")
    assert "b: the truth has no nucleus; is it the right file?" in out
    outlines = scores["outlines"]
    assert ("PQ" in out) == bool(outlines) == bool(n_outlined)
    if n_outlined:
        assert outlines["n_slides"] == n_outlined
        # 1 match; 4 false nuclei on b count half each
        assert outlines["any_class"]["dq"] == pytest.approx(1 / 3)


def test_a_mask_must_be_of_the_slides_size(muse, tmp_path):
    call = f"evaluate {write_result(tmp_path, 'a', size_px=(500, 450))} --truth {tmp_path}/t.png"
    mask = np.zeros((450, 500), np.uint16)
    mask[88:112, 88:112] = 1
    cv2.imwrite(str(tmp_path / "t.png"), mask)
    assert "1 true" in muse.ok(call)
    cv2.imwrite(str(tmp_path / "t.png"), mask[::2, ::2])
    assert (
        "t.png: is 250 x 225 px, but level 0 of the slide is 500 x 450 px; give a mask of the whole"
        " slide" in muse.fails(call)
    )


def test_a_truth_without_classes_is_scored_for_detection_alone(evaluate, tmp_path, truth):
    truth.write_text("x,y,class\n100,100,\n")
    out, scores = evaluate(write_result(tmp_path, "a", size_px=None), truth)
    assert "the truth names no classes" in out
    assert scores["by_class"] is None


def write_tissue(result, n_rows):
    """Write a mask of 256 x 256 um, with tissue in the first ``n_rows`` of 8 um."""
    mask = np.arange(32)[:, None] < np.full(32, n_rows)
    TissueMask(mask, np.array([8.0, 8.0]), None, 0.0).save(result.with_name("tissue.npz"))


def test_a_truth_that_means_other_positions_is_doubted(evaluate, result, truth):
    write_tissue(result, 4)
    assert "level-0 pixels" not in evaluate(result, truth)[0]
    write_points(truth, XY[:, ::-1])
    doubt = "a: true nuclei in the searched tissue: 1 of 4; are they in level-0 pixels, x before y?"
    assert doubt in evaluate(result, truth)[0]
    result.with_name("tissue.npz").unlink()
    write_points(truth, (XY + 40) / 4)
    doubt = "a: true nuclei found: 0 of 4; are they in level-0 pixels"
    assert doubt in evaluate(result, truth)[0]


def test_results_within_a_roi_ask_for_it_as_region(evaluate, tmp_path, truth):
    roi = {"name": "core.geojson", "sha256": "ef", "area_mm2": 0.1}
    path = write_result(tmp_path, "a", roi=roi)
    write_tissue(path, 0)
    out, _ = evaluate(path, truth)
    assert "a: nuclei were detected only within core.geojson: give that as --region" in out
    assert "x before y" not in out


def test_scores_do_not_depend_on_a_mask_and_an_empty_truth_is_rejected(muse, result, truth):
    result.with_name("tissue.npz").write_text("no mask")
    muse.ok(f"evaluate {result.parent} --truth {truth}")
    truth.write_text("x,y,class\n")
    region = write_features(truth.with_name("t.geojson"), feature(box(0, 0, 900, 900), "Region*"))
    for path in (truth, region):
        errors = muse.fails(f"evaluate {result} --truth {path}")
        message = "holds no nucleus, so nothing can be scored; export all objects"
        assert f"{path.name}: {message}" in errors


def test_a_truth_of_a_part_of_the_slide_asks_for_its_region(evaluate, tmp_path, truth):
    xy = np.array([(100, 100), *((2000 + 50 * i, 2000) for i in range(9))], float)
    path = write_result(tmp_path, "a", xy, [0] * 10, size_px=(3000, 3000))
    write_points(truth, xy[:1])
    assert "a: 9 of 10 found nuclei lie farther than 100 um" in evaluate(path, truth)[0]
    region = write_region(tmp_path / "r.geojson", 0, 0, 500, 500)
    assert "farther" not in evaluate(path, truth, "--region", str(region))[0]


def test_a_truth_outside_the_slide_is_rejected_and_one_outside_the_region_has_its_classes(
    muse, result, truth, tmp_path
):
    truth.write_text("x,y,class\n33106,32012,Dark\n-5,3,Pale\n")
    assert (
        "t.csv: no true nucleus lies on slide 'a' (the first at x 33106, y 32012); give the"
        " truth of" in muse.fails(f"evaluate {result} --truth {truth}")
    )
    truth.write_text(TRUTH)
    region = write_region(tmp_path / "r.geojson", 800, 800, 900, 900)
    call = f"evaluate {result} --truth {truth} --region {region}"
    out = muse.ok(call)
    assert "names no classes" not in out
    assert "no true nucleus that counts has a class: only detection is scored" in out
    write_region(region, 1800, 800, 1900, 900)
    message = "r.geojson: its region is outside slide 'a'; give annotations of this"
    assert message in muse.fails(call)


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


def test_exchanged_coordinates_are_rejected(muse, tmp_path, truth):
    xy = np.random.default_rng(0).uniform(0, 1000, (40, 2)).round()
    # two of eight lie on found nuclei in either order of x and y
    few = np.concatenate([xy[:6, ::-1], xy[6:8, [0, 0]]])
    path = write_result(tmp_path, "a", np.concatenate([xy, few[6:]]), [0] * 42)
    call = f"evaluate {path} --truth {truth}"
    for positions, n_percent in ((xy[:20, ::-1], 0), (few, 25)):
        write_points(truth, positions)
        assert (
            f"t.csv: {n_percent}% of its nuclei match found ones as they are, but 100% with x and"
            " y exchanged" in muse.fails(call)
        )
    # neither order of x and y fits all nuclei of the second truth
    for positions in (xy[:20], np.concatenate([xy[:2], xy[2:6, ::-1]])):
        write_points(truth, positions)
        muse.ok(call)


def test_unknown_classes_of_all_slides_are_listed_at_once(muse, cohort):
    write_points(cohort / "truth/a.csv", XY[:3], ["Dark", "tumour", "debris"])
    write_points(cohort / "truth/b.csv", XY[:3], ["mitosis", "debris", "pale"])
    errors = muse.fails(f"evaluate {cohort}/results --truth {cohort}/truth")
    assert "a.csv, line 3: class 'tumour'" in errors
    assert errors.endswith("; also unknown: 'debris', 'mitosis'\n")


def test_a_class_map_gives_classes_of_the_truth_those_of_the_model(muse, evaluate, result, truth):
    words = ["tumour", "round: Positive", "round", "debris"]
    # a class of the model needs no entry
    write_points(truth, XY, ["Dark", *words[1:]])
    _, scores = evaluate(result, truth, "--class-map", "round=Pale,Dark", "debris=null")
    assert scores["confusion"]["counts"] == [[2, 0, 0], [0, 1, 0], [0] * 3]
    write_points(truth, XY, words)
    for one_to_many in ("tumour=Dark round=Pale,Dark", "Tumour=dark ROUND=pale,DARK"):
        classes = [*one_to_many.split(), "debris=null"]
        _, scores = evaluate(result, truth, "--class-map", *classes)
        assert [scores["by_class"][name]["f1"] for name in CLASSES] == [100, 100]
        assert scores["confusion"]["counts"] == [[2, 0, 0], [0, 1, 0], [0, 0, 0]]
        assert (scores["n_true"], scores["n_true_of_unknown_class"]) == (4, 1)
    _, scores = evaluate(result, truth, "--class-map", "tumour=Dark", "round=Pale", "debris=")
    assert scores["confusion"]["counts"] == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert scores["rules"]["class_map"] == {"tumour": ["Dark"], "round": ["Pale"], "debris": None}
    call = f"evaluate {result} --truth {truth}"
    for classes, message in {
        "tumour=Dark": (
            "line 3: class 'round: Positive' is not in class_map (tumour); add it to class_map or"
            " correct it; also unknown: 'round', 'debris'\n"
        ),
        "tumour=Grey": "line 2: class_map maps 'tumour' to 'Grey', which is not a class of the",
        "tumour": "--class-map tumour: give WORD=CLASS",
    }.items():
        assert message in muse.fails(call, "--class-map", classes)
    write_points(truth, XY[:1], ["Dark: Positive"])
    assert evaluate(result, truth)[1]["by_class"]["Dark"]["true_positives"] == 1
