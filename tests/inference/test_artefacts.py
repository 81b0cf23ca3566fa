"""Areas that are out of focus, folded, under a bubble or in ink, at known positions on synthetic
slides.
"""

import json
import shutil
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from drawn import ArraySlide
from drawn_rings import draw_rings
from inference_slides import AREA_MM2 as COARSE_MM2
from PIL import Image
from qupath_check import check_geojson
from slide_files import write_pyramid

from muse_pipeline import read_nuclei
from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.files import read_json, read_tsv
from muse_pipeline.core.types import Bounds
from muse_pipeline.demo.field import PERIOD_UM, plan_layout
from muse_pipeline.inference.artefacts import (
    CELL_UM,
    COLORS,
    KINDS,
    MIN_AREAS_MM2,
    MODEL,
    ArtefactMap,
    apply_hysteresis,
    average_over_tissue,
    drop_most,
    find_artefacts,
    find_blurred,
    find_folds,
    has_lumen,
    keep_areas,
    measure_focus,
    settle_areas,
)
from muse_pipeline.inference.predictor import RegionPredictor
from muse_pipeline.inference.region_maps import map_slide, tissue_on_cells
from muse_pipeline.inference.stains import read_colour
from muse_pipeline.pipeline import make_image
from muse_pipeline.settings import RunSettings
from muse_pipeline.statistics.cohort import measure_slide
from muse_pipeline.store.store import open_store
from muse_pipeline.store.write import write_store
from muse_pipeline.tissue.mask import TissueMask
from muse_pipeline.tissue.stain import IDENTITY

MPP, SIZE_PX = 0.5, (2600, 1400)
BLURRED = shapely.Point(650, 700).buffer(400)  # in level-0 px
INK = shapely.box(1300, 500, 1560, 900)
BUBBLE = shapely.Point(2160, 700).buffer(180)
AREAS = {"Blurred": BLURRED, "Bubble": BUBBLE, "Ink": INK}
BESIDE_PX = 128  # width of the border that may be flagged too: two cells and a stroke's faint edge


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """Grainy tissue with nuclei; some of it is blurred by 1.5 um, some under blue ink, some under a
    bubble.
    """
    rng = np.random.default_rng(0)
    pixels = np.full((SIZE_PX[1], SIZE_PX[0], 3), 244, np.uint8)
    pixels[100:-100, 100:-100] = (228, 176, 208)
    for xy in np.stack(np.meshgrid(np.arange(120, 2480, 28), np.arange(120, 1280, 28)), -1).reshape(
        -1, 2
    ):
        centre, radius = (xy + rng.integers(-5, 6, 2)).tolist(), int(rng.integers(5, 9))
        cv2.circle(pixels, centre, radius, (88, 52, 128), -1, cv2.LINE_AA)
    grain = cv2.GaussianBlur(rng.normal(0, 60, pixels.shape[:2]), (0, 0), 0.8)[..., None]
    pixels = np.clip(pixels + grain * (pixels < 230), 0, 255).astype(np.uint8)
    y, x = np.mgrid[: SIZE_PX[1], : SIZE_PX[0]] + 0.5
    soft = cv2.GaussianBlur(pixels, (0, 0), 1.5 / MPP)
    pixels = np.where(shapely.contains_xy(BLURRED, x, y)[..., None], soft, pixels)
    pixels = np.where(shapely.contains_xy(INK, x, y)[..., None], pixels * (0.12, 0.3, 0.75), pixels)
    hazy = cv2.GaussianBlur(pixels, (0, 0), 4) * 0.75 + 30
    pixels = np.where(shapely.contains_xy(BUBBLE, x, y)[..., None], hazy, pixels)
    rim = BUBBLE.difference(BUBBLE.buffer(-16))
    pixels = np.where(shapely.contains_xy(rim, x, y)[..., None], pixels / 3, pixels)
    noise = rng.normal(0, 1.5, pixels.shape)
    path = tmp_path_factory.mktemp("artefacts") / "drawn.tif"
    write_pyramid(path, np.clip(pixels + noise, 0, 255).astype(np.uint8), factors=(4,), mpp=MPP)
    return path


