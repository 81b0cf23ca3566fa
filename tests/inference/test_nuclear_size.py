"""A warning if nuclei are too small or too large for the pixel size, and none at the right
scale.
"""

import html
import json

import numpy as np
import pytest
from inference_slides import AREA_MM2
from nuclei_example import PROVENANCE
from PIL import Image

from muse_pipeline.core.provenance import Provenance
from muse_pipeline.demo.field import PERIOD_UM, plan_layout
from muse_pipeline.export.onnx import recard
from muse_pipeline.inference.card import ClassReference
from muse_pipeline.inference.doubts import (
    CHECK,
    MIN_NUCLEI,
    NuclearSize,
    SizeSample,
    have_usual_sizes,
    judge_classes,
)
from muse_pipeline.inference.model import find_model, read_card
from muse_pipeline.inference.trust import LEAVE_OUT, NUCLEI, find, judge

MPP = 0.25, 0.25


@pytest.mark.parametrize(
    "area, probability, per_mm2, size",
    [
        (30.0, 0.9, 10_000, ""),
        (30.0, 0.6, 10_000, ""),
        (13.0, 0.95, 10_000, ""),  # a lymph node
        (13.0, 0.8, 10_000, "small"),
        (13.0, 0.8, 6_000, ""),  # a frozen section
        (11.0, 0.8, 6_000, "small"),
        (11.0, 0.99, 10_000, "small"),
        (60.0, 0.93, 2_000, ""),
        (60.0, 0.85, 2_000, "large"),
        (80.0, 0.99, 2_000, "large"),
        (15.0, None, 10_000, ""),
        (13.0, None, 2_000, "small"),
        (300.0, None, 2_000, ""),  # one-class models at twice the scale find parts of nuclei
    ],
)
def test_the_plausible_range_narrows_as_the_class_probability_falls(
    area, probability, per_mm2, size
):
    doubt = NuclearSize(1000, area, probability).describe_doubt(MPP, 1000 / per_mm2)
    assert bool(doubt) == bool(size)
    if size:
        assert doubt.startswith(
            f"{CHECK}, 0.25 um: the nuclei are too {size} for it (median area {area:.1f} um2"
        )
        known = f", mean class probability {probability or 0:.2f}, {per_mm2:,} per mm2)"
        assert doubt.endswith(known) == (probability is not None)


def test_small_nuclei_are_not_judged_in_enlarged_slides():
    small, large = (NuclearSize(1000, area, 0.8) for area in (10.0, 60.0))
    assert small.describe_doubt((0.5, 0.5), 0.1) and not small.describe_doubt((0.9, 0.9), 0.1)
    assert large.describe_doubt((0.9, 0.9), 0.1)


@pytest.mark.parametrize(
    "lymphocytes, epithelium, is_explained",
    [
        ((930, 15.2), (20, 56.0), True),  # a follicle in the mouth
        ((410, 9.9), (380, 19.4), False),  # half the scale
        ((840, 14.6), (30, 10.4), False),
        ((130, 11.0), (400, 20.5), True),  # crowded glands of the colon
        ((100, 15.2), (20, 56.0), False),  # too few of 1,000
    ],
)
def test_small_nuclei_are_plausible_if_they_suit_their_classes(
    lymphocytes, epithelium, is_explained
):
    references = read_card(find_model("compact")).nuclei
    others = 1000 - lymphocytes[0] - epithelium[0]
    of_class = {
        name: NuclearSize(n, area, 0.8)
        for name, (n, area) in {
            "Lymphocyte": lymphocytes,
            "Epithelial": epithelium,
            "Stroma": (others, 12.0),
        }.items()
    }
    are_usual = have_usual_sizes(references, of_class)
    assert are_usual == is_explained
    size = NuclearSize(1000, 15.0, 0.8)
    assert (
        size.describe_doubt(MPP, 0.1)
        and bool(size.describe_doubt(MPP, 0.1, are_usual)) != is_explained
    )
    assert all(
        NuclearSize(1000, area, 0.8).describe_doubt(MPP, 0.1, are_usual=True)
        for area in (11.9, 80.0)
    )
    assert not have_usual_sizes({}, of_class) and not have_usual_sizes(references, {})


def test_nuclei_of_unusual_size_stay_in_totals_if_the_scanner_states_the_pixel_size():
    record = {"median_area_um2": 11.0, "mean_class_probability": 0.8, "doubt": f"{CHECK}, 0.25 um"}
    sources = {"openslide.mpp-x": "mpp", "CZI scaling": "mpp", "given by the user": "scale"}
    for source, kind in {
        **sources,
        "TIFF resolution tags": "scale",
        "objective power 40x": "scale",
    }.items():
        known = Provenance.from_dict(PROVENANCE | {"mpp_source": source, "nuclear_size": record})
        assert find(known).get(kind) == record["doubt"]
        assert (judge(known).verdict(NUCLEI) == LEAVE_OUT) == (kind == "scale")
    ten_times = Provenance.from_dict(
        PROVENANCE | {"mpp_source": "openslide.mpp-x", "slide_mpp": (0.025, 0.025)}
    )
    assert "ten times too fine" in find(ten_times)["scale"]


