"""What pretraining reads: colours, positions at the working mpp, and patients that a run may not be
scored on.
"""

import dataclasses

import cv2
import numpy as np
import pytest
import torch
from pretraining import SIDE_PX, draw_pictures, draw_slide, write_config

from experiments.common.training import load_muse_config
from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.files import read_json
from muse_pipeline.data.augment import Augmentation
from muse_pipeline.data.nucleus_images import NucleusSource
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.methods.muse.data import read_pretrain_data
from muse_pipeline.methods.muse.run import MuseStage, make_batches
from muse_pipeline.models import BACKBONES
from muse_pipeline.nuclei.parquet import read_nuclei
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.checkpoint import Checkpoint, save_checkpoint

PLAIN = Augmentation(stain_gain=0, stain_mix=0, shift=0, partial_colour=1, blur=0, noise=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures P0 to P2, with P1 stained twice as strongly, and a slide at 0.25 um/px with a store
    at 0.5 um/px.
    """
    folder = tmp_path_factory.mktemp("tissue")
    draw_pictures(folder)
    path = str(folder / "images/P1.png")
    cv2.imwrite(path, np.round(255 * (cv2.imread(path) / 255) ** 2).astype(np.uint8))
    draw_slide(folder / "S1", mpp=0.25)
    return folder


@pytest.fixture
def sources(folder):
    labelled = PictureSource(
        folder / "labels", "row column class", images=folder / "images", mpp=0.5
    )
    slide = folder / "S1"
    store = NucleusSource(store=slide / "image-500nm.zarr", proposals=slide / "proposals.parquet")
    return (NucleusSource(labelled=labelled), store)


def test_views_are_taken_to_the_mean_stains_of_all_images(folder, sources, tmp_path):
    """The strong end of each stain, fitted to a picture or from a slide's ``colour.json``, maps to
    the reference's.
    """
    data = read_pretrain_data(sources, 0.5, 1, tmp_path)
    fits = []
    for name in ("P0", "P1", "P2"):
        fit = fit_macenko(cv2.imread(str(folder / f"images/{name}.png"))[..., ::-1].reshape(-1, 3))
        fits.append((fit.stains, fit.strong))
    slide = read_json(folder / "S1/colour.json")["macenko"]
    fits.append((np.array(slide["stains"]), np.array(slide["strong"])))
    mean = np.mean([stains for stains, _ in fits], 0)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    strong = np.sort([strong for _, strong in fits], 0)[1]
    np.testing.assert_allclose(data.reference.stains, mean, atol=1e-4)
    np.testing.assert_allclose(data.reference.strong, strong, atol=1e-4)
    for colour, (stains, ends) in zip(data.colours, fits, strict=True):
        for k in (0, 1):
            reference = np.array(data.reference.stains[k]) * data.reference.strong[k]
            np.testing.assert_allclose(colour[:, :3] @ (stains[k] * ends[k]), reference, atol=1e-5)
        assert (colour[:, 3] == 0).all()
    config = load_muse_config(folder / "tiny.yaml", changes=["grey=0", "balance=0"])
    batches = make_batches(dataclasses.replace(config, augmentation=PLAIN), data)
    sets = [batches.sample(np.random.default_rng(seed)) for seed in range(12)]
    images = [data.images.index(one.image) for one in sets]
    seen = batches._draw_colours(sets, 2, torch.Generator())
    np.testing.assert_allclose(seen, data.colours[images + images], atol=1e-5)
    assert set(images) == {0, 1, 2, 3}
    assert np.abs(data.colours[1] - np.eye(3, 4)).max() > 0.2  # so the test is not trivial


def test_positions_of_a_slide_are_in_px_of_its_store(folder, sources, tmp_path):
    """Positions are half of those in the table, which are in level-0 px."""
    image = read_pretrain_data(sources[1:], 0.5, 1, tmp_path).images[0]
    assert image.size_px == (SIDE_PX // 2, SIDE_PX // 2) and image.mpp == 0.5
    expected = sorted(
        (x / 2, y / 2) for x, y in read_nuclei(folder / "S1/proposals.parquet").xy.tolist()
    )
    np.testing.assert_allclose(sorted(map(tuple, image.nuclei.xy.tolist())), expected, atol=1e-4)
    x, y = image.nuclei.xy[0].astype(int).tolist()
    at_nucleus, whole = image.read((x - 2, y - 2), (4, 4)), image.read((0, 0), image.size_px)
    assert at_nucleus.mean() < whole.mean() - 20


@pytest.mark.parametrize(
    ("meta", "is_judged"),
    [
        (
            {"patients": ["Q1", "R1"], "learnt_patients": ["R1"]},
            True,
        ),  # Q1 was seen in validation only
        ({"patients": ["Q1"], "learnt_patients": ["Q1"]}, False),
    ],
)
def test_a_patient_that_the_start_has_learnt_from_is_not_judged(folder, tmp_path, meta, is_judged):
    (tmp_path / "held").mkdir()
    cv2.imwrite(str(tmp_path / "held" / "Q1.png"), np.zeros((9, 9, 3), np.uint8))
    held = {
        "images": str(tmp_path / "held"),
        "labels": str(folder / "labels"),
        "format": "x y class",
        "mpp": 0.5,
    }
    backbone = BACKBONES["muse_compact_16"]()
    meta = {"kind": "backbone", "backbone": "muse_compact_16", "images": ["Q1a"], **meta}
    save_checkpoint(tmp_path / "start.pt", Checkpoint(backbone.state_dict(), {}, meta))
    labelled = {
        "images": str(folder / "images"),
        "labels": str(folder / "labels"),
        "format": "row column class",
    }
    settings = {"checkpoint": str(tmp_path / "start.pt"), "held": [held]}
    path = write_config(tmp_path / "c.yaml", [{"labelled": {**labelled, "mpp": 0.5}}], **settings)
    stage = MuseStage(load_muse_config(path), tmp_path / "run")
    if not is_judged:
        with pytest.raises(LabelError, match="training data"):
            stage.read(print)
        return
    data = stage.read(print)
    method = stage.build(data)
    assert all(
        torch.equal(value, backbone.state_dict()[name])
        for name, value in method.backbone.state_dict().items()
    )
    left = stage.checkpoint(data, method)
    assert left.seen.learnt_patients == {"P0", "P1", "P2", "R1"}
    assert left.seen.patients == {"P0", "P1", "P2", "Q1", "R1"}
    assert set(left.meta["images"]) == {"P0", "P1", "P2", "Q1a"}
    with torch.no_grad():
        next(method.teacher.parameters()).add_(1)
    name = next(iter(dict(method.teacher.named_parameters())))
    assert torch.equal(
        stage.checkpoint(data, method).backbone[name], method.teacher.state_dict()[name]
    )
    assert not torch.equal(method.backbone.state_dict()[name], method.teacher.state_dict()[name])
