import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from finished_slide import (
    CLASSES,
    GLASS,
    HOSTILE,
    MODEL,
    draw_tissue,
    row,
    slide_path,
    write_ledger,
    write_slide,
)

from muse_pipeline.cohort.ledgers import STEPS
from muse_pipeline.cohort.sheet import read_resolved
from muse_pipeline.core.files import read_json, read_tsv, write_json
from muse_pipeline.core.provenance import Roi
from muse_pipeline.inference.doubts import BROWN_NUCLEI
from muse_pipeline.inference.trust import find_repeats, judge
from muse_pipeline.report.album import Album
from muse_pipeline.report.cohort import (
    counted,
    describe_total,
    gather_cohort,
    judge_slide,
    summarise_cohort,
)
from muse_pipeline.report.html import render
from muse_pipeline.report.notices import rank_slides, summarise_flags
from muse_pipeline.report.page import write_page
from muse_pipeline.report.slide_card import describe_card
from muse_pipeline.report.tables import write_table


@pytest.fixture(scope="module")
def slides(cohort):
    results, sheet = cohort
    return {slide.slide_id: slide for slide in gather_cohort(results, read_resolved(sheet))}


def test_every_slide_is_judged_in_the_order_of_the_sheet(slides):
    assert {name: slide.status for name, slide in slides.items()} == {
        "good": "ok",
        "with gaps": "partial",
        HOSTILE: "failed",
        "noise": "failed",
    }
    assert summarise_cohort(list(slides.values())) == "4 slides: 1 ok, 1 partial, 2 failed"


def test_gaps_are_named(slides):
    reason = slides["with gaps"].reason
    assert reason.startswith(
        "2 windows held more nuclei than the model can return, in QuPath pixels (1024 x 1024 at"
        " 0, 0;"
    )
    assert "could not be decoded, in QuPath pixels (1024 x 1024 at 1024, 1024" in reason


def test_positions_are_given_as_qupath_counts_them(cohort, tmp_path):
    folder = shutil.copytree(cohort[0] / "with gaps", tmp_path / "with gaps")
    plain = judge_slide(tmp_path, row("with gaps"))
    info = read_json(folder / "slide.json")
    write_json(
        folder / "slide.json",
        {**info, "bounds": {"x": 100, "y": 30, "width": 2000, "height": 1500}},
    )
    bounded = judge_slide(tmp_path, row("with gaps"))
    assert "1024 x 1024 at 0, 0;" in plain.reason and "1024 x 1024 at -100, -30;" in bounded.reason
    assert "1024 x 1024 at 924, 994" in bounded.reason
    middles = []
    for slide in (plain, bounded):
        content = describe_card(
            rank_slides([slide])[0], Album(tmp_path / "report.html", embedded=False)
        )
        card = render("slide_card.html", card=content)
        named = re.findall(r"around QuPath pixel (-?\d+), (-?\d+)", card)
        middles.append(np.array(list(dict.fromkeys(named)), int))
    corners = np.array([field["xy_level0"] for field in plain.summary["fields"]])
    assert middles[0].tolist() == (corners + 256 / 2 / 0.25).tolist()
    assert (middles[0] - middles[1] == (100, 30)).all()


def test_a_failed_slide_names_step_and_reason_and_shows_no_nuclei(slides):
    failed = slides[HOSTILE]
    assert (failed.step, failed.reason) == (
        "detect",
        "model </script><b>: has no card; export it again",
    )
    assert (failed.n_nuclei, failed.summary) == (None, None)


def test_warnings_of_slide_and_colour_are_gathered(slides):
    assert slides["good"].warnings == ["the pixel is <odd>", "few stained pixels"]


def test_no_tissue_is_a_finished_slide(tmp_path):
    glass = np.full((600, 700, 3), GLASS, np.uint8), np.zeros((0, 2)), np.zeros(0, np.int32)
    write_slide(tmp_path, "glass", glass)
    slide = judge_slide(tmp_path, row("glass"))
    assert (slide.status, slide.n_nuclei, slide.tissue_mm2) == ("empty", 0, 0.0)
    assert slide.reason == "no tissue was found; see tissue.png"


def test_the_table_passes_on_what_the_sheet_states_of_a_slide(tmp_path):
    one, two = row("one", patient="P 1", split="test"), row("two", patient=None)
    write_table([judge_slide(tmp_path, each) for each in (one, two)], tmp_path / "cohort.tsv")
    rows = read_tsv(tmp_path / "cohort.tsv")
    assert [(each["patient"], each["split"]) for each in rows] == [("P 1", "test"), ("", "")]