def test_few_nuclei_are_not_judged():
    assert NuclearSize(MIN_NUCLEI, 5.0, 0.5).describe_doubt(MPP, 0.1)
    assert not NuclearSize(MIN_NUCLEI - 1, 5.0, 0.5).describe_doubt(MPP, 0.1)
    assert not SizeSample().measure().describe_doubt(MPP, 0.0)


def test_the_sample_gives_median_and_mean_in_any_parts_and_order():
    rng = np.random.default_rng(0)
    area, prob = (
        rng.gamma(9, 4, 2001).astype(np.float32),
        rng.dirichlet((3, 1, 1), 2001).astype(np.float32),
    )
    whole, parts = SizeSample(), SizeSample()
    whole.add(area, prob)
    order = rng.permutation(len(area))
    for part in np.array_split(order, 7):
        parts.add(area[part], prob[part])
    size = whole.measure()
    assert size == parts.measure()
    assert size.n_nuclei == 2001
    assert size.median_area_um2 == pytest.approx(np.median(area), abs=0.1)
    assert size.mean_class_probability == pytest.approx(prob.max(1).mean(), abs=1e-4)


def test_one_class_has_no_probability():
    sample = SizeSample()
    sample.add(np.full(10, 20.05), np.ones((10, 1)))
    assert sample.measure() == NuclearSize(10, 20.0, None)


@pytest.mark.parametrize(
    "area, probability, n, is_doubted",
    [
        (24.0, 0.91, 1000, False),
        (18.0, 0.73, 1000, False),  # lymphocytes of a different organ
        (29.0, 0.92, 1000, False),
        (
            35.0,
            0.92,
            1000,
            True,
        ),  # as in urothelial carcinoma, whose nuclei are taken for lymphocytes
        (35.0, 0.80, 1000, True),
        (27.0, 0.80, 1000, True),  # as in papillary carcinoma of the kidney
        (35.0, 0.80, 99, False),
        (40.0, 0.97, 1000, False),  # the synthetic slide: more certain than any training slide
    ],
)
def test_a_class_is_doubted_where_its_nuclei_are_larger_than_in_training(
    area, probability, n, is_doubted
):
    built_in = read_card(find_model("compact"))
    sizes = NuclearSize(n, area, probability), NuclearSize(n, 50.0, 0.95)
    found = {
        name: vars(size) for name, size in zip(("Lymphocyte", "Epithelial"), sizes, strict=True)
    }
    doubt = judge_classes(built_in.nuclei, found)
    assert bool(doubt) == is_doubted
    if is_doubted:
        limit = 26.1 if probability == 0.8 else 33.7
        expected = (
            f"(median area {area:.1f} um2, expected at most {limit} um2 at a mean class"
            " probability of"
        )
        assert (
            f'class "Lymphocyte" are too large for it {expected}' in doubt
            and "Epithelial" not in doubt
        )
    assert judge_classes({}, found) == ""


@pytest.mark.parametrize(
    "n_unlike, n_judged, is_doubted",
    [(1544, 2900, True), (150, 1000, False), (151, 1000, True), (60, 99, False)],
)
def test_regions_that_many_nuclei_do_not_suit_are_doubted(n_unlike, n_judged, is_doubted):
    regions = {
        "source": "model",
        "status": "ok",
        "reason": "",
        "n_unlike_region": n_unlike,
        "n_judged": n_judged,
    }
    doubt = find(Provenance.from_dict(PROVENANCE | {"regions": regions})).get("regions", "")
    assert (
        f"{n_unlike:,} of {n_judged:,} nuclei are epithelial outside epithelium" in doubt
    ) == is_doubted


@pytest.mark.parametrize("verdict, is_doubted", [("ok", False), ("other stain", True)])
def test_regions_from_nuclei_are_doubted_where_classes_mean_nothing(verdict, is_doubted):
    regions = {"source": "nuclei", "status": "ok", "reason": ""}
    facts = PROVENANCE | {"regions": regions, "appearance": {"verdict": verdict, "reasons": []}}
    assert ("regions" in find(Provenance.from_dict(facts))) == is_doubted


