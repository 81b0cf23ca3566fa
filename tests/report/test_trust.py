"""One judgement, many places: every finding, every quantity, every place that shows it."""

import re
import shutil
from dataclasses import replace

import h5py
import pytest
from finished_slide import CARD, draw_tissue, row, slide_path, write_slide

from muse_pipeline.cohort.layout import CohortFiles
from muse_pipeline.cohort.ledgers import describe_nuclei
from muse_pipeline.core.files import read_json, read_tsv, write_json
from muse_pipeline.core.provenance import DARK, OF_CELLS, STATED_IHC
from muse_pipeline.core.types import DOUBTS
from muse_pipeline.inference.doubts import BROWN_NUCLEI
from muse_pipeline.inference.trust import LEAVE_OUT, RULES, judge, judge_results
from muse_pipeline.report.cohort import gather_cohort
from muse_pipeline.report.page import write_report
from muse_pipeline.report.slide_card import describe_use
from muse_pipeline.slides.tiff_pictures import SEVERAL
from muse_pipeline.statistics.cohort import read_cohort
from muse_pipeline.tissue.find import DOUBT as TISSUE_DOUBT
from muse_pipeline.tissue.stain import NOT_FOUND

USE, MARK, OUT = "use", "mark", "leave out"
OK = {"verdict": "ok", "reasons": []}
REGIONS = {
    "source": "nuclei",
    "status": "ok",
    "reason": "",
    "classes": [{"name": "Epithelium", "color": [1, 2, 3], "is_inside": True, "area_mm2": 0.25}],
    "bands": [{"um": 50, "inside_mm2": 0.1, "outside_mm2": 0.05}],
    "border_mm": 1.0,
}
QUALITY = {"mpp": 0.5, "cell_um": 16.0, "model_sha256": "", "asked": [], "subtract": []}
QUALITY |= {"area_mm2": {"fold": 0.1}, "n_by_kind": {"fold": 50}}
BROWN = {"appearance": {"verdict": "other stain", "reasons": [BROWN_NUCLEI]}}
STATED = {"appearance": {"verdict": "other stain", "reasons": [STATED_IHC]}}
MEMBRANES = {"appearance": {"verdict": "other stain", "reasons": [STATED_IHC, OF_CELLS]}}
DARK_SLIDE = {"appearance": {"verdict": "other stain", "reasons": [DARK]}}
# finding: how a slide is written, its organ, and what becomes of nuclei, Lymphocyte, Epithelial,
# positive nuclei and regions; "" for what the slide does not have
CASES = {
    "": ({}, "breast", USE, USE, USE, "", USE),
    "stain": (DARK_SLIDE, "breast", OUT, "", "", "", OUT),
    "scale": ({"doubt": "check the pixel size"}, "breast", OUT, OUT, OUT, "", OUT),
    "same": ({}, "breast", OUT, OUT, OUT, "", OUT),  # its name comes after "again"
    "classes": ({"class_doubt": "check the classes"}, "breast", USE, OUT, OUT, "", OUT),
    "regions": (
        {"regions": REGIONS | {"n_judged": 1000, "n_unlike_region": 400}},
        *("breast", USE, USE, USE, "", OUT),
    ),
    "membranes": (MEMBRANES, "breast", USE, "", "", OUT, OUT),
    "gaps": ({"full_windows": [0]}, "breast", MARK, MARK, MARK, "", MARK),
    "ihc": (BROWN, "breast", MARK, "", "", MARK, OUT),
    "unlike": (
        {"appearance": {"verdict": "flagged", "reasons": ["tissue paler"]}},
        *("breast", MARK, MARK, MARK, "", MARK),
    ),
    "unknown": (
        {"appearance": {"verdict": "not known", "reasons": ["no ranges"]}},
        *("breast", MARK, MARK, MARK, "", MARK),
    ),
    "mpp": ({"warnings": ["the mpp, 1 um"]}, "breast", MARK, MARK, MARK, "", MARK),
    "tissue": ({"colour_warnings": [f"{TISSUE_DOUBT}pen"]}, "breast", MARK, MARK, MARK, "", MARK),
    "picture": ({"warnings": [f"2 {SEVERAL}"]}, "breast", MARK, MARK, MARK, "", MARK),
    "artefacts": ({"quality": QUALITY}, "breast", MARK, MARK, MARK, "", MARK),
    "organ": ({}, "colon", USE, MARK, USE, "", USE),
    "no_organ": ({}, "", USE, MARK, MARK, "", MARK),
    "third_stain": (STATED | {"colour_warnings": [NOT_FOUND]}, "breast", USE, "", "", MARK, OUT),
    "unmapped": (
        {"regions": {"source": "model", "status": "failed", "reason": "no model"}},
        *("breast", USE, USE, USE, "", ""),
    ),
    "partner": ({}, "breast", USE, USE, USE, "", USE),
}
QUANTITIES = ("nuclei", "nuclei_Lymphocyte", "nuclei_Epithelial", "positive", "regions")
ORGANS = {"Lymphocyte": ["breast"], "Epithelial": ["breast", "colon"], "Stromal": ["breast"]}


