"""Each stage of PSM by itself, on a few pixels: what it computes, what leaves it, and what it was made from."""

import dataclasses
import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_psm import CONFIG, load_psm_config

from muse_pipeline.inference.card import ColourReference
from muse_pipeline.methods.psm.activation import PriorSelfActivation
from muse_pipeline.methods.psm.labels import FoundLabelsStage, LabelsStage, write_labels
from muse_pipeline.methods.psm.mask_network import (
    MaskData,
    MaskedPicture,
    MaskNetwork,
    MaskRound,
    MaskTraining,
    TrainedMask,
)
from muse_pipeline.methods.psm.masks import read_pictures_and_masks, write_masks
from muse_pipeline.methods.psm.run import PsmRecipe, detector_config, round_config
from muse_pipeline.models.activation import ActivationNetwork
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.checkpoint import Checkpoint, save_checkpoint

REFERENCE = ColourReference("macenko", ((0.6, 0.7, 0.387), (0.2, 0.9, 0.387)), (1.4, 0.9))


@pytest.fixture
def config(tmp_path):
    """Settings whose tissue is one picture."""
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images/P.png"), stained(np.random.default_rng(0))[..., ::-1])
    (tmp_path / "psm.yaml").write_text(CONFIG)
    return load_psm_config(tmp_path / "psm.yaml")


def stained(generator, side=64):
    """Two dark discs on pink, with grain."""
    pixels = np.full((side, side, 3), (230, 170, 205), np.uint8)
    for x in (20, 44):
        cv2.circle(pixels, (x, 32), 7, (90, 50, 130), -1)
    return np.clip(pixels + generator.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)


def save_masks(folder, pixels, mask):
    """A finished stage of masks."""
    for name in ("pictures", "masks"):
        (folder / name).mkdir(parents=True)
    cv2.imwrite(str(folder / "pictures/a.png"), pixels[..., ::-1])
    cv2.imwrite(str(folder / "masks/a.png"), mask.astype(np.uint8) * 255)
    (folder / "made-from.json").write_text("{}")
    return folder


def save_network(path, bias, colour=REFERENCE):
    """A mask network that gives every pixel the logit ``bias``; one with random weights where that is None."""
    network = MaskNetwork("muse_compact_16")
    with torch.no_grad():
        network.head[2].weight.normal_() if bias is None else network.head[2].weight.zero_()
        network.head[2].bias.fill_(1.0 if bias is None else bias)
    meta = {"kind": "mask network", "backbone": "muse_compact_16", "config": {}, "colour": dataclasses.asdict(colour)}
    save_checkpoint(path, Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta))
    return path


def test_activation_compares_a_window_with_its_half_turn():
    """Pixel (y, x) of the turned window is pixel (S - 1 - y, S - 1 - x); batch norms see both ways at once."""
    torch.manual_seed(0)
    method = PriorSelfActivation(ActivationNetwork("shallow_cnn", 1)).train()
    batch = torch.randint(0, 256, (2, 3, 32, 32)).float()
    turned = torch.empty_like(batch)
    for y in range(32):
        for x in range(32):
            turned[:, :, y, x] = batch[:, :, 31 - y, 31 - x]
    output = method.network(torch.cat([batch, turned]))[:, 0].tolist()
    expected = (abs(output[0] - output[2]) + abs(output[1] - output[3])) / 2
    assert method.losses(batch, "model", 0.0)["loss"].item() == pytest.approx(expected, rel=1e-5)


def literal_map(fit, reference):
    """(3, 4): takes either stain's strong end to the reference's, and keeps what is perpendicular to both stains."""
    ours, target = [list(stains * ends[:, None]) for stains, ends in ((fit.stains, fit.strong), reference)]
    for columns in (ours, target):
        normal = np.cross(*columns)
        columns.append(normal / np.linalg.norm(normal))
    linear = np.array(target).T @ np.linalg.inv(np.array(ours).T)
    return torch.from_numpy(np.hstack([linear, np.zeros((3, 1))]).astype(np.float32))


