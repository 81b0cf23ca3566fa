"""Notices: red for slides that must not be used as they are, amber for slides to be checked before
use.
"""

import re
from dataclasses import replace
from html import unescape

import pytest
from finished_slide import draw_tissue, row, write_slide

from muse_pipeline.core.files import read_tsv, write_json
from muse_pipeline.core.provenance import DARK, NO_BROWN, STATED_IHC
from muse_pipeline.inference.doubts import BROWN_NUCLEI
from muse_pipeline.report.cohort import counted, describe_total, gather_cohort
from muse_pipeline.report.notices import (
    find_notices,
    rank_slides,
    summarise_flags,
)
from muse_pipeline.report.page import MOST_LINES, write_page, write_report
from muse_pipeline.report.slide_card import describe_use
from muse_pipeline.report.tables import write_table
from muse_pipeline.slides.mpp import MppCandidate, choose_mpp
from muse_pipeline.tissue.find import DOUBT as TISSUE_DOUBT

CLASS_DOUBT = 'check the classes: nuclei of the class "Lymphocyte" are too large for it'
DOUBT = "check the pixel size, 0.25 um: the nuclei are too small for it (median area 11.9 um2)"
BROWN = {"verdict": "other stain", "reasons": [BROWN_NUCLEI]}
STATED = {"verdict": "other stain", "reasons": [STATED_IHC]}
DOUBTED = {"verdict": "other stain", "reasons": [STATED_IHC, NO_BROWN]}
DARK_SLIDE = {"verdict": "other stain", "reasons": [DARK]}
PALE = {"verdict": "flagged", "reasons": ["stains unlike those of training: tissue paler"]}
MPP = "the mpp, 0.25 um as given, overrides 0.5 um from openslide.mpp-x"


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    results = tmp_path_factory.mktemp("notices")
    small = draw_tissue((600, 500), 100)
    kinds = {
        "plain": {},
        "pale": {"appearance": PALE},
        "given": {"warnings": [MPP]},
        "swollen": {"class_doubt": CLASS_DOUBT},
        "small": {"doubt": DOUBT},
        "small and given": {"doubt": DOUBT, "warnings": [MPP]},
        "brown": {"appearance": BROWN, "positive": small[2] == 1},
        "stated": {"appearance": STATED, "positive": small[2] == 1},
        "pink": {"appearance": DOUBTED, "positive": small[2] == 1},
        "dark": {"appearance": DARK_SLIDE},
        "gaps": {"full_windows": [0]},
        "pen": {"colour_warnings": [f"{TISSUE_DOUBT}99% of it has the colour of a pen"]},
        "bare": {"drawing": (small[0], small[1][:0], small[2][:0])},
    }
    for name, how in kinds.items():
        write_slide(
            results,
            name,
            **({"drawing": small, "appearance": {"verdict": "ok", "reasons": []}} | how),
        )
    write_slide(results, "kidney", small, appearance={"verdict": "ok", "reasons": []})
    rows = [
        *(row(name, organ="Breast") for name in kinds),
        row("kidney", organ="kidney"),
        row("lost"),
    ]
    return {slide.slide_id: slide for slide in gather_cohort(results, rows)}


def test_every_slide_has_its_level_and_word(slides):
    found = {
        name: [(notice.level, notice.word) for notice in find_notices(slide)]
        for name, slide in slides.items()
    }
    assert found == {
        "plain": [],
        "pale": [("amber", "unlike training")],
        "given": [("amber", "check mpp")],
        "swollen": [("red", "doubtful classes")],
        "kidney": [],
        "small": [("red", "doubtful scale")],
        "small and given": [("red", "doubtful scale"), ("amber", "check mpp")],
        "brown": [("amber", "check stain")],
        "stated": [],
        "pink": [("amber", "check stain")],
        "dark": [("red", "other stain")],
        "gaps": [("amber", "")],
        "pen": [("amber", "check tissue")],
        "bare": [("amber", "check tissue")],
        "lost": [("red", "")],
    }
    assert (
        find_notices(slides["small and given"])[0].sentence
        == f"{DOUBT}; its nuclei are in no total"
    )


def test_red_slides_come_before_amber_ones_and_failed_ones_first(slides):
    ranked = [entry.slide.slide_id for entry in rank_slides(list(slides.values()))]
    assert ranked == [
        *("lost", "gaps", "dark", "bare", "swollen", "small", "small and given"),
        *("pale", "given", "brown", "pink", "pen", "plain", "stated", "kidney"),
    ]


