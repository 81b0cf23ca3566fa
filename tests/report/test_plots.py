"""Plots of the report: their values, the outliers that they name, and their links."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from browsers import launched_chromium
from finished_slide import HOSTILE, row, write_slide
from viewer_tab import LOWEST_CONTRAST

from muse_pipeline.cli.main import main
from muse_pipeline.report.cohort import gather_cohort
from muse_pipeline.report.html import render
from muse_pipeline.report.notices import rank_slides
from muse_pipeline.report.page import write_page
from muse_pipeline.report.plots import describe_plots, find_outliers

N_SLIDES = 8
NAMES = [HOSTILE, *(f"s{number}" for number in range(1, N_SLIDES))]


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Copies of a finished slide, of which the first has ten times as many nuclei on the same
    tissue.
    """
    results = tmp_path_factory.mktemp("plots")
    write_slide(results, "one")
    (one,) = gather_cohort(results, [row("one")])
    return [
        grown(one, name, 10 if number == 0 else 1 + number / 20)
        for number, name in enumerate(NAMES)
    ]


def grown(slide, name, factor):
    classes = [
        {**each, "n_nuclei": round(each["n_nuclei"] * factor)} for each in slide.summary["classes"]
    ]
    summary = {
        **slide.summary,
        "classes": classes,
        "n_nuclei": sum(each["n_nuclei"] for each in classes),
    }
    return replace(slide, slide_id=name, summary=summary)


def draw(slides):
    return render("plots.html", plots=describe_plots(rank_slides(slides)))


def figure_of(page, title):
    return next(each for each in re.findall(r"<figure.*?</figure>", page) if title in each)


def test_an_outlier_is_named_and_linked_to_its_card(slides):
    page = draw(slides)
    figure = figure_of(page, "All nuclei, per mm²")
    outliers = re.search(r'<ul class="outliers".*?</ul>', figure)[0]
    assert outliers.count("<li>") == 1
    assert 'href="#slide-1"' in outliers
    assert "&lt;script&gt;" in outliers
    assert f"{N_SLIDES} slides from" in figure


def test_every_slide_has_a_dot_in_every_plot(slides):
    page = draw(slides)
    assert {"Lymphocyte, % of nuclei", "Epithelial, per mm²", "area_um2, µm²"} <= set(
        re.findall(r"<figcaption>([^<]*)", page)
    )
    for figure in re.findall(r'<figure class="plot">.*?</figure>', page):
        assert figure.count("<circle") == N_SLIDES
    mix = figure_of(page, "Class mix of every slide")
    assert mix.count("<rect") == N_SLIDES
    bands = re.findall(r'<path d="(.*?)"', mix)
    assert [band.count("M") for band in bands] == [N_SLIDES] * 3
    assert re.findall(r"<bdi>(.*?)</bdi>", mix) == ["Lymphocyte", "Epithelial", "Stromal"]
    folded = re.search(r"<details><summary>Features: .*?</details>", page, re.DOTALL)[0]
    assert "area_um2, µm²" in folded


def test_many_slides_share_a_path_but_outliers_keep_their_link(slides):
    many = [replace(slides[1 + i % 7], slide_id=f"m{i}") for i in range(300)]
    figure = figure_of(draw([slides[0], *many]), "All nuclei, per mm²")
    assert figure.count("<circle") == 1
    assert re.search(r'<path d="([^"]*)" class="dots"', figure)[1].count("M") == 300
    assert figure.count("<path") == 1


def test_groups_are_rows_of_their_own_with_their_own_outliers(slides):
    split = [replace(slide, group="new" if i % 2 else "old") for i, slide in enumerate(slides * 2)]
    page = draw(split)
    assert page.count('class="median"') == 2 * len(re.findall(r'<figure class="plot">', page))
    assert re.search(r'<ul class="legend"><li>.*?new.*?old', page)
    assert 'class="outliers"' not in draw(split[:4])  # only two slides per group


def test_modified_z_scores():
    values = np.array([1, 2, 3, 4, 5, 6, 60, np.nan])
    score = find_outliers(values, ["a"] * 8)
    assert np.isclose(score[6], 0.6745 * (60 - 4) / 2)
    assert (abs(score[[0, 5, 7]]) < 2).all()
    assert (find_outliers(values, ["a", "b"] * 4) == 0).all()  # too few slides per group
    assert (find_outliers(np.ones(9), ["a"] * 9) == 0).all()


def test_slides_without_tissue_or_nuclei_are_left_out(slides):
    classes = [{**each, "n_nuclei": 0} for each in slides[1].summary["classes"]]
    summary = {**slides[1].summary, "classes": classes, "n_nuclei": 0, "features": {}}
    page = draw([*slides, replace(slides[1], slide_id="bare", summary=summary, tissue_mm2=0.0)])
    assert figure_of(page, "All nuclei, per mm²").count("<circle") == N_SLIDES
    assert figure_of(page, "Class mix of every slide").count("<rect") == N_SLIDES


