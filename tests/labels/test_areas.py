"""Labels of areas: which nuclei get a class, what they train, and which labels are rejected."""

import dataclasses
import math
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from drawn_labels import box, disc, draw_nuclei, geojson, grid_xy, point
from slide_files import write_pyramid

from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.types import Frame
from muse_pipeline.data.augment import CLASSES_ONLY, Augmentation, LabelledBatch
from muse_pipeline.data.windows import LabelledWindows
from muse_pipeline.labels import class_areas as module
from muse_pipeline.labels.class_areas import expected_shares
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.labels.slide_source import SlideSource
from muse_pipeline.labels.statistics import LabelSummary, class_weights
from muse_pipeline.methods.detector.criterion import DenseCriterion, class_error
from muse_pipeline.methods.detector.method import DistillationTerm
from muse_pipeline.methods.detector.validation import count_area_classes
from muse_pipeline.models.detector import NucleusMaps
from muse_pipeline.nuclei.table import Nuclei

CLASSES = ("Dark", "Pale", "Red")
SIZE = (240, 160)
XY = grid_xy(SIZE)
MAP = {"Dark": "Dark", "other": ("Pale", "Red"), "nothing": None}


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    """Replace the detector by a function that finds all synthetic nuclei by their colour."""

    def find(predictor, pixels, mpp, stain):
        mask = (pixels[..., 1] < 120).astype(np.uint8)
        n, _, sizes, centres = cv2.connectedComponentsWithStats(mask)
        return Nuclei(centres[1:n][sizes[1:n, cv2.CC_STAT_AREA] > 30] + 0.5, Frame.WORK)

    monkeypatch.setattr(module, "detect_picture", find)


