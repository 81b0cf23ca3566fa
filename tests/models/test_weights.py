"""Checkpoint files in the authors' layout: weights are read unchanged, and files that do not fit
are rejected.
"""

import argparse
import fractions
from pathlib import Path

import pytest
import torch

from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.muse import MuseVit, resample_positions, square_grid
from muse_pipeline.models.weights import POSITIONS, PREFIX, load_weights
from muse_pipeline.training.checkpoint import (
    Checkpoint,
    load_backbone,
    load_checkpoint,
    recognise_backbone,
    save_checkpoint,
)

VIT, SMALL = "muse_vit_s_16_224", "muse_compact_16"


def build(name, seed=0):
    torch.manual_seed(seed)
    return BACKBONES[name]().eval()


def thin_vit(seed=0, input_px=224):
    """A ViT/16 with the decoder of MUSE and a single attention head; its layout is that of
    registered backbones.
    """
    torch.manual_seed(seed)
    return MuseVit(64, 1, input_px).eval()


def hollow(name):
    """A backbone without memory for its weights, for tests of names and shapes only."""
    with torch.device("meta"):
        return BACKBONES[name]()


def shapes_of(name):
    return hollow(name).state_dict()


def write_official(path: Path, weights, **others) -> Path:
    """Write weights as the authors do: with a prefix, and with other results of the training in the
    same file.
    """
    teacher = {PREFIX + name: value for name, value in weights.items()} | {
        "module.head.mlp.0.weight": torch.ones(2)
    }
    torch.save({"teacher": teacher, "epoch": 100, **others}, path)
    return path


def load_as_the_authors(path: Path, backbone):
    """Load as the authors do: strip the prefix of keys and drop other keys, resample positions, and
    load strictly.
    """
    teacher = torch.load(path, map_location="cpu", weights_only=True)["teacher"]
    weights = {
        key.removeprefix(PREFIX): value for key, value in teacher.items() if key.startswith(PREFIX)
    }
    if POSITIONS in weights:
        grid = square_grid(backbone.state_dict()[POSITIONS])
        weights[POSITIONS] = resample_positions(weights[POSITIONS], (grid, grid))
    backbone.load_state_dict(weights, strict=True)
    return backbone


@torch.inference_mode()
def features_of(backbone):
    return backbone(torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1)))


def same_features(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(features_of(first), features_of(second), strict=True)
    )


def rejection(path, name=SMALL, **options) -> str:
    """The one-line message with which a file is rejected."""
    with pytest.raises(CheckpointError) as rejected:
        load_backbone(BACKBONES[name](), path, **options)
    sentence = str(rejected.value)
    assert sentence.startswith(f"{path}: ")
    assert "\n" not in sentence
    return sentence


@pytest.fixture(scope="module")
def source():
    return build(VIT)


@pytest.fixture(scope="module")
def official(tmp_path_factory, source):
    return write_official(
        tmp_path_factory.mktemp("official") / "vit_s_16-224.pth", source.state_dict()
    )


def test_an_official_file_and_what_we_write_of_it_give_the_same_bits(
    official, source, tmp_path, muse
):
    path = tmp_path / "checkpoint.pt"
    assert muse(f"step import-checkpoint {official} -o {path}") == (0, f"{path}: {VIT}\n", "")
    direct = BACKBONES[VIT]().eval()
    load_backbone(direct, official)
    expected = features_of(direct)
    load_backbone(direct, path)
    assert all(torch.equal(*pair) for pair in zip(features_of(direct), expected, strict=True))
    assert load_checkpoint(path).meta["backbone"] == VIT
    assert load_checkpoint(path).meta["source"]["file"] == "vit_s_16-224.pth"

    by_authors = load_as_the_authors(path, source)  # last, because it changes the source
    assert all(torch.equal(*pair) for pair in zip(features_of(by_authors), expected, strict=True))