def test_classes_are_measured_in_the_organs_of_the_card_alone():
    card = json.loads(read_card(find_model("compact")).to_json())
    facts = PROVENANCE | {"card": card, "model": {**PROVENANCE["model"], "name": "compact"}}
    known = Provenance.from_dict(facts)
    for organ in ("breast", "left breast", "Mamma", "BRCA"):
        assert not {"organ", "no_organ"} & judge(known, organ).findings.keys()
    for organ in ("", "unknown"):
        trust = judge(known, organ)
        assert trust.classes_with("no_organ") == known.class_names and not trust.left_out("classes")
    for organ in ("kidney", "brest", "lymph node, breast"):
        trust = judge(known, organ)
        assert trust.findings["organ"].startswith("accuracy not measured in ")
        assert trust.classes_with("organ") == known.class_names
    assert judge(known, "TCGA-COAD").classes_with("organ") == ["Lymphocyte", "Stroma"]
    no_organs, one_class = (
        Provenance.from_dict(facts | {"card": {**card, **changes}})
        for changes in ({"organs": {}}, {"classes": card["classes"][:1]})
    )
    assert judge(no_organs, "").findings["organ"] == "accuracy not measured in any organ"
    assert not {"organ", "no_organ"} & judge(one_class, "kidney").findings.keys()


QUICKLY = "--features", "none", "--no-viewer"


@pytest.fixture(scope="module")
def island(tiled_slide, tmp_path_factory):
    """A picture at 0.25 um/px of the first island of tissue on the synthetic slide."""
    layout, path = (
        plan_layout(AREA_MM2, PERIOD_UM, np.random.default_rng(0).spawn(5)[0]),
        tmp_path_factory.mktemp("i"),
    )
    x, y = (layout.islands[0].centre_um / MPP).astype(int).tolist()
    Image.open(tiled_slide.folder / "demo.svs").crop((x - 1200, y - 1200, x + 1200, y + 1200)).save(
        path / "demo.png"
    )
    return path / "demo.png"


@pytest.mark.parametrize("mpp, is_doubted", [(0.25, False), (0.5, True)])
def test_a_wrong_scale_is_in_ledger_table_report_and_the_last_lines(
    island, muse, tmp_path, mpp, is_doubted
):
    out = muse.ok(f"run {island} --mpp {mpp} -o {tmp_path}", *QUICKLY)
    doubt = f"{CHECK}, 0.5 um: the nuclei are too large for it (median area "
    warnings = json.loads((tmp_path / "demo/ledger/stitch.json").read_text()).get("warnings", [])
    assert [warning.startswith(doubt) for warning in warnings] == [True] * is_doubted
    for text in (
        out,
        (tmp_path / "report.html").read_text(),
        (tmp_path / "cohort.tsv").read_text(),
    ):
        assert (doubt in text) == is_doubted


def test_doubtful_classes_are_in_ledger_table_report_and_the_last_lines(island, muse, tmp_path):
    model = tmp_path / "small.onnx"
    reference = ClassReference(9, (5.0, 6.0, 7.0), (0.5, 0.9, 1.0))
    recard(find_model("compact"), model, {"nuclei": {"Epithelial": reference}})
    status, out, _ = muse(
        f"run {island} --mpp 0.25 --model {model} -o {tmp_path / 'results'}", *QUICKLY
    )
    assert status == 0 and "nuclei of 1 slide; classes of 1 slide left out: doubtful classes" in out
    doubt = 'check the classes: nuclei of the class "Epithelial" are too large for it (median area '
    (warning,) = json.loads((tmp_path / "results/demo/ledger/stitch.json").read_text())["warnings"]
    assert warning.startswith(doubt) and "expected at most 8.4 um2" in warning
    for text in (out, (tmp_path / "results/cohort.tsv").read_text().replace('""', '"')):
        assert warning in text
    assert warning in html.unescape((tmp_path / "results/report.html").read_text())


@pytest.mark.parametrize(
    "factor, size",
    [
        pytest.param(0.5, "small", marks=pytest.mark.slow),
        pytest.param(1.0, "", marks=pytest.mark.slow),
        (2.0, "large"),
    ],
)
def test_real_crops_at_half_and_double_the_scale(shared_data, muse, tmp_path, factor, size):
    folder, mpp = ("brca-m2c", 0.5) if factor < 2 else ("tnbc-nuclei", 0.25)
    pictures = sorted((shared_data / folder / "images").iterdir())
    chosen = (
        pictures[:30:10]
        if factor < 2
        else [path for path in pictures if path.stem in {"04_1", "05_1", "08_3"}]
    )
    assert len(chosen) == 3
    assert muse("run", *chosen, "--mpp", mpp * factor, "-o", tmp_path, *QUICKLY)[0] == 0
    for path in chosen:
        warnings = json.loads((tmp_path / path.stem / "ledger/stitch.json").read_text()).get(
            "warnings", []
        )
        assert [f"too {size} for it" in warning for warning in warnings] == [True] * bool(size), (
            path
        )