def test_a_slide_without_a_record_never_started(tmp_path):
    slide = judge_slide(tmp_path, row("one"))
    assert (slide.status, slide.step, slide.reason) == (
        "failed",
        "inspect",
        "not started; run the workflow again",
    )


def test_old_results_do_not_hide_a_new_failure(slide_folder):
    write_ledger(
        slide_folder, "tile", "failed", "3 % of the tissue cannot be decoded; copy the slide again"
    )
    slide = judge_slide(slide_folder.parent, row("one"))
    assert (slide.status, slide.step, slide.n_nuclei) == ("failed", "tile", None)


def test_good_records_do_not_replace_the_result(slide_folder):
    (slide_folder / "nuclei.geojson.gz").unlink()
    slide = judge_slide(slide_folder.parent, row("one"))
    assert (slide.status, slide.step) == ("failed", "geojson")


@pytest.mark.parametrize(
    "output, reason",
    [
        ({"fingerprint": "another"}, "in a different version of the slide's file"),
        (
            {"slide_mpp": [1.0, 1.0]},
            "were found at a different mpp of the slide; run the workflow again",
        ),
        (
            {"tissue_sha256": "another"},
            "a different tissue mask or region of interest; run the workflow again",
        ),
    ],
)
def test_nuclei_of_before_an_interrupted_change_are_rejected(slide_folder, output, reason):
    """An interrupted run with a different mpp or ROI leaves a new tissue mask next to old
    nuclei.
    """
    judge_slide(slide_folder.parent, row("one"))
    summary = read_json(slide_folder / "summary.json")
    write_json(
        slide_folder / "summary.json",
        {**summary, "provenance": {**summary["provenance"], **output}},
    )
    slide = judge_slide(slide_folder.parent, row("one"))
    write_json(slide_folder / "summary.json", summary)
    assert (slide.status, slide.n_nuclei) == ("failed", None)
    assert reason in slide.reason


def test_results_of_another_slide_are_rejected(slide_folder):
    slide = judge_slide(slide_folder.parent, row("one", path="/slides/two.svs"))
    assert slide.status == "failed"
    assert "/slides/one.svs" in slide.reason
    assert "/slides/two.svs" in slide.reason


@pytest.mark.parametrize(
    "name", ["nuclei.parquet", "tissue.npz", "slide.json", "image-500nm.zarr/zarr.json"]
)
def test_one_unreadable_file_costs_one_slide(slide_folder, name):
    (slide_folder / name).write_bytes(b"of another format")
    slide = judge_slide(slide_folder.parent, row("one"))
    assert (slide.status, slide.step) == ("failed", "report")
    assert "run the workflow again" in slide.reason


def test_table_reads_back_with_stable_columns(slides, tmp_path):
    write_table(list(slides.values()), tmp_path / "cohort.tsv")
    rows = read_tsv(tmp_path / "cohort.tsv")
    assert [each["slide_id"] for each in rows] == list(slides)
    expected = (
        "slide_id status step reason appearance warnings left_out marked path patient split organ "
        "stain mpp_x mpp_y model model_sha256 roi tissue_mm2 nuclei nuclei_per_mm2 n_positive "
        "n_negative percent_positive median_area_um2 mean_class_probability"
    )
    names = [
        f"{quantity}_{name}"
        for quantity in ("nuclei", "percent", "nuclei_per_mm2")
        for name in CLASSES
    ]
    quantities = "seconds", "processor_seconds", "peak_memory_mib"
    names += [f"{quantity}_{step}" for quantity in quantities for step in STEPS]
    assert " ".join(rows[0]) == " ".join([expected, *names])
    good, failed = rows[0], rows[2]
    assert (
        int(good["nuclei"])
        == slides["good"].n_nuclei
        == sum(int(good[f"nuclei_{name}"]) for name in CLASSES)
    )
    assert (good["n_positive"], good["median_area_um2"], good["mean_class_probability"]) == (
        "",
        "30.5",
        "0.91",
    )
    assert (failed["nuclei"], failed["seconds_detect"], failed["seconds_stitch"]) == ("", "3.0", "")
    assert failed["step"] == "detect"
    assert (good["model"], good["model_sha256"], failed["model"]) == (
        "compact",
        MODEL["sha256"],
        "",
    )


BROWN = BROWN_NUCLEI
DARK = "dark background: not bright-field"