def test_positions_of_an_official_file_are_resampled_even_at_their_own_grid(tmp_path):
    source, ours = thin_vit(), thin_vit(1)
    load_backbone(ours, write_official(tmp_path / "a.pth", source.state_dict()))
    table = source.state_dict()[POSITIONS]
    assert not torch.equal(ours.state_dict()[POSITIONS], table)
    assert torch.equal(ours.state_dict()[POSITIONS], resample_positions(table, (14, 14)))


@pytest.mark.parametrize("grid", [14, 32, 20])
def test_any_square_grid_of_positions_is_taken(grid):
    table = torch.randn(1, 1 + grid * grid, 64, generator=torch.Generator().manual_seed(grid))
    weights = {**thin_vit().state_dict(), POSITIONS: table}
    network = thin_vit(1, input_px=512)
    load_weights(network, weights, Path("a.pth"), always_resample=True)
    assert torch.equal(network.state_dict()[POSITIONS], resample_positions(table, (32, 32)))
    load_weights(network, weights, Path("a.pth"), always_resample=False)
    assert torch.equal(
        network.state_dict()[POSITIONS],
        table if grid == 32 else resample_positions(table, (32, 32)),
    )


def test_our_own_files_round_trip(tmp_path):
    """In our own files, positions are not resampled."""
    for written, read in ((thin_vit(), thin_vit(1)), (build(SMALL), build(SMALL, 1))):
        save_checkpoint(tmp_path / "a.pt", Checkpoint(written.state_dict(), {}, {}))
        load_backbone(read, tmp_path / "a.pt")
        assert same_features(written, read)


@pytest.mark.parametrize(
    "name, file, grid, expected",
    [
        ("muse_vit_s_16_224", "vit_s_16-224.pth", 14, "muse_vit_s_16_224"),
        ("muse_vit_s_16_224", "vit_s_16_512.pth", 14, "muse_vit_s_16_512"),
        ("muse_vit_b_16_512", "vit_b_16-512.pth", 32, "muse_vit_b_16_512"),
        ("muse_vit_b_16_512", "mine.pth", 32, "muse_vit_b_16_512"),
        ("muse_vit_s_16_224", "mine_2.pth", 14, "muse_vit_s_16_224"),
        ("muse_r50_224", "r50-224.pth", None, "muse_r50_224"),
        ("muse_r50_224", "r50_512.pth", None, "muse_r50_512"),
        ("muse_compact_16", "mine.pth", None, "muse_compact_16"),
    ],
)
def test_the_network_is_distinguished_from_the_file(name, file, grid, expected):
    weights = shapes_of(name)
    if grid:
        weights[POSITIONS] = torch.empty(
            1, 1 + grid * grid, weights[POSITIONS].shape[2], device="meta"
        )
    assert recognise_backbone(weights, Path(file)) == expected


def test_two_networks_that_fit_are_asked_about():
    with pytest.raises(CheckpointError, match="fits muse_r50_224"):
        recognise_backbone(shapes_of("muse_r50_224"), Path("mine.pth"))


def test_a_stranger_is_compared_with_the_nearest():
    weights = shapes_of("muse_r50_224") | {"fc.weight": torch.ones(2)}
    with pytest.raises(CheckpointError, match=r"nearest, muse_r50_\d+: surplus fc.weight"):
        recognise_backbone(weights, Path("mine.pth"))


def test_another_architecture_is_named():
    for given, wanted in (("muse_vit_b_16_224", VIT), (VIT, SMALL), ("muse_r50_224", VIT)):
        with pytest.raises(
            CheckpointError, match=f"fits {given} or .*, not {wanted}.*; choose the backbone"
        ):
            load_weights(hollow(wanted), shapes_of(given), Path("a.pth"), always_resample=True)


def test_missing_surplus_and_misshapen_names_are_listed():
    weights = shapes_of(VIT)
    for name in ("encoder.encoder.norm.weight", "encoder.encoder.norm.bias"):
        del weights[name]
    weights["extra"] = torch.ones(1)
    weights["encoder.encoder.patch_embed.proj.bias"] = torch.ones(7)
    with pytest.raises(CheckpointError) as rejected:
        load_weights(hollow(VIT), weights, Path("a.pth"), always_resample=True)
    assert (
        "does not fit muse_vit_s_16_224 or muse_vit_s_16_512: missing encoder.encoder.norm.bias,"
        " encoder.encoder.norm.weight; surplus extra; of a different shape"
        " encoder.encoder.patch_embed.proj.bias (7,), not (384,)" in str(rejected.value)
    )