def test_a_slide_of_an_implausible_mpp_is_in_no_total(slides, tmp_path):
    sizes = {"fine": (0.05, 0.05), "oblong": (0.5, 0.25), "nearly square": (0.25, 0.29)}
    reasons = {}
    for name, mpp in sizes.items():
        chosen, _, (reasons[name],) = choose_mpp([MppCandidate(mpp, "drawn so")])
        write_slide(
            *(tmp_path, name, draw_tissue((600, 500), 100)),
            mpp=chosen,
            warnings=[reasons[name]],
            appearance={"verdict": "ok", "reasons": []},
        )
    found = gather_cohort(tmp_path, map(row, sizes))
    doubtful = ["doubtful scale", "doubtful scale", ""]
    assert [slide.trust.left_out("nuclei") for slide in found] == doubtful
    assert "2 slides left out: doubtful scale" in describe_total(found)
    lines = summarise_flags(found)
    at = lines.index("doubtful scale (2 slides; correct the pixel size):")
    assert lines[at + 1 : at + 3] == [
        f"  {name}: {reasons[name]}; its nuclei are in no total" for name in ("fine", "oblong")
    ]
    (notice,) = find_notices(found[0])
    assert notice == ("red", "scale", f"{reasons['fine']}; its nuclei are in no total")
    assert len(counted(replace(slide, included=("scale",)) for slide in found)) == 3


