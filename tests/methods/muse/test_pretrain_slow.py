"""Slower tests of pretraining: kills without warning, two processes, every backbone, a thousand
stores.
"""

import re
import shutil
import sys

import numpy as np
import pytest
import torch
from labelled import CPU
from pretraining import draw_pictures, draw_slide, write_config

from experiments.common.runs import TOP
from experiments.common.training import load_muse_config, pretrain
from muse_pipeline.models import BACKBONES
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.loop import MetricsLog

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS = 14
MUSE = f"{sys.executable} -m muse_pipeline.cli.main pretrain".split()
TINY_VIEWS = ("views.global_px=64", "views.local_px=32", "views.n_local=1")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_pictures(
        tmp_path_factory.mktemp("pictures"), schedule={"steps": STEPS, "save_every": 3}
    )


def command(config, folder, *options, settings=()):
    return [
        *MUSE,
        *f"{config} -o {folder} --accelerator cpu".split(),
        *options,
        *(["--set", *settings] if settings else []),
    ]


def rows(folder):
    return MetricsLog(folder / "metrics.jsonl").read()


# The narrowest backbone of each architecture; a later test trains transformers.
NARROWEST = {
    re.sub(r"(_\d+)+$", "", name): name
    for name in reversed(BACKBONES.names())
    if "_vit_" not in name
}


@pytest.mark.parametrize("name", NARROWEST.values())
def test_every_architecture_takes_a_step(name, pictures, tmp_path):
    changes = [
        f"backbone={name}",
        *TINY_VIEWS,
        "schedule.steps=1",
        "schedule.save_every=1",
        "batch=2",
    ]
    pretrain(load_muse_config(pictures, changes=changes), tmp_path, CPU)
    (row,) = rows(tmp_path)
    assert np.isfinite(list(row.values())).all()
    state = torch.load(tmp_path / "resume.pt", weights_only=True, mmap=True)
    first = {
        key.removeprefix("backbone."): v
        for key, v in state["method"].items()
        if key.startswith("backbone.")
    }
    second = load_checkpoint(tmp_path / "checkpoint.pt").backbone
    assert first.keys() == second.keys()
    shutil.rmtree(tmp_path)  # the run's folder holds gigabytes


def test_a_transformer_goes_on_at_large_views(pictures, tmp_path):
    """Larger fields of view: weights for 224 px start the network for 512 px, whose table of
    positions is larger.
    """
    steps = ["schedule.steps=1", "batch=2", *TINY_VIEWS]
    small = load_muse_config(pictures, changes=["backbone=muse_vit_s_16_224", *steps])
    begun = pretrain(small, tmp_path / "small", CPU)
    for backbone, side in (("muse_vit_s_16_512", 96), ("muse_vit_s_16_224", 96)):
        changes = [
            *steps,
            f"backbone={backbone}",
            f"checkpoint={begun}",
            f"views.global_px={side}",
            "views.local_px=48",
        ]
        still = ["schedule.learning_rate=1e-30", "distillation.momentum=1"]
        folder = tmp_path / backbone
        large = load_checkpoint(
            pretrain(load_muse_config(pictures, changes=[*changes, *still]), folder, CPU)
        )
        before, name = load_checkpoint(begun).backbone, "encoder.encoder.pos_embed"
        assert large.meta["window_px"] == side
        assert large.backbone[name].shape == (1, 1 + (int(backbone[-3:]) // 16) ** 2, 384)
        kept = [key for key in before if key != name and before[key].ndim > 1]
        assert all(torch.equal(before[key], large.backbone[key]) for key in kept)
        shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "small")


@pytest.mark.parametrize(
    "images, mpp",
    [("brca-m2c", 0.5), ("tnbc-nuclei", 0.25), ("nuinsseg-oesophagus", 0.25)],
)
def test_the_smoke_recipe_ends_on_any_ten_pictures(shared_data, tmp_path, images, mpp):
    """With teachers that were less sharp, targets became alike by step 46."""
    for path in sorted((shared_data / images / "images").iterdir())[::2][:10]:
        (tmp_path / "images").mkdir(exist_ok=True)
        shutil.copyfile(path, tmp_path / "images" / path.name)
    source = f"sources=[{{images: {tmp_path / 'images'}, mpp: {mpp}}}]"
    recipe = TOP / "config/train/muse_pretrain.yaml"
    pretrain(load_muse_config(recipe, changes=["stage=smoke", source]), tmp_path / "run", CPU)
    last = rows(tmp_path / "run")[-1]
    assert last["spread"] >= 0.3 and last["entropy_nucleus"] < 0.97


def test_a_short_run_does_not_collapse(tmp_path):
    """The synthetic tissue has two kinds of nuclei, but whole views look alike."""
    draw_slide(tmp_path / "S1")
    source = {"store": "S1/image-500nm.zarr", "proposals": "S1/proposals.parquet"}
    schedule = {"steps": 300, "learning_rate": 0.002, "log_every": 4, "save_every": 300}
    learning = {
        "image_weight": 0.0,
        "n_prototypes": 128,
        "hidden": 128,
        "bottleneck": 64,
        "momentum": 0.98,
    }
    path = write_config(
        tmp_path / "c.yaml", [source], batch=8, schedule=schedule, distillation=learning
    )
    pretrain(load_muse_config(path), tmp_path / "run", CPU)
    found = rows(tmp_path / "run")
    last = {name: np.mean([row[name] for row in found[-10:]]) for name in found[0]}
    assert 0.2 < last["entropy_nucleus"] < 0.97  # 1 after a collapse to uniform assignments
    assert last["spread"] >= 0.3
    assert last["prototypes_nucleus"] >= 0.1  # two kinds of nuclei need fewer than real tissue
    peak = np.mean(
        [row["nucleus"] for row in found[24:36]]
    )  # it rises while the teacher departs from chance
    assert last["nucleus"] < 0.985 * peak  # the measured fall is 2.5 %