def test_one_slide_has_no_plots(slides):
    assert not describe_plots(rank_slides(slides[:2]))


def test_a_large_cohort_holds_its_cards_as_text(slides, tmp_path):
    write_page(
        [replace(slides[i % 8], slide_id=f"m{i}") for i in range(120)], tmp_path / "report.html"
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    cards = re.search(r'<script type="text/html" id="cards">(.*?)</script>', page, re.DOTALL)[1]
    assert cards.count("<article ") == 120
    assert (
        "<article " not in page.replace(cards, "").partition("<body>")[2].partition("<script>")[0]
    )
    assert len(re.findall(r"<tr data-slide[^>]* hidden>", page)) == 20


@pytest.mark.slow
def test_a_large_cohort_is_filtered_sorted_and_opened_in_chromium(slides, tmp_path):
    write_page(
        [replace(slides[i % 8], slide_id=f"m{i}", group=f"g{i % 2}") for i in range(120)],
        tmp_path / "r.html",
    )
    with launched_chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda line: errors.append(line.text))
        page.goto((tmp_path / "r.html").as_uri())
        shown = page.locator(".slides tbody tr:visible")
        assert (shown.count(), page.locator("article").count()) == (100, 0)
        assert page.locator(".filter output").inner_text() == "first 100 of 120"
        page.get_by_role("button", name="Show all").click()
        assert shown.count() == 120
        page.get_by_label("Filter by name or group").fill("g1")
        assert shown.count() == 60
        page.get_by_role("button", name="Nuclei/mm²").click()
        assert shown.first.locator("th").inner_text() == "m1"
        page.locator(".outliers a").first.click()
        assert page.locator("article:visible h3").inner_text().startswith("m")
        page.locator(".slides").get_by_role("link", name="m3", exact=True).press("Enter")
        page.locator("#slide-4 summary").first.press("Enter")
        assert page.locator("#slide-4 details[open]").count() == 1
        assert all(url.startswith("file:") for url in requests)
        assert errors == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 800])
def test_text_has_contrast_and_nothing_is_cut_off(slides, tmp_path, scheme, width):
    write_page(
        [replace(slide, group=f"g{i % 2}") for i, slide in enumerate(slides)], tmp_path / "r.html"
    )
    with launched_chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.goto((tmp_path / "r.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(LOWEST_CONTRAST, "body :not(title, script)") >= 4.5
        page.emulate_media(media="print")  # A4 is about 800 px wide
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_command_reads_groups_from_the_sheet(slides, tmp_path, capsys):
    results = tmp_path / "results"
    for name in ("one", "two", "three"):
        write_slide(results, name)
    (results / "sheet.json").write_text(f"[{', '.join(map(to_json, ('one', 'two', 'three')))}]")
    sheet = tmp_path / "slides.tsv"
    sheet.write_text("slide_id\tpath\tgrade\none\ta.svs\thigh\ntwo\tb.svs\tlow\nthree\tc.svs\t\n")
    assert main(f"report {results} --sheet {sheet} --group grade".split()) == 0
    page = (results / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<td class="group"><bdi>(.*?)</bdi>', page) == ["high", "low", ""]
    capsys.readouterr()
    assert main(f"report {results} --sheet {sheet} --group stage".split()) == 2
    assert "has no column 'stage'" in capsys.readouterr().err
    sheet.write_text("slide\tgrade\none\thigh\n")
    assert main(f"report {results} --sheet {sheet} --group grade".split()) == 2
    assert "has no column 'slide_id'; its columns are slide, grade" in capsys.readouterr().err
    assert main(f"report {results} --group grade".split()) == 2
    assert "--group and --sheet belong together" in capsys.readouterr().err


def to_json(name):
    return json.dumps(row(name))


def test_a_region_that_a_slide_lacks_has_no_share_of_it(slides):
    """Drawn regions of different slides may have different classes."""

    def with_regions(slide, **areas):
        classes = [{"name": name, "area_mm2": mm2} for name, mm2 in areas.items()]
        regions = {"status": "ok", "source": "drawn", "reason": "", "classes": classes}
        return replace(slide, summary={**slide.summary, "regions": regions})

    areas = {"Tumour": 1}, {"Tumour": 1, "Necrosis": 3}, {"Necrosis": 2}
    page = draw([with_regions(slide, **own) for slide, own in zip(slides, areas, strict=False)])
    assert "3 slides from 0 to 100, median 25" in figure_of(page, "Tumour, % of the regions")
