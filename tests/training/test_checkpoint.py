"""The checkpoint of a run, read by this package, by the authors' loader, and by the next run."""

import dataclasses

import pytest
import torch
from labelled import draw_labelled_folder, write_config

from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.methods.detector.start import read_start, take_over
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_detector_weights,
    save_checkpoint,
)
from muse_pipeline.training.run import plain_settings


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return load_detector_config(
        write_config(draw_labelled_folder(tmp_path_factory.mktemp("labelled")))
    )


def build(config):
    return NucleusDetector(config.backbone, config.head, len(config.classes), config.n_rays)


def write(path, config, with_head=True):
    network = build(config)
    meta = {"kind": "detector", "config": plain_settings(config, portable=True), "colour": {}}
    head = network.head.state_dict() if with_head else {}
    save_checkpoint(path, Checkpoint(network.backbone.state_dict(), head, meta))
    return network


def equal(one, other):
    return all(
        torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items()
    )


def test_a_round_trip_gives_the_same_features_bit_by_bit(config, tmp_path):
    """The weights are written by a run and loaded into a new network."""
    network, again = write(tmp_path / "c.pt", config).eval(), build(config).eval()
    load_detector_weights(again, load_checkpoint(tmp_path / "c.pt"), tmp_path / "c.pt")
    pixels = torch.randint(0, 256, (1, 3, 64, 64)).float()
    with torch.no_grad():
        for one, other in zip(
            network(pixels, torch.eye(3, 4)), again(pixels, torch.eye(3, 4)), strict=True
        ):
            assert torch.equal(one, other)


def test_the_authors_loader_takes_our_backbone(config, tmp_path):
    """That loader strictly loads the keys of ``teacher`` that begin with ``module.backbone.``."""
    network, again = write(tmp_path / "c.pt", config), build(config).backbone
    teacher = torch.load(tmp_path / "c.pt", map_location="cpu", weights_only=True)["teacher"]
    prefix = "module.backbone."
    again.load_state_dict(
        {name[len(prefix) :]: v for name, v in teacher.items() if name.startswith(prefix)},
        strict=True,
    )
    assert equal(network.backbone, again)


@pytest.mark.parametrize(
    "change, taken, head_is_taken",
    [
        ({}, "c.pt, backbone and head", True),
        ({"n_rays": 16}, "its head has other classes, rays, um per pixel or kind", False),
        ({"head": "point"}, "its head has other classes, rays, um per pixel or kind", False),
        ({"mpp": 0.25}, "its head has other classes, rays, um per pixel or kind", False),
    ],
)
def test_a_run_begins_with_the_head_only_where_it_means_the_same(
    config, tmp_path, change, taken, head_is_taken
):
    begun = write(tmp_path / "c.pt", config)
    config = dataclasses.replace(config, checkpoint=tmp_path / "c.pt", **change)
    network, start = build(config), read_start(config)
    take_over(network, start)
    assert taken in start.describe()
    assert equal(begun.backbone, network.backbone)
    if head_is_taken:
        assert equal(begun.head, network.head)


def test_classes_of_another_name_get_a_new_head(config, tmp_path):
    write(tmp_path / "c.pt", config)
    classes = (config.classes[0], dataclasses.replace(config.classes[1], name="Other"))
    config = dataclasses.replace(config, checkpoint=tmp_path / "c.pt", classes=classes)
    assert "a new one is trained" in read_start(config).describe()


def test_a_backbone_alone_is_enough(config, tmp_path):
    write(tmp_path / "c.pt", config, with_head=False)
    config = dataclasses.replace(config, checkpoint=tmp_path / "c.pt")
    take_over(build(config), read_start(config))
    assert read_start(config).describe() == "the backbone of c.pt"


def test_another_backbone_is_rejected_by_name(config, tmp_path):
    write(tmp_path / "c.pt", config)
    config = dataclasses.replace(config, backbone="muse_compact_48", checkpoint=tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="muse_compact_16"):
        take_over(build(config), read_start(config))


def without(state, name):
    state.pop(name)


def spoil_head(state, values):
    state["head"][next(iter(state["head"]))] = values


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda state: without(state, "head"), "its head or its description is missing or broken"),
        (lambda state: without(state, "meta"), "its head or its description is missing or broken"),
        (lambda state: state.update(meta="{"), "its head or its description is missing or broken"),
        (
            lambda state: spoil_head(state, torch.full((3,), float("nan"))),
            "3 of 3 values .* are not finite",
        ),
        (lambda state: spoil_head(state, torch.zeros(3)), "does not fit the config's head"),
        (lambda state: state.update(format="muse_pipeline 9"), "has the layout 'muse_pipeline 9'"),
    ],
)
def test_a_damaged_file_of_ours_begins_no_run(config, tmp_path, spoil, message):
    write(tmp_path / "c.pt", config)
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    spoil(state)
    torch.save(state, tmp_path / "c.pt")
    config = dataclasses.replace(config, checkpoint=tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        take_over(build(config), read_start(config))
    assert "\n" not in str(caught.value)