NAMES = {finding: finding or "again" for finding in CASES}
PLAIN = ("plain 1", "plain 2")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Results with a slide for each finding in group b and two plain ones in group a."""
    results, small = tmp_path_factory.mktemp("trust"), draw_tissue((600, 500), 100)
    rows, card = [], CARD | {"organs": ORGANS}
    for finding in (*CASES, *PLAIN):
        how, organ, *_ = CASES.get(finding, CASES[""])
        name = NAMES.get(finding, finding)
        if finding == "same":
            shutil.copytree(results / "again", results / name)
        else:
            positive = small[2] == 1 if finding in ("ihc", "membranes", "third_stain") else None
            given = {"appearance": OK, "positive": positive, "card": card, "regions": REGIONS} | how
            folder = write_slide(results, name, small, **given)
            shutil.rmtree(folder / "image-500nm.zarr")  # drawing overlays takes time
        path = slide_path("again" if finding == "same" else name)
        partner = {"partner": "ihc.svs"} if finding == "partner" else {}
        rows.append(row(name, path=path, organ=organ, patient=name, **partner))
    write_json(results / "partner/partner/partner.json", {"status": "failed", "reason": "no fit"})
    write_json(results / "sheet.json", rows)
    cells = [(one["slide_id"], one["path"], one["organ"]) for one in rows]
    lines = ["slide_id\tpath\torgan\tpatient\tgroup"]
    lines += [
        f"{name}\t{path}\t{organ}\t{name}\t{'a' if name in PLAIN else 'b'}"
        for name, path, organ in cells
    ]
    (results / "slides.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    slides = {slide.slide_id: slide for slide in gather_cohort(results, rows)}
    write_report(list(slides.values()), results, results / "report.html", results / "cohort.tsv")
    return results, slides


def read_table(path, key):
    return {line[key]: line for line in read_tsv(path)}


def expected(finding):
    """The verdicts on those quantities that the slide has."""
    verdicts = zip(QUANTITIES, CASES[finding][2:], strict=True)
    return {quantity: verdict for quantity, verdict in verdicts if verdict}


def test_every_finding_is_tried_and_the_user_may_include_what_leaves_out():
    assert CASES.keys() - {""} == RULES.keys()
    assert set(DOUBTS) == {kind for kind, rule in RULES.items() if LEAVE_OUT in rule}


def test_results_and_report_judge_as_the_table_states(cohort):
    results, slides = cohort
    organs = {slide.slide_id: slide.organ for slide in slides.values()}
    judged = judge_results(CohortFiles(results), organs)
    for finding, name in NAMES.items():
        for trust in (judged[name], slides[name].trust):
            found = {quantity: trust.verdict(quantity) for quantity in expected(finding)}
            assert found == expected(finding), finding
            assert not finding or finding in (*trust.findings, "partner")
        if finding not in ("same", "organ", "no_organ"):  # which need other slides or the sheet
            summary = read_json(results / name / "summary.json")["trust"]
            assert summary["verdicts"].items() >= expected(finding).items()


def test_a_slide_without_nuclei_needs_no_organ(cohort):
    provenance = cohort[1]["no_organ"].provenance
    assert "no_organ" in judge(provenance, "").findings
    assert judge(replace(provenance, n_nuclei=0), "").findings == {}


def test_a_card_does_not_recommend_positive_nuclei_that_are_left_out(cohort):
    _, slides = cohort
    use = "Counts and outlines may be used; positive nuclei and classes may not."
    assert describe_use(slides["membranes"]) == use


def test_tables_and_datasets_state_the_verdicts(cohort, muse):
    results, slides = cohort
    table = read_table(results / "cohort.tsv", "slide_id")
    muse.ok(f"step anndata {results} -o {results / 'cohort.h5ad'}")
    with h5py.File(results / "cohort.h5ad") as file:
        index = file["obs/_index"].asstr()[:].tolist()
        obs = {
            column: [
                file[f"obs/{column}/categories"].asstr()[:].tolist()[code]
                for code in file[f"obs/{column}/codes"][:]
            ]
            for column in ("left_out", "marked")
        }
    nuclei = read_cohort(results).to_table(columns=["slide_id", "left_out", "marked"]).to_pandas()
    of_slide = nuclei.drop_duplicates().set_index("slide_id")
    assert len(of_slide) == len(slides) == len(index)
    for finding, name in NAMES.items():
        for column, verdict in (("left_out", OUT), ("marked", MARK)):
            text = table[name][column]
            assert text == of_slide[column][name] == obs[column][index.index(name)]
            assert bool(text) == (verdict in expected(finding).values()), (finding, column)


def test_statistics_test_what_is_used_or_marked(cohort, muse):
    results, _ = cohort
    words = f"--sheet {results / 'slides.tsv'} --group group -o {results / 's.tsv'}".split()
    assert "* Lymphocyte, Stromal: accuracy not measured in colon (1 slide)" in muse.ok(
        f"statistics {results}", *words
    )
    table = read_table(results / "s.patients.tsv", "patient")
    columns = {
        "nuclei": "nuclei_per_mm2",
        "nuclei_Lymphocyte": "percent_Lymphocyte",
        "nuclei_Epithelial": "nuclei_per_mm2_Epithelial",
        "regions": "nuclei_per_mm2_in_border_inside_50um_Stromal",
    }
    for finding, name in NAMES.items():
        verdicts = expected(finding)
        is_compared = verdicts["nuclei"] != OUT and "positive" not in verdicts
        assert (name in table) == is_compared, finding
        for quantity, column in columns.items() if is_compared else ():
            if quantity in verdicts:
                assert bool(table[name][column]) == (verdicts[quantity] != OUT), (finding, column)


def test_the_page_marks_or_withholds_numbers_where_they_stand(cohort):
    results, _ = cohort
    text = (results / "report.html").read_text(encoding="utf-8")
    rows = text.split('class="scroll slides"')[1].split("</table>")[0].split("<tr ")[1:]
    row_of = {re.search("<bdi>(.*?)</bdi>", one)[1]: one for one in rows}
    for finding, name in NAMES.items():
        _, nuclei, density, lymphocyte, epithelial, _, positive, _ = re.findall(
            '<td class="number.*?</td>', row_of[name], re.DOTALL
        )
        cells = dict(zip(QUANTITIES, (nuclei, lymphocyte, epithelial, positive), strict=False))
        verdicts = expected(finding)
        assert ("<abbr" in density) == ("<abbr" in nuclei)
        for quantity, cell in cells.items():
            if verdicts["nuclei"] == MARK:
                assert ("<abbr" in cell) == (quantity == "nuclei"), finding  # one mark is enough
            elif quantity in verdicts:
                assert ("<abbr" in cell) == (verdicts[quantity] == MARK), (finding, quantity)
            if quantity != "nuclei" and quantity in verdicts:
                assert ("number share" in cell) == (verdicts[quantity] != OUT), (finding, quantity)
        # Immunohistochemistry has no classes, and H&E no positive nuclei.
        withheld = lymphocyte + epithelial if "positive" in verdicts else positive
        assert ">–<" in withheld, finding
        if verdicts["nuclei"] == OUT:
            assert f'<span class="pill red">{RULES[finding].word}</span>' in row_of[name]
        card = text.split(f"<h3><bdi>{name}</bdi></h3>")[1].split("</article>")[0]
        assert ("Numbers of regions, in no total" in card) == (verdicts.get("regions") == OUT)
        is_scored = verdicts["nuclei"] != OUT and verdicts.get("positive") in (USE, MARK)
        assert ("<dt>Positive</dt>" in card) == is_scored
        if verdicts["nuclei"] != OUT:
            summary = read_json(results / name / "summary.json")
            assert ("% positive" in describe_nuclei(summary)) == is_scored


def test_the_last_lines_which_qupath_shows_name_every_finding(cohort, tmp_path):
    _, slides = cohort
    for finding, name in NAMES.items():
        slide, verdicts = slides[name], expected(finding)
        lines = "\n".join(
            write_report([slide], tmp_path, tmp_path / "report.html", tmp_path / "cohort.tsv")
        )
        is_counted = OUT not in (verdicts["nuclei"], verdicts.get("positive"))
        assert lines.startswith("no nuclei; ") != is_counted, finding
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        withheld = re.search(r"<dt>Nuclei</dt><dd>\s*<span>– <small>in no total", page)
        assert bool(withheld) != is_counted, finding
        if finding == "gaps":
            assert "1 partial" in lines
        elif finding:
            assert slide.trust.findings[finding] in lines, finding
        if finding == "organ":
            where = "the accuracy of compact was measured in breast, colon (only Epithelial)"
            assert f"(1 slide); {where}; check the classes on the overlays" in lines