@pytest.fixture(scope="module")
def results(slide):
    """Folders of three runs: ``default``, ``flagged`` (all left out) and ``plain``."""
    from muse_pipeline.cli.main import main

    every = ["--subtract", *KINDS]
    options = {
        "default": ["--no-viewer"],
        "flagged": every,
        "plain": ["--no-quality", "--no-viewer"],
    }
    for name, more in options.items():
        folder = slide.parent / name
        words = f"run {slide} --output {folder} --features none --threads 1".split()
        assert main([*map(str, words), *more]) == 0
    return slide.parent


def test_areas_are_found_and_nothing_else(results):
    areas = {
        kind: shapely.union_all(found)
        for kind, found in read_areas(results / "flagged/drawn").items()
    }
    flagged = shapely.union_all(list(areas.values()))
    for kind, true in AREAS.items():
        assert flagged.intersection(true).area > 0.9 * true.area, kind
        assert areas[kind].intersects(true), kind
    everywhere = shapely.union_all([true.buffer(BESIDE_PX) for true in AREAS.values()])
    assert flagged.difference(everywhere).area == 0


def test_most_of_a_fold_is_found_and_little_else(coarse_slide):
    layout = plan_layout(COARSE_MM2, PERIOD_UM, np.random.default_rng(0).spawn(5)[0])
    files, fold = SlideFiles(coarse_slide), layout.fold
    image = open_store(files.store(MPP))
    found = find_artefacts(
        image, TissueMask.load(files.mask), read_colour(files.colour).macenko, threads=2
    )
    y, x = (np.indices(found.kind.shape, np.float32) + 0.5) * CELL_UM
    inside, tissue = fold.inside_um(x, y), tissue_on_cells(image, round(CELL_UM / MPP))
    folded = found.kind == KINDS.index("fold")
    assert folded[tissue & (inside > 0)].mean() > 0.8  # the outermost cells are only partly folded
    assert folded[tissue & (inside < -2 * CELL_UM)].mean() < 0.01


@pytest.mark.parametrize(
    "usual, part, flagged",
    [
        (0.5, 0.28, True),
        (0.5, 0.3, False),
        (0.3, 0.25, False),
        (0.9, 0.4, False),  # sharp stroma of fine collagen between glands
    ],
)
def test_a_slight_defocus_shows_beside_the_rest_of_the_slide(usual, part, flagged):
    ratio = np.full((20, 20), usual)
    ratio[:5, :5] = part
    coarse = np.full_like(ratio, 9.0)
    coarse[10:, 10:] = 0  # glass
    found = find_blurred(ratio * coarse, coarse)
    assert (found == (flagged & (ratio == part))).all()


def test_noise_in_tissue_without_detail_is_no_reference_for_focus():
    """In cartilage most cells have only noise, in which fine detail prevails."""
    fine, coarse = np.full((20, 20), 0.9), np.full((20, 20), 1.0)
    fine[8:12, 8:12], coarse[8:12, 8:12] = 9.0, 25.0
    assert not find_blurred(fine, coarse).any()


def test_a_slide_out_of_focus_everywhere_is_flagged_everywhere():
    assert find_blurred(np.full((5, 5), 1.7), np.full((5, 5), 9.0)).all()
    assert not find_blurred(np.zeros((5, 5)), np.full((5, 5), 0.4)).any()