def make(folder, content, name="P.geojson", **settings):
    """A source with one synthetic picture and one label file, either text or a mask."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "images/P.png"), draw_nuclei(SIZE, XY)[..., ::-1])
    if isinstance(content, str):
        (folder / "labels" / name).write_text(content)
    else:
        cv2.imwrite(str(folder / "labels/P.png"), content)
    given = {
        "images": folder / "images",
        "mpp": 0.5,
        "class_map": MAP,
        "margin_um": 2.0,
        "purity": 1.0,
        **settings,
    }
    return PictureSource(folder / "labels", "areas", **given)


def read(source, mpp=0.5):
    return read_labelled_images([source], CLASSES, mpp, 8)


TWO_AREAS = geojson(
    (box(0, 0, 100, 160), "Dark"), (box(120, 0, 240, 160), "other"), (point(20, 20), "other")
)


def test_the_nuclei_in_an_area_have_its_class_or_one_of_its_set(tmp_path):
    (image,) = read(make(tmp_path, TWO_AREAS))
    left = image.nuclei.xy[:, 0] < 110
    assert (
        left.sum() == 8 and (~left).sum() == 12
    )  # 2 and 3 columns; the column at 100 px is in neither area
    assert set(image.nuclei.label[left]) == {0} and set(image.nuclei.label[~left]) == {-1}
    assert (image.nuclei.prob[left] == [1, 0, 0]).all() and (
        image.nuclei.prob[~left] == [0, 0.5, 0.5]
    ).all()
    assert np.isnan(image.nuclei.rays).all() and image.nuclei.rays.shape[1] == 8
    assert image.region[80, 50] and not image.region[80, 110] and not image.region[1, 50]


def test_the_margin_leaves_out_nuclei_at_the_border(tmp_path):
    content = geojson((box(0, 0, 69, 160), "Dark"))
    assert [len(read(make(tmp_path, content, margin_um=um))[0].nuclei) for um in (2.0, 5.0)] == [
        8,
        4,
    ]


def test_purity_spreads_the_rest_over_the_other_classes():
    assert expected_shares((0,), 3, 0.9) == pytest.approx([0.9, 0.05, 0.05])
    assert expected_shares((1, 2), 3, 0.8) == pytest.approx([0.2, 0.4, 0.4])


def test_a_mask_of_classes_labels_by_its_values_and_zero_only_if_mapped(tmp_path):
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[:, :100] = 7
    (image,) = read(make(tmp_path, mask, class_map={"7": "Dark"}))
    assert len(image.nuclei) == 8 and set(image.nuclei.label) == {0}
    (image,) = read(make(tmp_path, mask, class_map={"7": "Dark", "0": ["Pale", "Red"]}))
    assert (image.nuclei.label == 0).sum() == 8 and (image.nuclei.label == -1).sum() == 12


def test_a_coarse_picture_is_enlarged(tmp_path):
    (image,) = read(make(tmp_path, TWO_AREAS, mpp=0.9))
    assert image.pixels.shape[:2] == (288, 432) and image.areas[0].n_nuclei == 8
    assert image.nuclei.xy[:, 0].max() == pytest.approx(220.5 * 1.8, abs=2)


def test_areas_of_a_slide_and_its_windows(tmp_path):
    size = (900, 600)
    xy = grid_xy(size, first_px=60)
    write_pyramid(tmp_path / "S.tif", draw_nuclei(size, xy), mpp=0.51)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/S.geojson").write_text(
        geojson((box(80, 80, 380, 520), "Dark"), (box(500, 80, 800, 520), "other"))
    )
    source = SlideSource(
        tmp_path / "labels", "areas", slides=tmp_path, class_map=MAP, margin_um=2.0
    )
    images = read_labelled_images([source], CLASSES, 0.5, 8, 256)
    inside = ((xy > (84, 84)) & (xy < (376, 516))).all(1).sum() + (
        (xy > (504, 84)) & (xy < (796, 516))
    ).all(1).sum()
    assert len(images) > 2 and sum(len(image.nuclei) for image in images) == inside
    assert images[0].name == "S_area_x83_y83"  # level-0 px
    dark, others = LabelSummary(images, CLASSES, 0.5).areas
    assert (
        dark.startswith("Dark: ") and "in 1 area (" in dark and others.startswith("Pale or Red: ")
    )


def test_what_is_found_on_glass_is_not_labelled(tmp_path):
    pixels = np.full((600, 900, 3), 243, np.uint8)
    pixels[:, :400] = draw_nuclei((400, 600), grid_xy((400, 600), first_px=60))
    pixels[250:310, 700:760] = draw_nuclei(
        (60, 60), np.array([[30.0, 30.0]])
    )  # a speck that looks like a nucleus
    write_pyramid(tmp_path / "S.tif", pixels)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/S.geojson").write_text(geojson((box(650, 200, 800, 350), "Dark")))
    source = SlideSource(
        tmp_path / "labels", "areas", slides=tmp_path, class_map=MAP, margin_um=2.0
    )
    with pytest.raises(LabelError, match="feature 1: `compact` finds no nucleus"):
        read_labelled_images([source], CLASSES, 0.5, 8, 256)


def test_areas_that_touch_or_lie_within_their_margins_do_not_overlap(tmp_path):
    touching = geojson((box(0, 0, 103, 160), "Dark"), (box(97, 0, 240, 160), "other"))
    assert len(read(make(tmp_path, touching))) == 1


def test_an_empty_area_may_be_allowed(tmp_path):
    assert not len(
        read(make(tmp_path, geojson((box(101, 0, 119, 160), "Dark")), allow_empty=True))[0].nuclei
    )


def test_the_loss_of_a_set_is_on_the_sum_of_its_probabilities():
    logits = torch.tensor([[0.2, -0.4, 1.0]]).repeat(3, 1)
    label = torch.tensor([0, -1, -1])
    shares = torch.tensor([[0.0, 0, 0], [0, 0.5, 0.5], [0.9, 0.05, 0.05]])
    error, known = class_error(logits, label, shares, torch.ones(3))
    prob = logits[0].softmax(0)
    assert known.all()
    assert error[0] == pytest.approx(-math.log(prob[0]), abs=1e-5)
    assert error[1] == pytest.approx(-math.log(prob[1] + prob[2]), abs=1e-4)
    assert error[2] == pytest.approx(-math.log(prob[0] + (prob[1] + prob[2]) / 18), abs=1e-5)


def test_a_label_that_may_be_wrong_pulls_less_the_more_the_network_contradicts_it():
    logits = torch.tensor([[8.0, 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    shares = torch.tensor([[0.05, 0.9, 0.05]]).repeat(2, 1)
    error, _ = class_error(logits, torch.tensor([1, 1]), shares, torch.ones(3))
    error.sum().backward()
    assert logits.grad[0, 0] < 0.1 * logits.grad[1, 0]


def area_batch():
    """Maps and a batch of a single window of 32 px, which lies in a class area and has one
    nucleus.
    """
    maps = NucleusMaps(*(torch.zeros(1, n, 8, 8, requires_grad=True) for n in (1, 2, 3, 4)))
    region = torch.full((1, 8, 8), CLASSES_ONLY)
    rays = torch.full((1, 1, 4), torch.nan)
    shares = torch.tensor([[[0.0, 0.5, 0.5]]])
    return maps, LabelledBatch(
        None, None, torch.tensor([[[14.0, 14.0]]]), torch.tensor([[-1]]), rays, region, shares
    )


def test_an_area_trains_classes_and_neither_positions_nor_outlines():
    maps, batch = area_batch()
    DenseCriterion(0.5, torch.ones(3))(maps, batch)["loss"].backward()
    assert maps.label.grad.abs().sum() > 0
    assert all(
        one.grad is None or not one.grad.abs().sum()
        for one in (maps.centre, maps.offset, maps.rays)
    )


@pytest.mark.parametrize("where", ["everywhere", "outside"])
def test_a_teacher_teaches_positions_and_outlines_in_areas_and_leaves_the_classes(where):
    maps, batch = area_batch()
    teacher, taught = torch.nn.Identity(), NucleusMaps(*(torch.ones_like(one) for one in maps))
    taught.label[:, 0] = 3.0
    teacher.forward = lambda *_: taught
    batch = batch._replace(weak=LabelledBatch(None, None, None, None, None))
    DistillationTerm(0.5, [teacher], where)(maps, batch).backward()
    assert all(one.grad.abs().sum() > 0 for one in (maps.centre, maps.offset, maps.rays))
    assert maps.label.grad is None or not maps.label.grad.abs().sum()


def test_class_weights_follow_what_is_drawn_and_the_shares_of_sets(tmp_path):
    (image,) = read(make(tmp_path, TWO_AREAS))
    n_dark = int((image.nuclei.label == 0).sum())
    n_others = len(image.nuclei) - n_dark
    frequency = image.weight * np.array([n_dark, n_others / 2, n_others / 2])
    expected = frequency**-0.5
    found = class_weights([image], 3)
    np.testing.assert_allclose(found, expected / np.average(expected, weights=frequency), rtol=1e-5)
    points = dataclasses.replace(
        image, nuclei=image.nuclei[image.nuclei.label == 0], areas=(), weight=3.0
    )
    often = class_weights([image, points], 3)
    assert often[0] / often[1] == pytest.approx((n_others / 2 / (4 * n_dark)) ** 0.5, rel=1e-5)


def test_windows_of_areas_and_of_drawn_nuclei_go_together(tmp_path):
    (image,) = read(make(tmp_path / "a", TWO_AREAS))
    drawn = dataclasses.replace(
        make(tmp_path / "d", geojson(*((disc(*xy), "Dark") for xy in XY))), format="geojson"
    )
    colours, stains = np.tile(np.eye(3, 4), (2, 1, 1)), np.array([[0.6, 0.7, 0.3], [0.1, 1.0, 0.1]])
    settings = SimpleNamespace(mpp=0.5, window_px=128, batch=8, augmentation=Augmentation(), seed=1)
    windows = LabelledWindows([image, *read(drawn)], colours, stains, settings, torch.device("cpu"))
    batch = windows(0)
    in_area = batch.shares.sum(2) > 0
    assert in_area.any() and ((batch.label == 0) & ~in_area).any()
    assert CLASSES_ONLY in batch.region and (batch.region > 0).any()


def test_classes_in_areas_are_scored():
    true = Nuclei(
        [[10, 10], [30, 10], [50, 10], [70, 10]],
        Frame.WORK,
        prob=[[1, 0, 0]] * 2 + [[0, 0.5, 0.5]] * 2,
    )
    found = Nuclei(
        [[10, 10], [30, 11], [50, 10], [70, 10], [90, 10]], Frame.WORK, label=[0, 1, 2, 0, 0]
    )
    counts = count_area_classes(found, true, 0.5).values
    assert counts.tolist() == [[0, 0, 0], [1, 1, 1], [0, 1, 0.5], [1, 0, 0.5]]
