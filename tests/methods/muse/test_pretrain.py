"""Pretraining on synthetic tissue: what a run writes, what it can start from, and what it
rejects.
"""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from labelled import CPU
from pretraining import draw_pictures, draw_slide, write_config, write_proposals

from experiments.common.training import load_muse_config, pretrain
from muse_pipeline.core.errors import CheckpointError, CollapsedError
from muse_pipeline.core.files import read_json
from muse_pipeline.methods.muse.data import read_pretrain_data
from muse_pipeline.methods.muse.method import SelfDistillationSettings
from muse_pipeline.methods.muse.run import CollapseAlarm, MuseStage, make_batches
from muse_pipeline.models import BACKBONES
from muse_pipeline.models.weights import PREFIX
from muse_pipeline.store import zarr_files as shard_files
from muse_pipeline.store.store import CHUNK_PX
from muse_pipeline.store.zarr_files import ShardFiles
from muse_pipeline.training.checkpoint import (
    Checkpoint,
    load_backbone,
    load_checkpoint,
    save_checkpoint,
)
from muse_pipeline.training.loop import IN_A_ROW, MetricsLog
from muse_pipeline.training.method import Schedule
from muse_pipeline.training.run import Options


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides") / "S1"
    draw_slide(folder)
    return folder


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    printed = []
    pretrain(load_muse_config(pictures), folder, Options(accelerator="cpu", log=printed.append))
    return folder, printed


def rows(folder):
    return MetricsLog(folder / "metrics.jsonl").read()


def source_of(folder):
    return {
        "store": str(folder / "image-500nm.zarr"),
        "proposals": str(folder / "proposals.parquet"),
    }


def n_open_files():
    return len([*Path("/proc/self/fd").iterdir()])


def features(backbone):
    torch.manual_seed(0)
    pixels = 255 * torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        return backbone.eval()(backbone.prepare(pixels, torch.eye(3, 4)))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_run_leaves_what_it_was(pictures, finished):
    folder, printed = finished
    assert printed == ["muse_compact_16 from random weights, on 3 images of 3 patients"]
    checkpoint = load_checkpoint(folder / "checkpoint.pt")
    assert checkpoint.head == {} and checkpoint.meta["kind"] == "backbone"
    assert checkpoint.meta["patients"] == ["P0", "P1", "P2"]
    assert load_muse_config(folder / "config.yaml") == load_muse_config(pictures)
    assert cv2.imread(str(folder / "views.png")).shape[1] > 2 * 64
    assert len(rows(folder)) == 6
    assert all(np.isfinite(list(row.values())).all() for row in rows(folder))
    assert all(row["shared_nuclei"] > 1 for row in rows(folder))
    assert read_json(folder / "provenance.json")["inputs"]


def test_the_loader_gives_the_trainers_features_bit_for_bit(finished, tmp_path):
    """Tested with our own file, and with one in the authors' layout that has projectors in addition
    to the backbone.
    """
    folder, _ = finished
    state = torch.load(folder / "resume.pt", weights_only=True)["method"]
    trained = BACKBONES["muse_compact_16"]()
    weights = {
        name.removeprefix("teacher."): value
        for name, value in state.items()
        if name.startswith("teacher.")
    }
    trained.load_state_dict(weights)
    ours = BACKBONES["muse_compact_16"]()
    load_backbone(ours, folder / "checkpoint.pt")
    assert same(features(ours), features(trained))
    assert not same(features(ours), features(BACKBONES["muse_compact_16"]()))
    heads = {"module.nucleus.teacher.prototypes": torch.ones(3)}
    official = {
        "teacher": {**{PREFIX + name: value for name, value in weights.items()}, **heads},
        "epoch": 3,
    }
    torch.save(official, tmp_path / "official.pth")
    reference = BACKBONES["muse_compact_16"]()
    load_backbone(reference, tmp_path / "official.pth")
    assert same(features(reference), features(trained))


class CutOnDevice(MuseStage):
    """A stage that cuts views as on a GPU."""

    def batches(self, data, device):
        batches = super().batches(data, device)
        batches.on_device = True
        return batches


