"""Training of a detector with either head: losses fall, averaged weights follow, and every setting
has an effect.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from every_setting import APPEARANCE, CARD, NAMES, SCHEDULE, Kind, keep_untrained, last_stage
from labelled import CONFIG, draw_labelled_folder

from muse_pipeline.core.types import Frame
from muse_pipeline.data.augment import Augmentation
from muse_pipeline.data.windows import LabelledWindows
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.methods.detector.criterion import CRITERIA
from muse_pipeline.methods.detector.method import DetectorTraining
from muse_pipeline.models import HEADS
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.nuclei.table import Nuclei


def test_every_head_has_its_criterion():
    assert CRITERIA.names() == HEADS.names()


def windows():
    generator = np.random.default_rng(0)
    xy = np.indices((5, 5)).reshape(2, -1).T * 24.0 + generator.integers(8, 16, (25, 2))
    pixels = np.full((128, 128, 3), 230, np.uint8)
    for x, y in xy.astype(int):
        pixels[y - 4 : y + 4, x - 4 : x + 4] = 60
    nuclei = Nuclei(
        xy,
        Frame.WINDOW,
        rays=np.full((25, 8), 2.0, np.float32),
        label=np.arange(25, dtype=np.int32) % 2,
    )
    images = [LabelledImage(name="A", pixels=pixels, nuclei=nuclei, stain=None, weight=1.0)]
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    settings = SimpleNamespace(mpp=0.5, window_px=64, batch=4, augmentation=Augmentation(), seed=0)
    return LabelledWindows(images, np.eye(3, 4)[None], stains, settings, torch.device("cpu"))


def method_of(head):
    torch.manual_seed(0)
    network = NucleusDetector("muse_compact_16", head, 2, 8)
    return DetectorTraining(network, head, 0.5, torch.ones(2)).train()


@pytest.mark.parametrize("head", HEADS.names())
def test_the_losses_fall(head):
    method, batches = method_of(head), windows()
    optimiser = torch.optim.AdamW(method.network.parameters(), lr=5e-3)
    seen = []
    for step in range(12):
        losses = method.losses(batches(step), step, step / 12)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        method.after_step(step / 12)
        seen.append(float(losses["loss"].detach()))
    assert np.mean(seen[-3:]) < 0.7 * np.mean(seen[:3])


def test_the_average_follows_in_evaluation_mode():
    method = method_of("dense")
    before = method.trained().head.out.bias.clone()
    with torch.no_grad():
        method.network.head.out.bias += 1
    method.after_step(0)
    assert torch.allclose(
        method.trained().head.out.bias - before, torch.tensor(1 - 2 / 11), atol=1e-5
    )
    assert method.network.training
    assert not method.trained().training
    assert not any(parameter.requires_grad for parameter in method.trained().parameters())


VALUES = yaml.safe_load(CONFIG.format(colour="macenko", steps=1, capacity=1, threshold=0))
SETTINGS = Kind(
    {
        **VALUES,
        "method": "detector",
        "sources": [{**VALUES["sources"][0], "exclude": [name]} for name in ("P0", "P1")],
        "schedule": SCHEDULE,
        "distillation": {"teachers": ["teacher.pt"]},
    },
    last_stage,
    "schedule backbone_rate distillation",
    {
        **APPEARANCE,
        "colour": ({"distillation": None}, "identity"),
        "head": ({"distillation": None}, "point"),
        "mpp": ({"distillation": None}, 0.6),
        "n_rays": ({"distillation": None}, 12),
        "sources.0.weight": 1e-9,
        "sources.1.weight": 1e-9,
        "window_px": 64,
    },
    {
        **CARD,
        **NAMES,
        "diameter_um": "of instances alone: tests/labels/test_label_source.py",
        **dict.fromkeys(("margin_um", "purity"), "of areas alone: tests/labels/test_areas.py"),
    },
)


@pytest.fixture(scope="module")
def with_teacher(tmp_path_factory):
    """A folder with labelled pictures and an untrained teacher."""
    folder = draw_labelled_folder(tmp_path_factory.mktemp("with-teacher"))
    recipe, config = SETTINGS.load(folder)
    config = dataclasses.replace(config, distillation=None, seed=1)
    keep_untrained(recipe.stages(config, folder / "teacher")[0], folder / "teacher.pt")
    return folder


@pytest.mark.parametrize("name", SETTINGS.names)
def test_every_setting_acts(with_teacher, name):
    found = SETTINGS.difference(name, with_teacher)
    assert found is not None and (name != "colour" or found.startswith("batch"))