def test_a_mask_network_sees_pictures_in_its_reference_colour(tmp_path):
    torch.manual_seed(0)
    network = MaskNetwork("muse_compact_16").eval()
    torch.nn.init.normal_(network.head[2].weight)
    pixels = stained(np.random.default_rng(1))
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    colour = literal_map(fit_macenko(pixels.reshape(-1, 3)), (np.array(REFERENCE.stains), np.array(REFERENCE.strong)))
    with torch.no_grad():
        expected, plain = (network(planes[None].float(), one)[0].sigmoid() for one in (colour, torch.eye(3, 4)))
    found = TrainedMask(network, REFERENCE)(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (expected - plain).abs().max() > 0.02


@pytest.mark.parametrize("colour", ["macenko", "identity"])
def test_a_round_learns_in_its_reference_colour(config, tmp_path, colour):
    pixels = stained(np.random.default_rng(1))
    dark = np.round(255 * (pixels / 255) ** 1.5).astype(np.uint8)
    masks = save_masks(tmp_path / "masks", pixels, np.zeros((64, 64)))
    cv2.imwrite(str(masks / "pictures/b.png"), dark[..., ::-1])
    cv2.imwrite(str(masks / "masks/b.png"), np.zeros((64, 64), np.uint8))
    settings = dataclasses.replace(config, detector=dataclasses.replace(config.detector, colour=colour))
    data = MaskRound(round_config(settings, masks, None), tmp_path / "round").read(print)
    assert data.reference.method == colour
    for picture, seen in zip(data.pictures, (pixels, dark), strict=True):
        expected = torch.eye(3, 4)
        if colour == "macenko":
            to = np.array(data.reference.stains), np.array(data.reference.strong)
            expected = literal_map(fit_macenko(seen.reshape(-1, 3)), to)
        np.testing.assert_allclose(picture.colour, expected, atol=1e-4)


def test_the_average_of_the_weights_leaves_a_round(config, tmp_path):
    """After two steps: 9/11 of the way to the first weights, and then 9/12 of the way to the second."""
    stage = MaskRound(round_config(config, tmp_path, None), tmp_path / "round")
    torch.manual_seed(0)
    method = MaskTraining(MaskNetwork("muse_compact_16"))
    states = [{name: value.clone() for name, value in method.network.state_dict().items()}]
    for step in (1, 2):
        with torch.no_grad():
            for parameter in method.network.parameters():
                parameter.add_(step)
        method.after_step(0.0)
        states.append({name: value.clone() for name, value in method.network.state_dict().items()})
    left = stage.checkpoint(MaskData([], ColourReference()), method)
    trained = {f"{part}.{name}": value for part in ("backbone", "head") for name, value in getattr(left, part).items()}
    assert trained.keys() == states[0].keys()
    for name, _ in method.network.named_parameters():
        first = states[0][name] + 9 / 11 * (states[1][name] - states[0][name])
        torch.testing.assert_close(trained[name], first + 9 / 12 * (states[2][name] - first), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bias", "n_found"), [(3.0, 1), (-3.0, 0), (None, 2)])
def test_labels_are_those_of_the_network_where_there_is_one(config, tmp_path, bias, n_found):
    """Here it takes all of a picture for one nucleus, or nothing; the masks hold two discs."""
    pixels = stained(np.random.default_rng(0))
    masks = save_masks(tmp_path / "masks", pixels, pixels[..., 1] < 110)
    network = None if bias is None else save_network(tmp_path / "network.pt", bias)
    (tmp_path / "labels").mkdir()
    write_labels(config, masks, network, tmp_path / "labels", print)
    painted = tmp_path / "labels/instances/a.png"
    instances = cv2.imread(str(painted), cv2.IMREAD_UNCHANGED) if painted.is_file() else np.zeros((64, 64))
    assert instances.max() == n_found
    assert (instances > 0).all() == (n_found == 1)


def test_a_later_round_learns_the_points_that_the_round_before_finds(config, tmp_path):
    """Its network takes all of the picture for nucleus: one point in the middle, and the mask stays what it was."""
    pixels = stained(np.random.default_rng(0))
    mask = pixels[..., 1] < 110
    masks, previous = save_masks(tmp_path / "masks", pixels, mask), save_network(tmp_path / "network.pt", 3.0)
    stage = MaskRound(round_config(config, masks, previous), tmp_path / "round")
    (picture,) = stage.read(print).pictures
    assert isinstance(picture, MaskedPicture) and np.array_equal(picture.mask, mask)
    rows, columns = np.nonzero(picture.voronoi == 1)
    assert (rows.mean(), columns.mean()) == pytest.approx((32, 32), abs=0.6) and len(rows) < 12
    weights = stage.build(None).network.head[2].bias
    assert (weights == 3.0).all()
    assert MaskRound(round_config(config, masks, None), tmp_path / "r").read(print).pictures[0].voronoi is None


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_labels_are_made_again_when_masks_network_or_settings_change(config, tmp_path):
    masks = save_masks(tmp_path / "masks", np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9)))
    network = save_network(tmp_path / "network.pt", 1.0)
    first = LabelsStage(config, masks, network, tmp_path / "labels").made_from()
    assert first["mask_network"] == sha256(network) and first["masks"] == sha256(masks / "made-from.json")
    save_network(network, 2.0)
    (masks / "made-from.json").write_text("{ }")
    second = LabelsStage(config, masks, network, tmp_path / "labels").made_from()
    assert {name for name in first if first[name] != second[name]} == {"mask_network", "masks"}
    assert LabelsStage(config, masks, None, tmp_path / "labels").made_from()["mask_network"] is None


