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
from scipy.stats import gmean

from muse_pipeline.core.files import read_json
from muse_pipeline.core.pictures import read_rgb
from muse_pipeline.core.provenance import Provenance
from muse_pipeline.demo.field import PERIOD_UM, plan_layout
from muse_pipeline.export.onnx import recard
from muse_pipeline.inference.card import ClassReference
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.doubts import (
    CHECK,
    MIN_NUCLEI,
    NuclearSize,
    SizeSample,
    judge_classes,
    judge_scale,
    relative_sizes,
)
from muse_pipeline.inference.model import find_model, read_card
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.trust import LEAVE_OUT, NUCLEI, find, judge
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.nuclei.shape import measure_shapes
from muse_pipeline.tissue.stain import fit_macenko

MPP = 0.25, 0.25


def of_classes(**sizes):
    """Sizes by class from (number, median area in um2)."""
    return {name: NuclearSize(n, area, 0.9) for name, (n, area) in sizes.items()}


@pytest.mark.parametrize(
    "classes, size",
    [
        ({"Lymphocyte": (50, 24), "Epithelial": (150, 50), "Stroma": (100, 23)}, ""),
        ({"Lymphocyte": (300, 14), "Epithelial": (5, 90)}, ""),  # a follicle in the mouth
        ({"Lymphocyte": (90, 15), "Epithelial": (90, 23), "Stroma": (90, 12)}, ""),  # frozen
        ({"Epithelial": (250, 75), "Stroma": (50, 30)}, ""),  # a tumour with large nuclei
        ({"Lymphocyte": (14, 5.0), "Stroma": (286, 8.3)}, ""),  # muscle cut across
        ({"Stroma": (300, 44)}, ""),  # cells that were not trained on, such as hepatocytes
        ({"Stroma": (300, 48)}, "large"),
        ({"Lymphocyte": (50, 9.4), "Epithelial": (150, 16.6), "Stroma": (100, 9.9)}, "small"),
        ({"Lymphocyte": (14, 24), "Epithelial": (150, 94), "Stroma": (100, 47)}, "large"),
    ],
)
def test_nuclei_of_all_classes_are_compared_with_training(classes, size):
    references, of_class = read_card(find_model("compact")).nuclei, of_classes(**classes)
    doubt = judge_scale(references, NuclearSize(300, 30.0, 0.9), of_class, MPP)
    assert bool(doubt) == bool(size)
    if size:
        start = f"{CHECK}, 0.25 um: the nuclei are too {size} for it (median area 30.0 um2, "
        ratio = gmean(list(relative_sizes(references, of_class).values()))
        assert doubt == f"{start}{ratio:.2g} times that of training, class by class)"


def test_larger_nuclei_are_plausible_if_their_classes_are_certain():
    references, of_class = read_card(find_model("compact")).nuclei, of_classes(Stroma=(300, 48))
    doubts = [
        judge_scale(references, NuclearSize(300, 48, prob), of_class, MPP) for prob in (0.97, 0.98)
    ]
    assert list(map(bool, doubts)) == [True, False]


def test_sizes_are_relative_to_the_median_in_training_of_classes_with_enough_nuclei():
    references = {
        "A": ClassReference(9, (8.0, 10.0, 12.0)),
        "B": ClassReference(9, (8.0, 40.0, 50)),
    }
    of_class = of_classes(A=(500, 20.0), B=(15, 20.0), C=(500, 7.0))
    assert relative_sizes(references, of_class) == {"A": 2.0, "B": 0.5}
    assert relative_sizes(references, of_classes(A=(14, 20.0), C=(500, 7.0))) == {}


@pytest.mark.parametrize("area, size", [(15.0, ""), (13.0, "small"), (99.0, ""), (101.0, "large")])
def test_without_sizes_in_the_card_the_range_is_wide(area, size):
    doubt = judge_scale({}, NuclearSize(1000, area), {}, MPP)
    assert bool(doubt) == bool(size)
    if size:
        assert doubt.endswith(f"the nuclei are too {size} for it (median area {area:.1f} um2)")


def test_small_nuclei_are_not_judged_in_enlarged_slides():
    small, large = (NuclearSize(1000, area) for area in (10.0, 110.0))
    assert judge_scale({}, small, {}, (0.5, 0.5)) and not judge_scale({}, small, {}, (0.9, 0.9))
    assert judge_scale({}, large, {}, (0.9, 0.9))


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
    assert judge_scale({}, NuclearSize(MIN_NUCLEI, 5.0), {}, MPP)
    assert not judge_scale({}, NuclearSize(MIN_NUCLEI - 1, 5.0), {}, MPP)
    assert not judge_scale({}, SizeSample().measure(), {}, MPP)


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
    found["Stroma"] = vars(NuclearSize(n, 90.0, 0.8))  # of several kinds of cells: not judged
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
    warnings = read_json(tmp_path / "demo/ledger/stitch.json").get("warnings", [])
    assert [warning.startswith(doubt) for warning in warnings] == [True] * is_doubted
    for text in (
        out,
        (tmp_path / "report.html").read_text(),
        (tmp_path / "cohort.tsv").read_text(),
    ):
        assert (doubt in text) == is_doubted


def test_doubtful_classes_are_in_ledger_table_report_and_the_last_lines(island, muse, tmp_path):
    model = tmp_path / "small.onnx"
    reference = ClassReference(9, (50.0, 55.0, 60.0), (0.5, 0.9, 1.0))
    recard(find_model("compact"), model, {"nuclei": {"Epithelial": reference}})
    out = muse.ok(f"run {island} --mpp 0.25 --model {model} -o {tmp_path / 'results'}", *QUICKLY)
    assert "nuclei of 1 slide; classes of 1 slide left out: doubtful classes" in out
    doubt = 'check the classes: nuclei of the class "Epithelial" are too large for it (median area '
    (warning,) = read_json(tmp_path / "results/demo/ledger/stitch.json")["warnings"]
    assert warning.startswith(doubt) and "expected at most 72.0 um2" in warning
    for text in (out, (tmp_path / "results/cohort.tsv").read_text().replace('""', '"')):
        assert warning in text
    assert warning in html.unescape((tmp_path / "results/report.html").read_text())


@pytest.mark.parametrize(
    "factor, size", [(0.5, "small"), (1.0, ""), (1.5, "large"), (2.0, "large")]
)
@pytest.mark.slow
def test_real_crops_at_half_1_5_and_twice_the_scale(shared_data, factor, size):
    predictor = Predictor(find_model("compact"))
    judged = []
    for path in sorted((shared_data / "brca-m2c/images").iterdir()):
        pixels, mpp = read_rgb(path), (0.5 * factor,) * 2
        nuclei = detect_picture(predictor, pixels, mpp[0], fit_macenko(pixels.reshape(-1, 3)[::4]))
        area = measure_shapes(rays_to_rings(nuclei.xy, nuclei.rays, mpp), mpp)["area_um2"]
        samples = {name.name: SizeSample() for name in predictor.card.classes} | {"": SizeSample()}
        for label, sample in enumerate(samples.values()):
            own = (nuclei.label == label) | (label == len(predictor.card.classes))
            sample.add(area[own], nuclei.prob[own])
        sizes = {name: sample.measure() for name, sample in samples.items()}
        if sizes[""].n_nuclei >= MIN_NUCLEI:
            judged.append(judge_scale(predictor.card.nuclei, sizes.pop(""), sizes, mpp))
    assert len(judged) > 70 and sum(map(bool, judged)) >= 0.9 * len(judged) * bool(size)
    assert all(f"too {size} for it" in doubt for doubt in judged if doubt)
    assert size or not any(judged)