@pytest.fixture(scope="module")
def finished_on_device(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished-on-device")
    CutOnDevice(load_muse_config(pictures), folder).run(CPU)
    return folder


@pytest.mark.parametrize(
    "stage, loaders",
    [
        (MuseStage, 0),
        (CutOnDevice, 0),
        *(pytest.param(CutOnDevice, n, marks=pytest.mark.slow) for n in (1, 2)),
    ],
)
def test_a_stopped_run_goes_on_exactly(
    pictures, finished, finished_on_device, tmp_path, stage, loaders
):
    """All bits agree, including centres and prototype usage, whether or not views are read
    ahead.
    """

    def stop(done, *_):
        if done == 3:  # one step after the resume point
            raise KeyboardInterrupt

    config, whole = (
        load_muse_config(pictures),
        finished[0] if stage is MuseStage else finished_on_device,
    )
    with pytest.raises(KeyboardInterrupt):
        stage(config, tmp_path).run(Options(accelerator="cpu", progress=stop, loaders=loaders))
    assert not (tmp_path / "checkpoint.pt").exists()
    torch.rand(5)
    stage(config, tmp_path).run(Options(accelerator="cpu", loaders=loaders))
    assert (tmp_path / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    one, other = (
        torch.load(folder / "resume.pt", weights_only=True) for folder in (tmp_path, whole)
    )
    assert (
        one["method"].keys()
        == other["method"].keys()
        >= {"nucleus.centre", "image.centre", "nucleus.use"}
    )
    assert all(torch.equal(value, other["method"][name]) for name, value in one["method"].items())
    assert one["method"]["nucleus.centre"].abs().sum() > 0


def test_a_change_of_tissue_is_rejected_or_begins_anew(pictures, slide, tmp_path):
    folder = shutil.copytree(slide, tmp_path / "S1")
    source = source_of(folder)
    config = load_muse_config(write_config(tmp_path / "c.yaml", [source], schedule={"steps": 2}))
    pretrain(config, tmp_path / "run", CPU)
    write_proposals(
        folder / "proposals.parquet", np.random.default_rng(0).uniform(50, 590, (300, 2))
    )
    with pytest.raises(CheckpointError, match=r"proposals\.parquet changed"):
        pretrain(config, tmp_path / "run", CPU)
    first = rows(tmp_path / "run")
    pretrain(config, tmp_path / "run", Options(accelerator="cpu", start_over=True))
    assert rows(tmp_path / "run") != first


def n_chunks(views):
    """Number of store chunks that the views of a set show, including chunks without tissue."""
    return len(
        {
            (row, column)
            for view in views.views
            for column in range(
                view.corner[0] // CHUNK_PX, -(-(view.corner[0] + view.side_px) // CHUNK_PX)
            )
            for row in range(
                view.corner[1] // CHUNK_PX, -(-(view.corner[1] + view.side_px) // CHUNK_PX)
            )
        }
    )


def test_a_run_on_stores_reads_pixels_only_for_its_views_and_keeps_few_files_open(
    slide, tmp_path, monkeypatch
):
    """Before the first batch, slides are opened and proposals are indexed, but no pixels are
    read.
    """
    sources, chunks = [], []
    for number in range(80):
        location = shutil.copytree(slide, tmp_path / f"s{number}", copy_function=os.link)
        sources.append({**source_of(location), "patient_name": f"patient {number}"})
    config = load_muse_config(write_config(tmp_path / "c.yaml", sources))
    read_chunk = ShardFiles.read_chunk
    monkeypatch.setattr(
        ShardFiles, "read_chunk", lambda *given: chunks.append(given) or read_chunk(*given)
    )
    shard_files._open_shard.cache_clear()
    before = n_open_files()
    data = read_pretrain_data(config.sources, 0.5, 20, tmp_path / "index")
    assert len(data.patients) == 80 and not chunks
    batches = make_batches(config, data)
    assert not chunks
    for number in range(60):
        batches(number)
    assert chunks and len({id(given[0]) for given in chunks}) > 70
    assert n_open_files() - before <= shard_files.N_OPEN + 8
    chunks.clear()
    sets = batches.draw(60)[1]
    assert (
        len(chunks) <= sum(map(n_chunks, sets)) <= 1.3 * len(chunks)
    )  # each once per set; sets may share chunks


def test_the_index_of_proposals_is_made_once(slide, tmp_path):
    config = load_muse_config(write_config(tmp_path / "c.yaml", [source_of(slide)]))
    read_pretrain_data(config.sources, 0.5, 20, tmp_path / "index")
    (made,) = (tmp_path / "index").iterdir()
    before = made.stat().st_mtime_ns
    data = read_pretrain_data(config.sources, 0.5, 20, tmp_path / "index")
    assert [path.stat().st_mtime_ns for path in (tmp_path / "index").iterdir()] == [before]
    assert data.images[0].name == "S1" and data.images[0].patient == "S1"
    assert len(data.images[0].nuclei.xy) == 441
    assert data.images[0].stain is not None


def test_a_checkpoint_is_what_a_run_goes_on_from_at_larger_views(pictures, finished, tmp_path):
    """For larger fields of view, the backbone is kept, but the projectors start from random
    weights.
    """
    changes = [
        f"checkpoint={finished[0] / 'checkpoint.pt'}",
        "views.global_px=96",
        "views.local_px=48",
    ]
    printed = []
    frozen = ["schedule.learning_rate=1e-30", "schedule.steps=1", "distillation.momentum=1"]
    config = load_muse_config(pictures, changes=[*changes, *frozen])
    pretrain(config, tmp_path, Options(accelerator="cpu", log=printed.append))
    assert printed[0].startswith("muse_compact_16 from checkpoint.pt, on 3 images")
    before, after = (
        load_checkpoint(folder / "checkpoint.pt") for folder in (finished[0], tmp_path)
    )
    assert after.meta["window_px"] == 96
    assert all(torch.equal(v, after.backbone[k]) for k, v in before.backbone.items() if v.ndim > 1)


def make_constant(path):
    """Save a backbone whose features are the same for every input."""
    weights = {
        name: torch.zeros_like(value)
        for name, value in BACKBONES["muse_compact_16"]().state_dict().items()
    }
    save_checkpoint(path, Checkpoint(weights, {}, {"kind": "backbone"}))
    return path


def test_a_run_that_collapses_is_stopped(pictures, tmp_path, muse):
    constant = make_constant(tmp_path / "constant.pt")
    changes = ["schedule.steps=40", "schedule.learning_rate=1e-30", f"checkpoint={constant}"]
    printed = muse.fails(
        f"pretrain {pictures} -o {tmp_path / 'run'} --accelerator cpu --set", *changes
    )
    last = printed.splitlines()[-1]
    warmup = SelfDistillationSettings().teacher_warmup
    stopped_at = round(warmup * 40) + IN_A_ROW - 1
    assert f"collapsed by step {stopped_at}: " in last and "balance: sinkhorn" in last
    assert len(rows(tmp_path / "run")) == stopped_at
    state = torch.load(tmp_path / "run/resume.pt", weights_only=True)
    assert state["step"] == (stopped_at - 1) // 2 * 2  # the run is saved every second step
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_the_alarm_counts_steps_in_a_row_after_the_beginning(tmp_path):
    alarm = CollapseAlarm(Schedule(100), tmp_path)
    good, bad = (
        {"entropy_nucleus": 0.7, "spread": 0.5, "shared_nuclei": 3.0},
        {"entropy_nucleus": 0.7, "spread": 0.0},
    )
    for done in range(10):
        alarm.on_log(done, bad)
    for done in range(10, 10 + IN_A_ROW - 1):
        alarm.on_log(done, bad)
    alarm.on_log(20, good)
    for done in range(21, 21 + IN_A_ROW - 1):
        alarm.on_log(done, bad)
    with pytest.raises(CollapsedError, match="nuclei look alike"):
        alarm.on_log(30, bad)
    alike = {"entropy_image": 1.0}
    for done in range(2 * IN_A_ROW):
        alarm.on_log(
            31 + done, {**good, **alike}
        )  # similar image vectors are no alarm if nuclei differ
    with pytest.raises(CollapsedError, match="views look alike"):
        for done in range(IN_A_ROW):
            alarm.on_log(50 + done, alike)


def test_views_that_share_no_nuclei_are_no_collapse_but_are_reported(tmp_path):
    none = {"entropy_nucleus": 0.0, "spread": 0.0, "shared_nuclei": 0.0}
    good = {"entropy_nucleus": 0.7, "spread": 0.5, "shared_nuclei": 3.0}
    alarm = CollapseAlarm(Schedule(10), tmp_path)
    for done in range(1, 61):
        alarm.on_log(done, good if done % IN_A_ROW == 0 else none)
    for done in range(61, 61 + IN_A_ROW - 1):
        alarm.on_log(done, none)
    with pytest.raises(CollapsedError, match="views had shared"):
        alarm.on_log(70, none)


def test_nuclei_of_plain_pictures_are_found(pictures, tmp_path):
    """A built-in model detects them."""
    source = {"images": str(pictures.parent / "images"), "mpp": 0.5, "exclude": ["P1", "P2"]}
    config = load_muse_config(write_config(tmp_path / "c.yaml", [source]))
    data = read_pretrain_data(config.sources, 0.5, 10, tmp_path / "index")
    assert [image.name for image in data.images] == ["P0"]
    text = (pictures.parent / "labels/P0_points.txt").read_text().splitlines()
    drawn = np.array([[int(column), int(row)] for row, column, _ in map(str.split, text)])
    distance = np.linalg.norm(data.images[0].nuclei.xy[:, None] - drawn, axis=-1).min(1)
    assert len(data.images[0].nuclei.xy) > 20 and np.median(distance) < 2


TCGA = "TCGA-A1-0001-01Z-00-DX1"


def test_a_patient_of_the_judged_is_rejected(slide, pictures, tmp_path, muse):
    """Tested with patients from TCGA names, and with patients found by a given pattern."""
    location = shutil.copytree(slide, tmp_path / "S1")
    draw_slide(location, TCGA)
    source = source_of(location)
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "TCGA-A1-0001-03B_7.png"), np.zeros((9, 9, 3), np.uint8))
    labels = {
        "images": str(images),
        "labels": str(pictures.parent / "labels"),
        "format": "x y class",
        "mpp": 0.5,
    }
    for held, changed in (
        (labels, source),
        ({**labels, "patient": "(01)-03"}, {**source, "patient": "00(01)"}),
    ):
        path = write_config(tmp_path / "c.yaml", [changed], held=[held])
        assert "in `held`, and also in" in muse.fails(
            "pretrain", path, "-o", tmp_path / "run", "--accelerator", "cpu"
        )
    apart = write_config(
        tmp_path / "c.yaml", [{**source, "patient_name": "another"}], held=[labels]
    )
    muse.ok(
        "pretrain",
        apart,
        "-o",
        tmp_path / "run",
        "--accelerator",
        "cpu",
        "--set",
        "schedule.steps=1",
    )


def damage_chunks(folder):
    for path in (folder / "image-500nm.zarr/0/c").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-200] + bytes(200))


def move_nuclei(xy, **changes):
    """A function that writes a table of nuclei at other positions."""
    return lambda folder: write_proposals(folder / "proposals.parquet", np.array(xy), **changes)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (move_nuclei([[300.0, 300.0]] * 90, fingerprint="1" * 16), "nuclei of a different slide"),
        (move_nuclei([[5e6, 5e6]] * 90), "no image has 20 nuclei (of 1 image)"),
        (damage_chunks, "is damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_file_is_one_sentence(slide, tmp_path, muse, change, sentence):
    folder = shutil.copytree(slide, tmp_path / "S1")
    change(folder)
    path = write_config(tmp_path / "c.yaml", [source_of(folder)])
    assert sentence in muse.fails(f"pretrain {path} -o {tmp_path / 'run'} --accelerator cpu")
    assert not (tmp_path / "run/checkpoint.pt").exists()
