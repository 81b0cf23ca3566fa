import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
import yaml
from finished_slide import HOSTILE
from nuclei_example import PROVENANCE

from muse_pipeline.cohort.sheet import read_resolved
from muse_pipeline.core.files import read_json
from muse_pipeline.report import page
from muse_pipeline.report.album import Album
from muse_pipeline.report.cohort import gather_cohort
from muse_pipeline.report.html import render
from muse_pipeline.report.notices import rank_slides
from muse_pipeline.report.page import write_page
from muse_pipeline.report.slide_card import describe_card

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


class Outline(HTMLParser):
    """The elements, texts and addresses that a browser would find in a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.addresses, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("href", "src")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(text)


@pytest.fixture(scope="module")
def slides(cohort):
    results, sheet = cohort
    return gather_cohort(results, read_resolved(sheet))


@pytest.fixture(scope="module")
def page_path(cohort, slides):
    path = cohort[0] / "report.html"
    write_page(slides, path)
    return path


@pytest.fixture(scope="module")
def outline(page_path):
    return Outline(page_path.read_text(encoding="utf-8"))


def test_the_page_is_well_formed_and_needs_no_network(outline):
    assert outline.open == []
    assert outline.tags.count("script") == 1
    assert not [address for address in outline.addresses if re.match(r"(https?:)?//", address)]


def test_addresses_lead_to_files_of_the_results_folder(cohort, outline):
    """All links are relative, so the folder can be zipped, sent and opened elsewhere."""
    files = {
        unquote(address) for address in outline.addresses if not address.startswith(("#", "data:"))
    }
    assert {"good/nuclei.parquet", "with gaps/tissue.png"} <= files
    assert not [file for file in files if file.startswith(("/", "..", "file:"))]
    assert all((cohort[0] / file).is_file() for file in files)


def test_hostile_names_stay_text(outline):
    shown = HOSTILE.replace("\u202e", "\ufffd")
    assert shown in outline.texts
    assert "b" not in outline.tags
    assert not any("\u202e" in text for text in outline.texts)
    assert any("</script><b>: has no card" in text for text in outline.texts)


def test_failures_come_first(outline):
    names = [
        text for text in outline.texts if text in {"good", "with gaps", "noise"} or "gvs" in text
    ]
    table = names[3 : 3 + 4]  # the first three are under "needs attention"
    assert ["gvs" in table[0], *table[1:]] == [True, "noise", "with gaps", "good"]


def test_small_cohorts_carry_their_pictures_and_large_ones_link_to_them(
    cohort, slides, outline, monkeypatch
):
    carried = [address for address in outline.addresses if address.startswith("data:image/jpeg")]
    thumbnails = [address for address in carried if len(address) < 8000]
    assert (len(carried), len(thumbnails)) == (
        3 + 2 * 4 + 2,
        2,
    )  # two slides are finished; three have tissue
    monkeypatch.setattr(page, "EMBEDDED_SLIDES", 3)
    write_page(slides, cohort[0] / "linked.html")
    linked = Outline((cohort[0] / "linked.html").read_text(encoding="utf-8"))
    assert [address for address in linked.addresses if address.startswith("data:")] == thumbnails
    assert "with%20gaps/overlays/1.png" in linked.addresses


def test_provenance_is_yaml(slides, page_path):
    (good,) = (slide for slide in slides if slide.slide_id == "good")
    changes = {
        "slide_mpp": [0.25, 0.2512345678],
        "model": {"name": "<m>", "sha256": "ab"},
        "n_by_class": {"é": 2},
    }
    changed = replace(good, summary={**good.summary, "provenance": PROVENANCE | changes})
    card = describe_card(rank_slides([changed])[0], Album(page_path, False))
    found = Outline(render("slide_card.html", card=card))
    texts = [text for text in found.texts if text.strip()]
    written = yaml.safe_load(texts[texts.index("Provenance") + 1])
    assert written == {
        key: each for key, each in changed.provenance.to_dict().items() if key != "card"
    }
    assert written["model"]["name"] == "<m>"
    assert "slide_mpp: [0.25, 0.2512345678]" in texts[-1]
    assert found.open == []


USE_FILTER = """<script>
const form = document.querySelector("form.filter");
const [text, kind, column, from, to] = form.querySelectorAll("input, select");
column.value = [...column.options].find((each) => each.text === "Nuclei").value;
const shown = (all) => [...all].filter((each) => !each.hidden)
  .map((each) => each.id || each.dataset.slide);
document.title = JSON.stringify(CASES.map((values) => {
  [text, kind, from, to].forEach((field, i) => (field.value = values[i]));
  form.dispatchEvent(new Event("input"));
  const found = [".slides tbody tr", "article"]
    .map((which) => shown(document.querySelectorAll(which)));
  return [...found, form.querySelector("output").value];
}));
</script></body>"""
# (text, kind, minimum and maximum number of nuclei) -> the ids of the slides shown, without
# "slide-"
FILTERED = {
    ("", "all slides", "", ""): "1234",
    ("GOO", "all slides", "", ""): "4",
    ("", "red: needs attention", "", ""): "12",
    ("", "amber: check before use", "", ""): "3",
    ("noi", "neither red nor amber", "", ""): "",
    ("", "all slides", "1", ""): "34",
    ("", "all slides", "", "1"): "",
    ("", "all slides", "1000000", ""): "",
}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: the filter is not tried")
def test_the_filter_shows_rows_and_cards_of_a_name_a_kind_and_a_range(page_path, tmp_path):
    """The test adds a script that fills in the form, and removes the content security policy that
    would forbid it.
    """
    page_text = re.sub(
        '<meta http-equiv="Content-Security-Policy"[^>]*>',
        "",
        page_path.read_text(encoding="utf-8"),
    )
    script = USE_FILTER.replace("CASES", json.dumps(list(FILTERED)))
    (tmp_path / "free.html").write_text(page_text.replace("</body>", script), encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --no-first-run"
        f" --user-data-dir={tmp_path / 'profile'} --dump-dom"
    )
    command = [CHROMIUM, *flags.split(), (tmp_path / "free.html").as_uri()]
    dump = subprocess.run(command, check=True, capture_output=True, timeout=120).stdout.decode()
    results = json.loads(re.search("<title>(.*?)</title>", dump)[1])
    for (case, numbers), (rows, cards, printed) in zip(FILTERED.items(), results, strict=True):
        assert rows == cards == [f"slide-{number}" for number in numbers], case
        assert printed == f"{len(numbers)} of 4 shown", case


def test_the_command_sums_up_and_ends_well_although_slides_failed(cohort, muse, tmp_path):
    results, sheet = cohort
    pages = []
    for threads in (1, 2):
        outputs = (
            f"--output {tmp_path / 'r.html'} --table {tmp_path / 'c.tsv'} --threads {threads}"
        ).split()
        out = muse.ok(f"report {results} --slides {sheet}", *outputs)
        pages.append((tmp_path / "r.html").read_bytes())
    assert pages[0] == pages[1]
    assert out.splitlines()[-1] == f"4 slides: 1 ok, 1 partial, 2 failed; see {tmp_path / 'r.html'}"
    assert (tmp_path / "c.tsv").is_file()


def test_the_overlay_step_leaves_the_summary_and_its_record(slide_folder, muse, tmp_path):
    muse.ok(f"step overlay {slide_folder} --ledger {tmp_path / 'overlay.json'}")
    assert read_json(tmp_path / "overlay.json")["status"] == "ok"
    assert (slide_folder / "summary.json").is_file()