@pytest.mark.parametrize(
    "pictures, mpp",
    [
        ("wsi-cmu-small-region/*.svs", None),
        ("brca-m2c/images/*.png", 0.5),
        ("tnbc-nuclei/images/*.png", 0.25),
        ("orion-crc-tiles/images/*.tif", 0.5),
        ("oral-scc/images/*.jpg", 0.5),
    ],
)
def test_clean_tissue_is_in_focus(shared_data, tmp_path, pictures, mpp):
    files, path = SlideFiles(tmp_path / "results"), min(shared_data.glob(pictures))
    files.folder.mkdir()
    make_image(path, SheetRow("crop", str(path), mpp), files, MPP, RunSettings())
    image = open_store(files.store(MPP))
    n_cells = tuple(-(-side // round(CELL_UM / MPP)) for side in image.size_px[::-1])
    blurred = settle_areas(find_blurred(*measure_focus(image, n_cells)), MIN_AREAS_MM2[0])
    assert blurred[tissue_on_cells(image, round(CELL_UM / MPP))].mean() < 0.005


def test_cells_at_the_edge_of_tissue_are_judged_by_their_tissue():
    values, tissue = np.zeros((1, 4, 5), np.uint8), np.zeros((4, 5), bool)
    tissue[0, 0] = tissue[:2, 2:4] = tissue[2, 4] = True
    values[0, 0, 0], values[0, 0, 2:4], values[0, 2, 4] = 200, 100, 60
    assert average_over_tissue(values, tissue, 2, (2, 3)).tolist() == [[[200, 50, 0], [0, 0, 60]]]


def test_cells_connected_with_probable_ones_are_taken_in():
    prob = np.array(
        [[0.6, 0.2, 0.0, 0.2], [0.0, 0.0, 0.3, 0.0], [0.0, 0.0, 0.0, 0.0], [0.3, 0.3, 0.0, 0.02]]
    )
    assert apply_hysteresis(prob).astype(int).tolist() == [
        [1, 1, 0, 1],
        [0, 0, 1, 0],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    assert not apply_hysteresis(np.zeros((2, 3))).any()


@pytest.mark.parametrize(
    "changed, is_fold",
    [
        ({}, True),
        ({"length": 12}, False),  # a short area
        ({"density": 1.5}, False),  # hardly darker than the slide
        ({"eosin": 1.5}, False),  # crowded nuclei: more haematoxylin only
        ({"haematoxylin": 1.4}, True),
        ({"haematoxylin": 1.2}, False),  # keratin: more eosin only
        ({"around": 0.1}, False),  # a piece of keratin or bone, with glass around it
    ],
)
def test_folds_are_long_and_have_more_of_both_stains_than_the_tissue_around_them(changed, is_fold):
    known = {
        "length": 20,
        "density": 2.0,
        "haematoxylin": 2.0,
        "eosin": 2.0,
        "around": 1.0,
        **changed,
    }
    fold = np.s_[15:19, 10 : 10 + known["length"]]
    prob, density, stains = (
        np.zeros((40, 40)),
        np.full((40, 40), known["around"]),
        np.ones((40, 40, 2)),
    )
    prob[fold], density[fold], stains[fold] = (
        0.9,
        known["density"],
        (known["haematoxylin"], known["eosin"]),
    )
    found = find_folds(prob, density, stains, np.ones((40, 40), bool), usual=1.0)
    assert (found == ((prob > 0) & is_fold)).all()


@pytest.mark.parametrize("between, is_joined", [(2.0, True), (1.0, False)])
def test_parts_of_a_fold_among_dense_cells_belong_to_it_if_dark_tissue_joins_them(
    between, is_joined
):
    prob, density, stains = np.zeros((40, 60)), np.ones((40, 60)), np.ones((40, 60, 2))
    fold, part = np.s_[15:19, 10:30], np.s_[15:19, 34:40]
    density[15:19, 30:34] = between
    for area in (fold, part):
        prob[area], density[area], stains[area] = 0.9, 2.0, (2.0, 2.0)
    stains[:, 31:] = 2.0, 1.0  # dense cells around the part
    found = find_folds(prob, density, stains, np.ones((40, 60), bool), usual=1.0)
    assert found[fold].all() and (found[part] == is_joined).all()
    assert (found <= (prob > 0)).all()


def test_areas_are_kept_by_their_mean():
    mask, values = np.zeros((6, 9), bool), np.zeros((6, 9))
    mask[1, 1:4] = mask[1, 6:8] = True
    values[1, 1:4], values[1, 6:8], values[4:] = (0, 2, 4), (1, 2), 9
    assert np.argwhere(keep_areas(mask, values, 2.0)).tolist() == [[1, 1], [1, 2], [1, 3]]
    assert not keep_areas(np.zeros_like(mask), values, 2.0).any()


def test_the_map_of_a_part_is_that_of_the_whole(coarse_slide):
    image, model = open_store(SlideFiles(coarse_slide).store(MPP)), RegionPredictor(MODEL)
    model.card = replace(model.card, input_px=480)
    whole = map_slide(image, model, IDENTITY)
    where = np.zeros((-(-whole.prob.shape[1] // 2), -(-whole.prob.shape[2] // 2)), bool)
    where[30:40, 20:35] = True
    part = map_slide(image, model, IDENTITY, where=(where, CELL_UM / model.card.mpp))
    assert (part.prob[:, 60:80, 40:70] == whole.prob[:, 60:80, 40:70]).all() and part.prob[
        :, 60:80, 40:70
    ].any()
    assert not part.prob[:, 160:].any() and whole.prob[:, 160:].any()


@pytest.mark.parametrize("lumen", [0.3, 1.0])
def test_a_ring_with_a_lumen_is_no_fold(lumen):
    """A crypt: its wall is as dark as a fold, and its middle is pale."""
    area, density = np.zeros((30, 40), bool), np.ones((30, 40), np.float32)
    area[10:20, 8:32] = True
    density[area] = 2.5
    density[13:17, 11:29] = 2.5 * lumen
    assert has_lumen(area, density) == (lumen < 1)
    area[14:16, 12:28] = False  # the lumen may be outside the area that the model finds
    assert has_lumen(area, density) == (lumen < 1)


def test_cells_that_are_not_wholly_in_the_picture_take_no_part(tmp_path):
    """The picture has 15 whole cells and 25 px of another; its copy is cut to whole cells."""
    random = np.random.default_rng(0)
    grain = cv2.GaussianBlur(random.normal(0, 60, (505, 505)), (0, 0), 0.8)[..., None]
    pixels = np.clip(np.array([170, 110, 160]) + grain, 0, 255).astype(np.uint8)
    found = []
    for name, part in (("whole", pixels), ("cut", pixels[:480, :480])):
        slide = ArraySlide([part])
        tissue = TissueMask(np.ones((32, 32), bool), np.array([8.0, 8.0]), None, 0.0)
        write_store(slide, slide.info((0.5, 0.5)), tissue, tmp_path / name)
        found.append(measure_focus(open_store(tmp_path / name), (16, 16)))
    for whole, cut in zip(*found, strict=True):
        assert np.array_equal(whole[:13, :13], cut[:13, :13])
        assert not whole[15:].any() and not whole[:, 15:].any() and whole[:15, :15].all()
    assert not find_blurred(*found[0]).any()


def test_the_noise_of_a_camera_is_no_detail(tmp_path):
    """White noise leaves nothing in fine and in coarse detail, of which it has different shares."""
    noise = np.random.default_rng(0).normal(170, 12, (512, 512, 3))
    slide = ArraySlide([noise.round().astype(np.uint8)])
    tissue = TissueMask(np.ones((32, 32), bool), np.array([8.0, 8.0]), None, 0.0)
    write_store(slide, slide.info((0.5, 0.5)), tissue, tmp_path / "noise")
    fine, coarse = measure_focus(open_store(tmp_path / "noise"), (16, 16))
    assert abs(fine.mean()) < 0.1 and abs(coarse.mean()) < 0.1


def test_a_slide_that_is_dark_in_most_places_has_no_fold():
    tissue = np.ones((4, 5), bool)
    folds = np.zeros_like(tissue)
    folds[:2] = True
    assert drop_most(folds, tissue).sum() == 10
    folds[2, 0] = True
    assert not drop_most(folds, tissue).any()


def test_by_default_only_nuclei_out_of_focus_are_in_no_total(results):
    default, flagged, plain = (read_row(results / name) for name in ("default", "flagged", "plain"))
    table = pq.read_table(results / "default/drawn/nuclei.parquet", columns=["quality"])
    kinds = Counter(filter(None, table["quality"].to_pylist()))
    assert int(default["nuclei_left_out"]) == kinds["blurred"] > 50
    assert int(default["nuclei"]) + kinds["blurred"] == int(plain["nuclei"])
    assert int(default["nuclei_in_artefacts"]) == kinds.total() == int(flagged["nuclei_left_out"])
    areas = [[float(row[f"{kind}_mm2"]) for kind in KINDS] for row in (default, flagged)]
    assert sum(areas[0]) == pytest.approx(sum(areas[1]), abs=2e-4)
    blurred = float(default["blurred_mm2"])
    assert blurred > float(
        flagged["blurred_mm2"]
    )  # what is left out takes precedence, such as haze over a bubble
    assert float(default["tissue_mm2"]) + blurred == pytest.approx(
        float(plain["tissue_mm2"]), abs=2e-4
    )
    n, n_kept = len(table), kinds["bubble"] + kinds["ink"]
    report = (results / "default/report.html").read_text(encoding="utf-8")
    for phrase in (
        f"{kinds['blurred'] / n:.1%} of the nuclei lie in artefacts (blurred) and are in no total",
        f"{n_kept / n:.1%} of the nuclei lie in artefacts (bubble, ink) and are in the totals",
        f"mm² ink ({100 * float(default['ink_mm2']) / float(plain['tissue_mm2']):.1f} %)",
        f"{kinds['blurred']:,} nuclei left out; {n_kept:,} nuclei in artefacts counted",
    ):
        assert phrase in report
    assert {*read_areas(results / "default/drawn")} == {*AREAS}
    plain_report = (results / "plain/report.html").read_text(encoding="utf-8")
    assert "<dt>Artefacts</dt><dd>not sought" in plain_report


def test_a_slide_has_one_number_everywhere(results):
    folder, row = results / "flagged/drawn", read_row(results / "flagged")
    n, n_left_out = int(row["nuclei"]), int(row["nuclei_in_artefacts"])
    summary, sidecar = (
        read_json(folder / name) for name in ("summary.json", "nuclei.provenance.json")
    )
    made = sidecar["provenance"]
    assert summary["n_nuclei"] == sum(each["n_nuclei"] for each in summary["classes"]) == n
    assert made["n_nuclei"] == sum(made["n_by_class"].values()) == n
    by_class = made["class_sizes"]["by_class"]
    assert {name: size["n_nuclei"] for name, size in by_class.items()} == made["n_by_class"]
    assert made["quality"]["n_nuclei"] == sum(made["quality"]["n_by_class"].values()) == n_left_out
    assert "In artefact" in sidecar["measurements"]
    page = (folder / "viewer/slide.js").read_text()
    slide = json.loads(page.removeprefix("muse.slide = ").removesuffix(";\n"))
    assert (slide["n_nuclei"], slide["n_left_out"], np.sum(slide["overview"]["histogram"])) == (
        n,
        n_left_out,
        n,
    )
    values = {measure.name: value for measure, value in measure_slide(folder).items()}
    assert values["nuclei_per_mm2"] == pytest.approx(float(row["nuclei_per_mm2"]), rel=1e-3)
    kinds = pq.read_table(folder / "nuclei.parquet")["quality"].to_pylist()
    assert Counter(read_nuclei(folder / "nuclei.parquet")["quality"].dropna()) == Counter(
        filter(None, kinds)
    )


def test_overlays_do_not_count_nuclei_in_artefacts(results):
    table = pq.read_table(results / "flagged/drawn/nuclei.parquet", columns=["x", "y", "quality"])
    xy, sound = (
        np.stack([table["x"], table["y"]], 1),
        table["quality"].is_null().to_numpy(zero_copy_only=False),
    )
    for field in read_json(results / "flagged/drawn/summary.json")["fields"]:
        low, size = np.array(field["xy_level0"]), np.array(field["size_um"]) / MPP
        assert field["n_nuclei"] == (((xy >= low) & (xy < low + size)).all(1) & sound).sum()


@pytest.mark.parametrize("name, is_shown", [("flagged", True), ("plain", False)])
def test_the_picture_of_the_density_shows_where_they_are(results, name, is_shown):
    picture = np.asarray(Image.open(results / name / "drawn/density.png").convert("RGB"))
    for kind in AREAS:
        drawn = (picture == COLORS[KINDS.index(kind.lower())]).all(-1)
        assert (drawn.sum() > 100) == is_shown, kind


def test_without_the_setting_there_is_no_column_and_no_file(results):
    assert not (results / "plain/drawn/artefacts.geojson").exists()
    flagged, plain = (
        pq.read_table(results / name / "drawn/nuclei.parquet") for name in ("flagged", "plain")
    )
    assert flagged.drop_columns("quality").equals(plain)


def test_areas_of_an_earlier_table_are_removed(results, muse, tmp_path):
    folder = shutil.copytree(results / "flagged/drawn", tmp_path / "drawn")
    (config := tmp_path / "config.yaml").write_text("quality: false")
    given = f"--config {config} -o {folder}".split()
    muse.ok(f"step nuclei {folder / 'shards/1-of-1.parquet'}", *given)
    assert "quality" not in pq.read_schema(folder / "nuclei.parquet").names
    assert not (folder / "artefacts.geojson").exists()


def test_qupath_imports_the_areas(results):
    verdict = check_geojson(results / "flagged/drawn/artefacts.geojson")
    assert verdict.is_good and verdict.n_by_type.keys() == {"annotation"}


def test_areas_end_with_what_the_scanner_declares(tmp_path):
    """Areas are cut at the scanner's bounds, at which the image in QuPath ends."""
    info = ArraySlide([np.zeros((320, 640, 3), np.uint8)]).info(
        (MPP, MPP), bounds=Bounds(100, 50, 430, 900)
    )
    ArtefactMap(np.zeros((10, 20), np.int8), {}, (MPP, MPP), "").write_outlines(
        tmp_path / "artefacts.geojson", info
    )
    (area,) = read_areas(tmp_path)["Blurred"]
    assert area.equals(shapely.box(0, 0, 430, 270))


def read_areas(folder):
    found = {}
    for feature in read_json(folder / "artefacts.geojson")["features"]:
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        found.setdefault(feature["properties"]["classification"]["name"], []).append(shape)
    return found


def read_row(folder):
    (row,) = read_tsv(folder / "cohort.tsv")
    return row


def test_a_slide_that_is_soft_in_most_places_keeps_its_nuclei_in_the_totals():
    def describe(blurred_mm2, subtract, mpp=0.5):
        areas = {"blurred": blurred_mm2, "ink": 0.5}
        found = ArtefactMap(
            np.zeros((1, 1), np.int8), areas, (mpp, mpp), "", subtract=subtract, tissue_mm2=2.0
        )
        return list(found.describe().subtract), list(found.describe().asked), found.focus_doubt

    assert describe(0.9, ("blurred",)) == (["blurred"], ["blurred"], "")
    subtract, asked, soft = describe(1.2, ("blurred",))
    assert (subtract, asked) == ([], ["blurred"])
    assert (
        soft == "60% of the tissue is out of focus, so nothing is left out for it; check the slide"
    )
    assert describe(1.2, ()) == ([], [], "")
    coarse = "focus is not judged in slides coarser than 0.525 um per pixel"
    assert describe(0.0, ("blurred", "ink"), mpp=0.55) == (["ink"], ["blurred", "ink"], coarse)
    assert describe(0.0, (), mpp=0.55) == ([], [], coarse)


def test_glands_that_look_like_ink_stay_in_the_totals(muse, tmp_path):
    Image.fromarray(draw_rings()).save(tmp_path / "rings.png")
    muse.ok(f"run {tmp_path / 'rings.png'} --mpp 0.5 -o {tmp_path} --features none --no-viewer")
    row, table = (
        read_row(tmp_path),
        pq.read_table(tmp_path / "rings/nuclei.parquet", columns=["quality"]),
    )
    kinds = Counter(filter(None, table["quality"].to_pylist()))
    assert kinds.keys() == {"ink"} and kinds["ink"] > 20 and float(row["ink_mm2"]) > 0
    assert int(row["nuclei"]) == len(table) and row["nuclei_left_out"] == "0"
    assert "of the nuclei lie in artefacts (ink) and are in the totals" in row["warnings"]


def test_a_slide_too_coarse_to_judge_focus_states_it_on_its_card_and_in_the_table(
    slide, muse, tmp_path
):
    muse.ok(f"run {slide} --mpp 0.62 -o {tmp_path} --features none --no-viewer")
    row, report = read_row(tmp_path), (tmp_path / "report.html").read_text(encoding="utf-8")
    assert row["blurred_mm2"] == "" and float(row["ink_mm2"]) > 0
    assert "focus is not judged in slides coarser than 0.525 um per pixel" in row["warnings"]
    card = report.split("<dt>Artefacts</dt>")[1].split("</div>")[0]
    assert "focus not judged, because the slide is too coarse" in card
    quality = read_json(tmp_path / "drawn/nuclei.provenance.json")["provenance"]["quality"]
    assert "blurred" not in quality["area_mm2"] and quality["n_by_kind"]["ink"] > 0