def test_doubtful_numbers_are_in_no_total_and_the_total_states_what_it_contains(slides, tmp_path):
    n = slides["plain"].n_nuclei
    finished = [slide for slide in slides.values() if slide.summary]
    assert [slide.slide_id for slide in finished if slide not in counted(finished)] == [
        *("small", "small and given", "brown", "stated", "pink", "dark"),
    ]
    n_positive = slides["brown"].positive["n_positive"]
    total = (
        f"{7 * n} nuclei of 8 slides of H&E; {100 * n_positive / n:.1f} % positive among {3 * n}"
        " nuclei of 3 slides of immunohistochemistry; 3 slides left out: 2 doubtful scale, 1 other"
        " stain; classes of 1 slide left out: doubtful classes"
    )
    assert describe_total(finished) == total
    write_page(finished, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"In these totals: {total}." in unescape(text)
    assert f"<dt>Nuclei, H&amp;E</dt><dd>{7 * n}<abbr" in text  # some are marked
    n_lymphocytes = slides["plain"].class_counts["Lymphocyte"]
    assert f"{6 * n_lymphocytes} (" in text.split('class="legend"')[1].split("</ul>")[0]
    card = text.split("<h3><bdi>kidney</bdi></h3>")[1].split("</article>")[0]
    assert (
        card.count('<bdi>Lymphocyte</bdi><abbr title="accuracy not measured in kidney">*</abbr>')
        == 1
    )
    assert "Lymphocyte, Epithelial, Stromal: accuracy not measured in kidney" in card
    of_plots = text.split('id="plots"')[1].split("Slide by slide")[0]
    assert (
        "13 slides" not in of_plots and "7 slides from" in of_plots and "6 slides from" in of_plots
    )
    assert text.count("* classes: accuracy not measured in kidney (1 slide") == 1


def test_the_table_has_every_warning_of_the_page_once(slides, tmp_path):
    write_table(
        [
            *slides.values(),
            replace(slides["plain"], slide_id="step", warnings=["left out 1 point"]),
        ],
        tmp_path / "t",
    )
    warnings = {row["slide_id"]: row["warnings"] for row in read_tsv(tmp_path / "t")}
    for name, slide in slides.items():
        assert warnings[name] == " | ".join(
            each.sentence for each in find_notices(slide) if each.word
        )
    assert warnings["swollen"] == f"{CLASS_DOUBT}; its classes are in no total"
    assert warnings["bare"].startswith("no nucleus in ")
    assert warnings["pen"].count("colour of a pen") == 1 and warnings["step"] == "left out 1 point"


def test_the_reader_may_include_doubtful_numbers(slides):
    chosen = [
        replace(slide, included=("scale", "regions")) for slide in slides.values() if slide.summary
    ]
    assert describe_total(chosen).endswith(
        "immunohistochemistry; 1 slide left out: other stain; "
        "classes of 1 slide left out: doubtful classes"
    )
    assert [
        notice for slide in chosen for notice in find_notices(slide) if slide.slide_id == "small"
    ] == [("amber", "scale", DOUBT)]  # it marks numbers, and leaves none out


def test_immunohistochemistry_has_its_percentage_in_position_of_classes(slides, tmp_path):
    brown = slides["brown"]
    n, n_positive = brown.n_nuclei, brown.summary["classes"][1]["n_nuclei"]
    assert brown.positive == {
        "positive_od": 0.2,
        "n_positive": n_positive,
        "n_negative": n - n_positive,
        "percent_positive": round(100 * n_positive / n, 2),
    }
    percent = f"{100 * n_positive / n:.1f} %"
    write_page([slides["plain"], brown], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    card = text.split('<article id="slide-1"')[1].split("</article>")[0]
    assert f"<dt>Positive</dt><dd><span>{percent} <small>{n_positive} of {n}</small>" in card
    assert (
        "<bdi>Negative</bdi>" in card
        and "<bdi>Epithelial</bdi>" not in card.split("Steps: time")[0]
    )


def test_a_partner_that_was_not_registered_is_shown_with_its_reason(tmp_path):
    outcomes = {
        "paired": {"status": "ok", "reason": ""},
        "unpaired": {"status": "failed", "reason": "ihc.svs: does not fit"},
        "alone": {"status": "failed", "reason": "of an earlier sheet"},
    }
    picture = draw_tissue((600, 500), 100)
    for name, outcome in outcomes.items():
        write_slide(tmp_path, name, picture, appearance={"verdict": "ok", "reasons": []})
        write_json(tmp_path / name / "partner/partner.json", outcome)
    rows = [row("paired", partner="ihc.svs"), row("unpaired", partner="ihc.svs"), row("alone")]
    slides = gather_cohort(tmp_path, rows)
    assert [[notice.word for notice in find_notices(slide)] for slide in slides] == [
        [],
        ["no partner"],
        [],
    ]
    assert summarise_flags(slides)[1] == "  unpaired: partner not registered: ihc.svs: does not fit"


def test_every_slide_has_a_sentence_on_the_use_of_its_numbers(slides):
    may, unconfirmed = (
        "Counts and outlines may be used",
        "No number may be used: doubtful scale; correct the pixel size.",
    )
    assert {name: describe_use(slide) for name, slide in slides.items()} == {
        "plain": f"{may}.",
        "pen": f"{may}; first check tissue.png.",
        "bare": "No nucleus was found; look at the picture of the tissue before you rely on that.",
        "pale": f"{may}; first check the overlays.",
        "given": f"{may}; first compare the pixel size with the file.",
        "small": unconfirmed,
        "small and given": unconfirmed,
        "dark": "No number may be used: other stain; use a model for this stain.",
        **dict.fromkeys(("brown", "pink"), f"{may}; first state the stain; classes may not."),
        "stated": f"{may}; classes may not.",
        "swollen": f"{may}; classes may not.",
        "kidney": f"{may}; Lymphocyte, Epithelial, Stromal: accuracy not measured in kidney.",
        "gaps": "Densities and percentages, but no counts, may be used.",
        "lost": "No number of this slide may be used.",
    }


def test_the_last_lines_of_a_large_run_name_each_kind_of_warning_once(slides, tmp_path):
    """Each of 76 slides has a warning, all kinds occur, and no two failures have the same
    reason.
    """
    organs = "kidney", "Niere", "lymph node", "COAD", "unknown", "", "breast"
    kinds = list(slides.values())
    many = [
        replace(
            kinds[n % len(kinds)],
            slide_id=f"S{n}",
            organ=organs[n % len(organs)],
            reason=f"reason {n}",
        )
        for n in range(76)
    ]
    lines = write_report(many, tmp_path, tmp_path / "report.html", tmp_path / "cohort.tsv")
    assert len(lines) == MOST_LINES  # and one error at the end, if slides failed
    assert " positive among " in lines[0]
    assert re.fullmatch(r"[1-9] slides failed:", lines[1]) and lines[4].endswith(
        " more; cohort.tsv has them"
    )
    assert any(line.endswith("more kinds, in the report") for line in lines)
    assert lines[-1].startswith("76 slides: ")
    marks = [line for line in lines if line.startswith("* ")]
    where = "slides); the accuracy of compact was measured in breast"
    assert [re.sub(r"\d+", "n", line) for line in marks] == [
        f"* classes: accuracy not measured in kidney (n {where}; check the classes on the overlays",
        f"* classes: accuracy not measured in lymph node (n {where}; check the classes"
        " on the overlays",
        f"* classes: accuracy not measured in colon (n {where}; check the classes on the overlays",
        f"* classes: organ not stated (n {where}; state the organ with --organ or in the sheet",
    ]
    many_organs = [replace(slides["plain"], organ=f"organ {n}") for n in range(30)]
    assert summarise_flags(many_organs)[-1] == "* 26 more, in the report"
    of_organs = [replace(slides["plain"], slide_id=f"S{n}", organ=organs[n % 2]) for n in range(50)]
    assert summarise_flags(of_organs) == [
        "* classes: accuracy not measured in kidney (50 slides); the accuracy of compact was"
        " measured in breast; check the classes on the overlays"
    ]