@pytest.fixture(scope="module")
def flagged_slides(tmp_path_factory):
    """Three slides: one like the training pictures, one with a different stain, and one that is not
    bright-field.
    """
    results = tmp_path_factory.mktemp("flagged")
    glass = np.full((300, 300, 3), GLASS, np.uint8), np.zeros((0, 2)), np.zeros(0, np.int32)
    tissue = draw_tissue()
    for name, drawing, reasons in (
        ("like", tissue, []),
        ("brown", tissue, [BROWN]),
        ("dark", glass, [DARK]),
    ):
        verdict = {"verdict": "other stain" if reasons else "ok", "reasons": reasons}
        write_slide(
            results,
            name,
            drawing,
            appearance=verdict,
            positive=tissue[2] == 1 if name == "brown" else None,
        )
    return [judge_slide(results, row(name)) for name in ("like", "brown", "dark")]


def test_a_dark_slide_states_why_there_is_nothing_in_it(flagged_slides):
    dark = flagged_slides[2]
    assert (dark.status, dark.n_nuclei) == ("empty", 0)
    assert dark.reason == f"{DARK}; it was not analysed"


def test_appearance_and_stain_are_in_the_table(flagged_slides, tmp_path):
    write_table(flagged_slides, tmp_path / "cohort.tsv")
    rows = read_tsv(tmp_path / "cohort.tsv")
    assert [(each["appearance"], each["stain"]) for each in rows] == [
        ("ok", "H&E"),
        ("other stain", "IHC"),
        ("other stain", ""),
    ]
    assert summarise_flags([replace(flagged_slides[0], organ="breast")]) == []


def test_slides_of_the_same_content_are_in_the_closing_lines(slides):
    provenance = slides["good"].provenance
    rois = [None, None, *(Roi(f"{name}.geojson", name, 1.0) for name in "121")]
    names = ("good", "again", "A-1", "A-2", "twin")
    trusts = {
        name: judge(replace(provenance, roi=roi)) for name, roi in zip(names, rois, strict=True)
    }
    wrong = trusts["again"].add("scale", "nuclei too small")
    reasons = {"good": "same picture as again", "twin": "same picture as A-1"}
    assert find_repeats(trusts) == reasons
    # The picture counts where its numbers may be used.
    assert find_repeats(trusts | {"again": wrong}) == {"twin": "same picture as A-1"}
    good = slides["good"]
    both = [good, replace(good, slide_id="again", found={"same": "same picture as good"})]
    assert summarise_flags(both)[1] == "  again: same picture as good; its nuclei are in no total"
    assert describe_total(both).startswith(f"{good.n_nuclei} nuclei of 1 slide; 1 slide left out: ")


def test_one_picture_under_two_names_counts_once(tmp_path):
    write_slide(tmp_path, "1")
    shutil.copytree(tmp_path / "1", tmp_path / "A_1")
    rows = [row("1"), row("A_1", path=slide_path("1"))]
    first, second = gather_cohort(tmp_path, rows)
    assert counted([first, second]) == [first] and second.status == "ok"
    assert second.trust.left_out("nuclei") == "same picture twice"
    kept = gather_cohort(tmp_path, rows, included=["same"])
    assert len(counted(kept)) == 2


def test_what_different_models_found_is_not_added_up(slide_folder, tmp_path):
    other = {"name": "compact", "sha256": "fedcba9876543210" * 4}
    write_slide(slide_folder.parent, "two", model=other)
    both = [judge_slide(slide_folder.parent, row(name)) for name in ("one", "two")]
    write_page(both, tmp_path / "report.html")
    text = re.sub("<abbr.*?</abbr>", "", (tmp_path / "report.html").read_text(encoding="utf-8"))
    head, _, attention = text.partition("All slides")[0].partition('<section class="attention')
    output = (
        "whose numbers may not be comparable: compact (01234567), 1 slide; compact (fedcba98), 1"
        " slide"
    )
    assert output in attention
    assert head.count('<div class="classes">') == 2
    for slide, model in zip(both, ("compact (01234567)", "compact (fedcba98)"), strict=True):
        assert f"<dt>Nuclei, {model}, 1 slide</dt><dd>{slide.n_nuclei:,}</dd>" in head
        assert f"<dt>Density, {model}, 1 slide</dt>" in head
    write_page(both[:1], tmp_path / "one.html")
    text = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert "different models" not in text and "(01234567)" not in text