def test_found_labels_are_made_again_when_the_detector_or_its_export_changes(config, tmp_path):
    path, meta = tmp_path / "detector.pt", {"kind": "detector", "config": {}, "colour": None}
    settings = detector_config(config, tmp_path / "labels")

    def made_from(**changes):
        export = dataclasses.replace(settings.export, **changes)
        changed = dataclasses.replace(settings, export=export)
        return FoundLabelsStage(changed, path, tmp_path / "labels", tmp_path / "found", "found").made_from()

    save_checkpoint(path, Checkpoint({"a": torch.zeros(2)}, {"b": torch.zeros(2)}, meta))
    first = made_from()
    for change in ({"threshold": 0.1}, {"colour_share": 0.5}, {"snap_um": 0.5}, {"refine": True}):
        assert made_from(**change) != first
    assert made_from(precision="int8") == first
    for backbone, head in (([0.0, 1], [0.0, 0]), ([0.0, 0], [0.0, 1])):
        save_checkpoint(path, Checkpoint({"a": torch.tensor(backbone)}, {"b": torch.tensor(head)}, meta))
        assert made_from() != first


def test_every_stage_reads_what_the_one_before_left(config, tmp_path):
    """The last round of the mask network labels; each self-training learns from the detector before it."""
    changed = dataclasses.replace(
        config, masks="activation", self_training=dataclasses.replace(config.self_training, rounds=2, threshold=0.2)
    )
    stages = {stage.name: stage for stage in PsmRecipe().stages(changed, tmp_path / "run")}
    found = [stage for stage in PsmRecipe().stages(changed, tmp_path / "run") if isinstance(stage, FoundLabelsStage)]
    masks, labels, detector = stages["masks"], stages["labels"], stages["detector"]
    assert masks.activation == stages["activation"].result
    first, second = stages["mask-network-1"], stages["mask-network-2"]
    assert (first.config.masks, first.config.previous) == (masks.result, None)
    assert (second.config.masks, second.config.previous) == (masks.result, first.result)
    assert (labels.masks, labels.network) == (masks.result, second.result)
    assert detector.config.sources[0].labels == labels.result / "instances"
    trained = [detector, stages["self-training-1"], stages["self-training-2"]]
    for number, stage in enumerate(found):
        assert stage.detector == trained[number].result and stage.config.export.threshold == 0.2
        assert trained[number + 1].config.sources[0].labels == stage.result / "instances"
    assert (found[0].labels, found[1].labels) == (labels.result, found[0].result)


def test_masks_are_fitted_to_each_picture(config, tmp_path):
    """A pale picture beside a dark one has its nuclei all the same."""
    pale = np.round(255 * (stained(np.random.default_rng(1)) / 255) ** 0.5).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "images/Q.png"), pale[..., ::-1])
    (tmp_path / "masks").mkdir()
    write_masks(config, None, tmp_path / "masks", print)
    for _, _, mask in read_pictures_and_masks(tmp_path / "masks"):
        discs = np.zeros((64, 64), np.uint8)
        for x in (20, 44):
            cv2.circle(discs, (x, 32), 7, 1, -1)
        assert (mask == (discs > 0)).mean() > 0.97
