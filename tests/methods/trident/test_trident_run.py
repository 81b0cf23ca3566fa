"""Runs on synthetic slides and pictures: what they write, what they resume from and what they
reject.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from every_setting import IN_VIEWS, NAMES, SCHEDULE, Kind, last_stage
from labelled import write_config as write_training_config
from paired import SETTINGS, draw_paired_pictures, draw_paired_slide, write_paired_config
from pretraining import draw_slide, write_proposals

from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.nuclei.parquet import read_nuclei
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.recipe import load_run


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return draw_paired_slide(tmp_path_factory.mktemp("slides") / "S1")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_paired_pictures(tmp_path_factory.mktemp("pictures"))


def beside(slide, name):
    return slide["store"].replace("image-500nm.zarr", name)


def with_partner(slide, **partner):
    return {**slide, "partner": partner}


def train(config, folder):
    return f"train {config} -o {folder} --accelerator cpu --threads 1"


KINDS = {"store": "partner.zarr", "nuclei": "nuclei.geojson"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_slide_is_trained_with_every_kind_of_partner(kind, slide, tmp_path, muse):
    partner = {kind: beside(slide, KINDS[kind])}
    alone = {**slide, "weight": 0.5}
    config = write_paired_config(
        tmp_path, [with_partner(slide, **partner), alone], schedule={"steps": 3}
    )
    status, _, errors = muse(train(config, tmp_path / "run"))
    assert status == 0, errors
    assert "1 of 2 images have partners" in errors
    checkpoint = load_checkpoint(tmp_path / "run/checkpoint.pt")
    assert checkpoint.meta["kind"] == "backbone" and not checkpoint.head
    assert checkpoint.meta["config"]["method"] == "trident" and checkpoint.meta["images"] == ["S1"]
    assert (tmp_path / "run/pairs.png").is_file()
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {"image_variance", "nucleus_covariance", "image_spread", "nucleus_partners"} <= rows[
        -1
    ].keys()
    assert 0 < np.mean([row["image_partners"] for row in rows]) < 1


@pytest.mark.parametrize("weight", [0.0, 0.004, 3.0])
def test_the_loss_beside_muses_has_its_weight(pictures, tmp_path, weight):
    sizes = {"n_prototypes": 16, "hidden": 16, "bottleneck": 8}
    recipe, config = load_run(
        write_paired_config(tmp_path, [pictures], distillation=sizes, weight=weight)
    )
    (stage,) = recipe.stages(config, tmp_path / "run")
    data = stage.read(print)
    method, batch = (
        stage.build(data),
        stage.finish_batch(stage.batches(data, torch.device("cpu"))(0)),
    )
    found = method.losses(batch, "model", 0.0)
    torch.testing.assert_close(found["loss"], found["muse loss"] + weight * found["trident loss"])
    of_trident = [
        one for name, one in method.named_parameters() if name.startswith("methods.trident.image")
    ]
    gradients = torch.autograd.grad(found["loss"], of_trident, retain_graph=True)
    alone = torch.autograd.grad(found["trident loss"], of_trident)
    torch.testing.assert_close(
        gradients, tuple(weight * one for one in alone), rtol=1e-3, atol=1e-3
    )


def test_a_checkpoint_is_fine_tuned_as_any_other(pictures, tmp_path, muse):
    config = write_paired_config(tmp_path, [pictures], schedule={"steps": 2})
    muse.ok(train(config, tmp_path / "run"))
    backbone = tmp_path / "run/checkpoint.pt"

    labelled = Path(pictures["images"]).parent
    how = f"--data {labelled} --set checkpoint={backbone} --accelerator cpu --threads 1".split()
    muse.ok(f"finetune {write_training_config(labelled, steps=2)}", *how, "-o", tmp_path / "tuned")
    tuned = load_checkpoint(tmp_path / "tuned/checkpoint.pt")
    assert tuned.head and tuned.backbone.keys() == load_checkpoint(backbone).backbone.keys()


def refused(muse, tmp_path, source, *words, **settings):
    config = write_paired_config(tmp_path, [source], **settings)
    errors = muse.fails(train(config, tmp_path / "run"))
    assert all(word in errors for word in words), errors
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_a_partner_store_of_another_grid_is_refused(slide, tmp_path, muse):
    other = tmp_path / "S2"
    draw_slide(other)
    settings = read_json(other / "image-500nm.zarr/zarr.json")
    settings["attributes"]["muse"]["mpp"] = 0.51
    (other / "image-500nm.zarr/zarr.json").write_text(json.dumps(settings))
    store = str(other / "image-500nm.zarr")
    refused(muse, tmp_path, with_partner(slide, store=store), "is at 0.51 um/px, but the H&E store")
    refused(muse, tmp_path, with_partner(slide, store=str(tmp_path / "none.zarr")), "no such store")


def test_a_slide_whose_partner_was_not_registered_is_trained_alone(slide, tmp_path, muse):
    """For such a slide, the workflow writes an empty folder in place of the store, and the reason
    next to it.
    """
    absent = tmp_path / "S2/partner/image-500nm.zarr"
    absent.mkdir(parents=True)
    write_json(absent.parent / "partner.json", {"status": "failed", "reason": "does not fit"})
    failed = with_partner({**slide, "weight": 0.5}, store=str(absent))
    paired = with_partner(slide, store=beside(slide, "partner.zarr"))
    config = write_paired_config(tmp_path, [paired, failed], schedule={"steps": 2})
    status, _, errors = muse(train(config, tmp_path / "run"))
    assert status == 0 and "S2: trained without its partner: does not fit" in errors, errors
    assert "1 of 2 images have partners" in errors
    refused(
        muse,
        tmp_path / "S2",
        failed,
        "no slide has a partner that could be registered (1 failure, first: does not",
    )


def test_a_partner_store_that_covers_no_tissue_is_refused(slide, tmp_path, muse):
    shutil.copytree(beside(slide, "partner.zarr"), tmp_path / "bare.zarr")
    for chunk in (tmp_path / "bare.zarr/labels/tissue/0/c").rglob("*"):
        if chunk.is_file():
            chunk.unlink()
    settings = read_json(tmp_path / "bare.zarr/zarr.json")
    settings["attributes"]["muse"]["files"] = []
    (tmp_path / "bare.zarr/zarr.json").write_text(json.dumps(settings))
    refused(
        muse,
        tmp_path,
        with_partner(slide, store=str(tmp_path / "bare.zarr")),
        "covers no tissue of",
    )


def test_nuclei_of_another_slide_are_refused(slide, tmp_path, muse):
    draw_slide(tmp_path / "S9", "S9", "f" * 16)
    nuclei = str(tmp_path / "S9/proposals.parquet")
    refused(
        muse, tmp_path, with_partner(slide, nuclei=nuclei), "contains nuclei of a slide other than"
    )
    far = {"type": "Point", "coordinates": [9000, 9000]}
    feature = {"type": "Feature", "geometry": far, "properties": {}}
    (tmp_path / "far.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "features": [feature]})
    )
    nuclei = str(tmp_path / "far.geojson")
    refused(muse, tmp_path, with_partner(slide, nuclei=nuclei), "none of its 1 nuclei lies in S1")


SETTINGS_OF_RUN = Kind(
    {
        **SETTINGS,
        "sources": [
            {
                "store": f"{name}/image-500nm.zarr",
                "proposals": f"{name}/proposals.parquet",
                "partner": {"store": f"{name}/partner.zarr"},
            }
            for name in ("whole", "part")
        ],
        "schedule": SCHEDULE,
        "views": {"global_px": 64, "local_px": 32, "n_local": 2, "mpp": [0.5, 1.0]},
        "distillation": {"n_prototypes": 16, "hidden": 16, "bottleneck": 8},
    },
    last_stage,
    "alignment distillation schedule weight partner_backbone",
    {
        **IN_VIEWS,
        "sources.0.weight": 1e-9,
        "sources.1.weight": 1e-9,
        "partner_backbone": "muse_compact_24",
        "distillation.balance": "sinkhorn",
        "alignment.loss": "infonce",
        "alignment.branches": 2,
        "alignment.temperature": ({"alignment.loss": "infonce"}, 0.1),
        "alignment.max_nuclei": 2,
        "distillation.frozen": 0.5,
    },
    {
        **dict.fromkeys(
            ("augmentation.scale", "augmentation.free_rotation"),
            "views have a geometry of their own",
        ),
        **NAMES,
        "mpp": "of pictures",
    },
)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Two slides, one of which has proposals in only a part of it."""
    folder = tmp_path_factory.mktemp("slides")
    draw_paired_slide(folder / "whole")
    shutil.copytree(folder / "whole", folder / "part")
    xy = read_nuclei(folder / "whole/proposals.parquet").xy
    write_proposals(folder / "part/proposals.parquet", xy[(xy < 250).all(1)][:30])
    return folder


@pytest.mark.parametrize("name", SETTINGS_OF_RUN.names)
def test_every_setting_acts(slides, name):
    assert SETTINGS_OF_RUN.difference(name, slides) is not None
