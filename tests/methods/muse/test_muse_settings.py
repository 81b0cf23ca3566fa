"""Every numeric setting of a pretraining changes its batches or its updates."""

import pytest
import torch
from lightning_fabric import Fabric
from numeric_settings import numeric_settings, with_setting
from pretraining import draw_pictures

from experiments.common.training import load_muse_config
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.methods.muse.run import MuseStage
from muse_pipeline.training.loop import train
from muse_pipeline.training.run import RunFolder

CHANGES = {
    "sources.0.weight": 9.0,
    "sources.0.labelled.mpp": 0.4,
    "schedule.steps": 3,
    "schedule.learning_rate": 4e-3,
    "schedule.warmup": 1.0,
    "schedule.weight_decay": 0.2,
    "schedule.last_weight_decay": 0.5,
    "schedule.clip": 1e-3,
    "schedule.accumulate": 2,
    "schedule.reference_batches": 4,
    "views.global_px": 96,
    "views.local_px": 64,
    "views.n_local": 2,
    "views.mpp": (0.5, 0.75),
    "views.min_matches": 1,
    "views.max_matches": 2,
    "views.draws": 1,
    "distillation.nucleus_weight": 0.5,
    "distillation.image_weight": 0.5,
    "distillation.n_prototypes": 24,
    "distillation.hidden": 12,
    "distillation.bottleneck": 6,
    "distillation.student_temperature": 0.2,
    "distillation.teacher_temperature": (0.04, 0.3),
    "distillation.teacher_warmup": 1.0,
    "distillation.momentum": 0.9,
    "distillation.frozen": 0.0,
    "augmentation.stain_gain": 0.6,
    "augmentation.stain_mix": 0.3,
    "augmentation.shift": 0.2,
    "augmentation.partial_colour": 0.9,
    "augmentation.blur": 0.0,
    "augmentation.blur_um": 1.5,
    "augmentation.noise": 20.0,
    "grey": 0.8,
    "balance": 1.0,
    "min_nuclei": 33,
    "batch": 3,
    "seed": 1,
}
NO_EFFECT = {  # settings without effect on an update in a run on labelled pictures
    "trust_pickle": "the start checkpoint alone is read by it: tests/training/test_checkpoint.py",
    "region_weights": "pictures have no regions: test_region_weights.py",
    "sources.0.mpp": "of `images`: test_pretrain.py",
    "sources.0.patient": "names whose picture it is",
    "sources.0.labelled.patient": "names whose picture it is",
    "sources.0.labelled.allow_empty": "accepts a picture without nuclei, of which no view is drawn",
    "sources.0.labelled.diameter_um": "of label masks; stands for `mpp`",
    **dict.fromkeys(("sources.0.labelled.margin_um", "sources.0.labelled.purity"), "of areas"),
    "sources.0.labelled.grow_outlines": "positions alone are used",
    "sources.0.labelled.weight": "is rejected: test_a_weight_belongs_to_the_source",
    "augmentation.scale": "geometry is that of the views",
    "augmentation.free_rotation": "geometry is that of the views",
    "schedule.save_every": "tests/training/test_loop.py",
    "schedule.log_every": "tests/training/test_loop.py",
    "schedule.validate_every": "tests/training/test_loop.py",
}
BASE = [
    "schedule.steps=2",
    "schedule.warmup=0.5",
    "views.n_local=1",
    "views.min_matches=8",
    "batch=2",
    "balance=0",
    "augmentation.blur=0.9",
    "seed=3",
    "grey=0.3",
    "distillation.n_prototypes=16",
    "distillation.hidden=8",
    "distillation.bottleneck=4",
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A config with two sources: P0 and P1 with 36 nuclei each, and P2 with nuclei in one quarter only."""
    folder = tmp_path_factory.mktemp("pictures")
    draw_pictures(folder)
    points = folder / "labels" / "P2_points.txt"
    lines = [line for line in points.read_text().splitlines() if max(map(int, line.split()[:2])) < 125]
    points.write_text("\n".join(lines) + "\n")
    config = load_muse_config(folder / "tiny.yaml", changes=BASE)
    excluded = (("P2",), ("P0", "P1"))
    sources = tuple(with_setting(config.sources[0], "labelled.exclude", names) for names in excluded)
    return with_setting(config, "sources", sources)


def weights_after(config, data, folder):
    """All tensors of the method at the end of a run."""
    folder.mkdir()
    stage, fabric = MuseStage(config, folder), Fabric(accelerator="cpu", devices=1)
    torch.manual_seed(config.seed)
    method = stage.build(data)
    train(method, stage.batches(data, fabric.device), config.schedule, RunFolder(folder), fabric, seed=config.seed)
    return method.state_dict()


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory):
    """The data that the unchanged config reads, and all tensors at the end of its run."""
    folder = tmp_path_factory.mktemp("plain")
    data = MuseStage(config, folder).open_data(print)
    return data, weights_after(config, data, folder / "run")


def test_every_numeric_setting_is_either_tried_or_explained(config):
    assert {*numeric_settings(config)} == CHANGES.keys() | NO_EFFECT.keys()


def test_a_weight_belongs_to_the_source(config):
    with pytest.raises(ConfigError, match=r"images: `weight` is set inside `labelled`; set it next to `labelled`"):
        with_setting(config, "sources.0.labelled.weight", 2.0)


@pytest.mark.parametrize("name", CHANGES)
def test_a_numeric_setting_changes_the_updates(config, plain, tmp_path, name):
    data, expected = plain
    changed = with_setting(config, name, CHANGES[name])
    if name.startswith(("sources", "min_nuclei")):
        data = MuseStage(changed, tmp_path).open_data(print)
    found = weights_after(changed, data, tmp_path / "run")
    assert any(one.shape != expected[key].shape or not torch.equal(one, expected[key]) for key, one in found.items())
