"""Windows around points, splits that never choose and report at once, and `muse probe` on drawn pictures."""

import numpy as np
import pytest
import torch
from drawn_probe import write_probe_configs

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import read_json
from muse_pipeline.core.types import Frame
from muse_pipeline.data.labelled_points import (
    PointSet,
    cut_point_windows,
    largest_reflection,
    point_features,
    read_window,
)
from muse_pipeline.evaluation.detection import accuracy, balanced_accuracy, score_classes
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.base import Backbone, Features
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.probing.protocols import ProbeSplit, choose, split_halves, split_validation_and_test
from muse_pipeline.training.checkpoint import Checkpoint, save_checkpoint

IDENTITY = np.eye(3, 4)


def picture(width, height, xy, label=None, region=None, patient="p"):
    """Red is x and green is y, over four."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x // 4, y // 4, np.zeros_like(x)], -1).astype(np.uint8)
    label = np.zeros(len(xy), int) if label is None else label
    nuclei = Nuclei(xy, Frame.WINDOW, label=label)
    return LabelledImage(name="i", pixels=pixels, nuclei=nuclei, stain=None, weight=1.0, region=region, patient=patient)


def test_every_nucleus_is_in_one_window_of_its_cell():
    xy = np.random.default_rng(0).uniform(0, 491, (300, 2))
    image = picture(491, 491, xy, label=np.arange(300) % 4 - 1)
    windows = cut_point_windows([image], 224)
    assert sum(len(window.label) for window in windows) == 225
    assert {window.origin for window in windows} == {(x, y) for x in (0, 224, 267) for y in (0, 224, 267)}
    positions = np.concatenate([window.xy + np.array(window.origin) for window in windows])
    assert np.allclose(np.sort(positions, 0), np.sort(xy[image.nuclei.label >= 0], 0), atol=1e-3)
    for window in windows:
        assert ((window.xy >= 0) & (window.xy <= 224)).all()
    assert largest_reflection(windows) == 0


def test_every_nucleus_lies_in_its_window_however_small():
    xy = np.random.default_rng(0).uniform(0, 491, (300, 2))
    windows = cut_point_windows([picture(491, 491, xy)], 96)
    assert sum(len(window.label) for window in windows) == 300
    assert all(((window.xy >= 0) & (window.xy <= 96)).all() for window in windows)


def test_a_window_larger_than_its_picture_is_centred_and_reflected():
    image = picture(491, 491, np.array([(0.5, 0.5), (490.5, 300.0)]))
    (window,) = cut_point_windows([image], 512)
    assert window.origin == (-11, -11)
    pixels = read_window(image, window, 512)
    assert pixels.shape == (512, 512, 3)
    assert np.array_equal(pixels[11:502, 11:502], image.pixels)
    assert np.array_equal(pixels[:, 10], pixels[:, 12])
    assert largest_reflection([window]) == 11


def test_cells_begin_at_the_annotated_region_and_windows_see_what_lies_around_it():
    region = np.zeros((900, 900), bool)
    region[300:524, 400:848] = True
    image = picture(900, 900, np.array([(410.0, 310.0), (840.0, 500.0)]), region=region)
    assert [w.origin for w in cut_point_windows([image], 224)] == [(400, 300), (624, 300)]
    assert [w.origin for w in cut_point_windows([image], 512)] == [(256, 156), (388, 156)]  # the second moved inside


class Ramp(Backbone):
    """Every cell states where it lies: x and y of its centre, and the red of its pixels."""

    channels, image_channels, stride_px = 3, 1, 4

    def prepare(self, pixels, colour):
        return pixels

    def forward(self, image):
        rows, columns = image.shape[2] // 4, image.shape[3] // 4
        y, x = torch.meshgrid(torch.arange(rows) * 4 + 2.0, torch.arange(columns) * 4 + 2.0, indexing="ij")
        location = torch.stack([x, y]).expand(len(image), -1, -1, -1)
        red = torch.nn.functional.avg_pool2d(image[:, :1], 4)
        return Features(torch.cat([location, red], 1), red.mean((2, 3)))


def test_features_are_those_of_the_points_in_their_order():
    random = np.random.default_rng(1)
    images = [
        picture(500, 460, random.uniform(4, 450, (n, 2)), random.integers(0, 2, n), patient=str(n)) for n in (7, 90)
    ]
    points = PointSet(images, np.stack([IDENTITY] * 2), 224)
    features = point_features(Ramp(), points, torch.device("cpu")).numpy()
    xy = np.concatenate([window.xy for window in points.windows])
    inside = ((xy > 2) & (xy < 222)).all(1)
    assert np.allclose(features[inside, :2], xy[inside], atol=1e-3)
    level0_x = np.concatenate([window.xy[:, 0] + window.origin[0] for window in points.windows])
    assert np.abs(features[inside, 2] - level0_x[inside] / 4).max() < 1
    assert points.patient.tolist() == ["7"] * 7 + ["90"] * 90


def test_what_chooses_is_not_reported():
    label = np.array([0, 0, 1, 1])
    candidates = np.array([[0, 1, 1, 1], [1, 0, 0, 0], [0, 1, 0, 0]])
    split = ProbeSplit(np.array([True, False, False, False]), np.array([False, True, True, True]))
    assert choose(candidates, label, [split])[0].tolist() == [-1, 1, 1, 1]
    assert choose(candidates, label, [split])[1] == [0]
    assert choose(candidates, label, [split], last=True)[1] == [2]
    halves = split_halves(np.array(["b", "a", "b", "c"]))
    assert [half.reported.tolist() for half in halves] == [[False, True, False, True], [True, False, True, False]]
    assert all(not (half.choosing & half.reported).any() for half in halves)
    (split,) = split_validation_and_test(2, 3)
    assert split.reported.tolist() == [False, False, True, True, True]
    with pytest.raises(ConfigError, match="all of patient 'a'"):
        split_halves(np.array(["a", "a"]))


def test_accuracies():
    confusion = np.array([[8, 2], [1, 1]])
    assert accuracy(confusion) == 75
    assert balanced_accuracy(confusion) == 65
    assert balanced_accuracy(np.array([[8, 2], [0, 0]])) == 80
    scores = score_classes(np.array([0, 0, 1]), np.array([0, 1, 1]), ["p", "q", "q"], ["a", "b"], repeats=200)
    assert scores["accuracy"] == pytest.approx(200 / 3)
    assert scores["balanced_accuracy"] == 75
    assert scores["recall"] == {"a": 50, "b": 100}
    assert scores["accuracy_interval"] == (50, 100)


def test_probe_of_drawn_pictures(muse, tmp_path):
    config, test = write_probe_configs(tmp_path)
    status, out, _ = muse("probe", config, "--finetune", "--finetune-rate", "0.001", "--json", tmp_path / "p.json")
    assert status == 0
    assert "muse_compact_16 (random, not trained), windows of 224 px at 0.5 um/px" in out
    assert "validation patients in halves" in out
    assert "added by reflection" in out
    result = read_json(tmp_path / "p.json")
    assert set(result["protocols"]) == {"kNN, k by validation", "kNN, best k on the test", "linear", "fine-tune"}
    for protocol in result["protocols"].values():
        assert protocol["accuracy"] > 80  # dark or pale: even random features tell
        assert np.sum(protocol["confusion"]) == 4 * 36
    assert max(result["protocols"]["kNN, k by validation"]["k"]) <= 2 * 36  # no more neighbours than there are
    by_validation, by_test = (result["protocols"][f"kNN, {name}"] for name in ("k by validation", "best k on the test"))
    assert by_test["accuracy"] >= by_validation["accuracy"]
    status, out, _ = muse("probe", config, "--test", test, "--json", tmp_path / "t.json")
    assert status == 0
    assert "validation chooses, the test is reported" in out
    assert read_json(tmp_path / "t.json")["splits"]["test"]["n_nuclei"] == 2 * 36


def test_probe_states_what_is_wrong(muse, tmp_path):
    config, _ = write_probe_configs(tmp_path)
    text = config.read_text()
    mistakes = {
        (config, "--backbone", "muse_compact_17"): "muse_compact_16",
        (config, "--window-px", "100"): "a window of 100 px does not suit",
        (config, "--checkpoint", tmp_path / "none.pt"): "none.pt",
        (config, "--test", config): "patients in training and in test: P0",
    }
    for arguments, message in mistakes.items():
        status, out, errors = muse("probe", *arguments)
        assert (status, out) == (2, "")
        assert message in errors
    config.write_text(text[: text.index("validation:")])
    status, _, errors = muse("probe", config)
    assert status == 2
    assert "no `validation`" in errors


def test_a_probe_needs_nuclei_and_other_patients_in_every_split(muse, tmp_path):
    config, test = write_probe_configs(tmp_path)
    (tmp_path / "test.txt").write_text("P5.png\nP6.png\n")
    status, _, errors = muse("probe", config, "--test", test)
    assert status == 2
    assert "patients in validation and in test: P5" in errors
    (tmp_path / "test.txt").write_text("P6.png\n")
    (tmp_path / "labels" / "P6_points.txt").write_text("")
    test.write_text(test.read_text().replace("    split:", "    allow_empty: true\n    split:"))
    status, _, errors = muse("probe", config, "--test", test)
    assert status == 2
    assert "the test pictures hold no nucleus of a known class" in errors


def test_shared_patients_are_named_where_they_are_allowed(muse, tmp_path):
    config, _ = write_probe_configs(tmp_path)
    status, out, _ = muse("probe", config, "--test", config, "--allow-shared-patients")
    assert status == 0
    assert "patients in training and in test, which flatters: P0, P1" in out


def test_a_checkpoint_of_ours_brings_its_colour(muse, tmp_path):
    config, test = write_probe_configs(tmp_path)
    torch.manual_seed(7)
    colour = {"method": "macenko", "stains": [[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]], "strong": [1.5, 1.0]}
    weights = BACKBONES["muse_compact_16"]().state_dict()
    save_checkpoint(tmp_path / "mine.pt", Checkpoint(weights, {}, {"kind": "detector", "colour": colour}))
    status, out, _ = muse("probe", config, "--test", test, "--checkpoint", tmp_path / "mine.pt")
    assert status == 0
    assert "muse_compact_16 (mine.pt), windows of 224 px at 0.5 um/px, colour macenko" in out


def test_registered_backbones_can_be_probed():
    image = picture(300, 300, np.array([(20.0, 30.0), (250.0, 280.0)]))
    points = PointSet([image], IDENTITY[None], 224)
    features = point_features(BACKBONES["muse_compact_16"](), points, torch.device("cpu"))
    assert features.shape == (2, 16)
    assert features.isfinite().all()