def test_positions_must_make_a_square():
    weights = shapes_of(VIT) | {POSITIONS: torch.zeros(1, 198, 384)}
    with pytest.raises(CheckpointError, match="different shape"):
        load_weights(hollow(VIT), weights, Path("a.pth"), always_resample=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_rejected(tmp_path, value):
    weights = build(SMALL).state_dict()
    weights["stem.0.0.weight"][0, 0, 0, :2] = value
    sentence = rejection(write_official(tmp_path / "a.pth", weights))
    assert "2 of 768 values of `stem.0.0.weight` are not finite" in sentence


def test_a_pickle_that_needs_more_is_rejected_with_the_reason(tmp_path):
    written = build(SMALL)
    path = write_official(tmp_path / "a.pth", written.state_dict(), args=fractions.Fraction(1, 2))
    sentence = rejection(path)
    assert "contains fractions.Fraction, which is code" in sentence
    assert "--trust-pickle" in sentence
    read = build(SMALL, 1)
    load_backbone(read, path, trust_pickle=True)
    assert same_features(written, read)


def test_the_settings_that_dino_keeps_as_a_namespace_are_read(tmp_path):
    written, read = build(SMALL), build(SMALL, 1)
    settings = argparse.Namespace(
        arch="vit_small", lr=5e-4, local_crops_scale=(0.05, 0.4), norm_last_layer=True
    )
    load_backbone(read, write_official(tmp_path / "a.pth", written.state_dict(), args=settings))
    assert same_features(written, read)


def test_files_that_are_no_checkpoint(tmp_path):
    assert "no such checkpoint" in rejection(tmp_path / "none.pth")
    assert "no such checkpoint" in rejection(tmp_path)
    noise = tmp_path / "noise.pth"
    noise.write_bytes(bytes(range(256)) * 4)
    assert "not readable" in rejection(noise)
    assert "not readable" in rejection(noise, trust_pickle=True)
    whole = write_official(tmp_path / "whole.pth", build(SMALL).state_dict())
    noise.write_bytes(whole.read_bytes()[:5000])
    assert "not readable" in rejection(noise)


@pytest.mark.parametrize(
    "content, words",
    [
        ([torch.ones(1)], "contains a list, not a dictionary"),
        ({"student": {}, "epoch": 1}, "has no dictionary `teacher` (it has `student`, `epoch`)"),
        (dict.fromkeys("abcdef", 1), "(it has `a`, `b`, `c`, `d` and 2 more)"),
        (
            {"teacher": {"backbone.cls_token": torch.ones(1)}},
            "no name in its `teacher` begins with `module.backbone.`",
        ),
        ({"teacher": {PREFIX + "a": 3}}, "`a` is a int, not a tensor"),
        ({"teacher": {}}, "(it has nothing)"),
    ],
)
def test_dictionaries_of_another_layout(tmp_path, content, words):
    torch.save(content, tmp_path / "a.pth")
    assert words in rejection(tmp_path / "a.pth")


def test_the_verb_rejects_what_does_not_fit(tmp_path, muse):
    official = write_official(tmp_path / "a.pth", build(SMALL).state_dict())
    ours, output = tmp_path / "ours.pt", tmp_path / "out.pt"
    save_checkpoint(ours, Checkpoint(build(SMALL).state_dict(), {}, {}))
    for arguments, words in (
        ([official, "--backbone", "muse_compact_48"], "fits muse_compact_16, not muse_compact_48"),
        ([official, "--backbone", "muse_compact_61"], "did you mean"),
        ([ours], "is a checkpoint of this pipeline already"),
    ):
        errors = muse.fails("step import-checkpoint", *arguments, "-o", output)
        assert words in errors
    assert not output.exists()
