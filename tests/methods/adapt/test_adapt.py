"""Adaptation of a detector to synthetic tissue: what it keeps, learns from and writes, and how a run resumes."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from every_setting import SCHEDULE, Kind, last_stage
from labelled import CPU
from labelled import write_config as write_training_config
from pretraining import SETTINGS, draw_pictures, draw_slide, write_config
from workflow_runs import draw_stained_slide, write_sheet

from muse_pipeline.cli.adapt import _write_config
from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.evaluation.detection import match_points
from muse_pipeline.export.onnx import load_detector
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.methods.detector.run import describe_detector, load_detector_config
from muse_pipeline.methods.detector.start import load_trained, read_start
from muse_pipeline.models.detector import NucleusDetector
from muse_pipeline.nuclei.parquet import read_nuclei, read_provenance
from muse_pipeline.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from muse_pipeline.training.recipe import load_run
from muse_pipeline.training.run import Options

HOLD = {"window_px": 64, "batch": 1}
QUIET = {"stain_gain": 0, "stain_mix": 0, "shift": 0, "partial_colour": 1, "blur": 0, "noise": 0}
STAINS = ColourReference("macenko", ((0.65, 0.7, 0.3), (0.1, 0.95, 0.3)), (1.5, 1.0), 1.0)


def save_detector(path, share=1.0, kind="detector"):
    """Save a detector with random weights, and with ``share`` as the colour share in its card."""
    torch.manual_seed(0)
    network = NucleusDetector("muse_compact_16", "dense", 2, 8)
    for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.running_mean, -0.1, 0.1)  # unlike the mean of any batch
    config = load_detector_config(write_training_config(path.parent, threshold=0.0))
    config = dataclasses.replace(config, name="old", export=dataclasses.replace(config.export, colour_share=share))
    meta = {**describe_detector(config, STAINS), "kind": kind, "images": ["X1"]}
    meta["patients"] = meta["learnt_patients"] = ["X"]
    meta["appearance"] = {"n_pictures": 1, "ranges": {"brown": [0.0, 0.0, 0.0], "tissue density": [9.0, 9.0, 9.0]}}
    save_checkpoint(path, Checkpoint(network.backbone.state_dict(), network.head.state_dict(), meta))
    return path


@pytest.fixture(scope="module", autouse=True)
def few_fields():
    """Compare the two detectors on a few small fields only."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("muse_pipeline.methods.adapt.run.N_IMAGES", 4)
        patched.setattr("muse_pipeline.methods.adapt.run.FIELD_PX", 128)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the detector ``old/old.pt``, and ``tiny.yaml``, which adapts it to three pictures and a slide."""
    folder = tmp_path_factory.mktemp("adapt")
    draw_pictures(folder)
    draw_slide(folder / "S1")
    (folder / "old").mkdir()
    save_detector(folder / "old" / "old.pt")
    labelled = yaml.safe_load((folder / "tiny.yaml").read_text())["sources"]
    slide = {"store": "S1/image-500nm.zarr", "proposals": "S1/proposals.parquet"}
    write_config(folder / "tiny.yaml", [*labelled, slide], method="adapt", checkpoint="old/old.pt", hold=HOLD)
    return folder


def stage_of(folder, run, *changes):
    recipe, config = load_run(folder / "tiny.yaml", changes=["schedule.steps=4", *changes])
    return recipe.stages(config, run)[0]


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    run, printed = tmp_path_factory.mktemp("finished"), []
    stage_of(folder, run).run(Options(accelerator="cpu", log=printed.append))
    return run, printed


def test_the_result_is_the_detector_with_its_settings_and_all_patients(finished, folder):
    network, config, checkpoint = load_trained(finished[0] / "checkpoint.pt")
    before, old, _ = load_trained(folder / "old" / "old.pt")
    kept = ("backbone", "head", "classes", "n_rays", "mpp", "colour", "window_px", "export", "licence")
    assert {name: getattr(config, name) for name in kept} == {name: getattr(old, name) for name in kept}
    assert (config.name, config.sources, config.schedule.steps) == ("tiny", (), 4)
    assert checkpoint.meta["colour"] == dataclasses.asdict(STAINS) | {
        "stains": [*map(list, STAINS.stains)],
        "strong": [1.5, 1.0],
    }
    assert checkpoint.meta["images"] == ["P0", "P1", "P2", "S1", "X1"]
    assert checkpoint.patients == checkpoint.learnt_patients == {"P0", "P1", "P2", "S1", "X"}
    for part in ("backbone", "head"):
        pairs = zip(getattr(before, part).parameters(), getattr(network, part).parameters(), strict=True)
        assert not any(torch.equal(*pair) for pair in pairs), part
    for name, value in before.named_buffers():
        assert torch.equal(value, network.get_buffer(name)), name
    labels = load_detector_config(folder / "old" / "tiny.yaml")
    assert read_start(dataclasses.replace(labels, checkpoint=finished[0] / "checkpoint.pt")).is_whole
    ranges = checkpoint.meta["appearance"]["ranges"]
    assert ranges["tissue density"][0] < 5 and ranges["tissue density"][2] == 9.0


def test_the_card_names_the_start_and_that_nothing_was_measured(finished):
    _, card = load_detector(finished[0] / "checkpoint.pt")
    assert card.training_data == (
        "Adapted without labels, by MUSE and distillation from old, to 4 images of 4 patients. It continues old, which "
        "was trained on: drawn discs"
    )
    assert card.limits.startswith("The adapted detector was not evaluated on labels") and not card.metrics


def test_changes_are_printed_with_what_is_not_known(finished):
    _, printed = finished
    assert printed[0] == "muse_compact_16 from old.pt, on 4 images of 4 patients"
    assert any(line.startswith("nuclei on 4 fields of the tissue, ") and " by old, " in line for line in printed)
    assert any(line.startswith("agreement (F1 at 3 um): ") for line in printed)
    shares = [line.split(": ")[1].split(" %")[0] for line in printed if line.startswith(("Dark", "Pale"))]
    assert sum(map(float, shares)) == pytest.approx(100, abs=0.2)
    assert printed[-1].startswith("unknown without labels: ")


def test_a_stopped_run_goes_on_to_the_same_bytes(folder, finished, tmp_path):
    def stop(done, *_):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage_of(folder, tmp_path).run(Options(accelerator="cpu", progress=stop))
    torch.rand(5)
    stage_of(folder, tmp_path).run(CPU)
    for name in ("checkpoint.pt", "metrics.jsonl"):
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes()


def method_and_batch(folder, run, *changes):
    stage = stage_of(folder, run, *changes)
    data = stage.read(print)
    return stage.build(data).train(), stage.batches(data, torch.device("cpu"))(0)


def test_the_unchanged_detector_agrees_with_itself(folder, tmp_path):
    """Without augmentation, student and teacher get the same windows in the same colours, in evaluation mode."""
    quiet = [f"augmentation={QUIET}", "grey=0"]
    method, batch = method_and_batch(folder, tmp_path, *quiet)
    assert float(method.losses(batch, "model", 0.0)["distillation"].detach()) == pytest.approx(0, abs=1e-6)
    assert batch.windows.pixels.shape == (2, 3, 64, 64)
    method, batch = method_and_batch(folder, tmp_path, "augmentation.stain_gain=0.5")
    assert float(method.losses(batch, "model", 0.0)["distillation"].detach()) > 1e-4


def test_the_teacher_sees_the_colours_of_the_export(folder, tmp_path):
    save_detector(tmp_path / "half.pt", share=0.5)
    quiet = [f"augmentation={QUIET}", "grey=0", f"checkpoint={tmp_path / 'half.pt'}"]
    _, batch = method_and_batch(folder, tmp_path / "run", *quiet)
    halfway = 0.5 * batch.windows.colour + 0.5 * torch.eye(3, 4)
    torch.testing.assert_close(batch.windows.weak.colour, halfway, atol=1e-5, rtol=0)
    assert torch.equal(batch.windows.weak.pixels, batch.windows.pixels)


def test_the_loss_is_that_of_muse_and_the_weighted_distance(folder, tmp_path):
    method, batch = method_and_batch(folder, tmp_path, "hold.weight=2.5")
    found = method.losses(batch, "model", 0.0)
    expected = found["nucleus"] + found["image"] + 2.5 * found["distillation"]
    torch.testing.assert_close(found["loss"], expected)
    found["loss"].backward()
    assert all(value.grad is not None for value in method.network.parameters())
    assert all(value.grad is None for value in method.distillation.parameters())


def test_a_detector_of_rate_0_is_kept(folder, tmp_path):
    stage_of(folder, tmp_path / "run", "network_rate=0", "schedule.steps=2").run(CPU)
    one, other = (load_checkpoint(path) for path in (tmp_path / "run" / "checkpoint.pt", folder / "old" / "old.pt"))
    assert one.weights_sha256() == other.weights_sha256()


@pytest.mark.parametrize("name", ["hold.weight", "hold.window_px", "hold.batch", "network_rate"])
def test_a_numeric_setting_changes_the_step(folder, name):
    source = {"store": str(folder / "S1" / "image-500nm.zarr"), "proposals": str(folder / "S1" / "proposals.parquet")}
    values = {**SETTINGS, "sources": [source], "schedule": SCHEDULE, "method": "adapt", "hold": HOLD, "batch": 2}
    kind = Kind(
        {**values, "checkpoint": str(folder / "old" / "old.pt")},
        last_stage,
        "hold network_rate schedule",
        {"hold.window_px": 96},
        {},
    )
    run = folder / name
    run.mkdir()
    assert kind.difference(name, run)


def test_what_is_no_detector_of_the_backbone_is_rejected(folder, tmp_path):
    save_detector(tmp_path / "regions.pt", kind="regions")
    with pytest.raises(CheckpointError, match="holds no detector"):
        stage_of(folder, tmp_path / "run", f"checkpoint={tmp_path / 'regions.pt'}").run(CPU)
    with pytest.raises(CheckpointError, match="fits muse_compact_16, not muse_compact_24"):
        stage_of(folder, tmp_path / "run", "backbone=muse_compact_24").run(CPU)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        stage_of(folder, tmp_path / "run", "checkpoint=lost.pt").run(CPU)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


RECIPE = Path(__file__).parents[3] / "config/train/adapt.yaml"


def test_the_workflow_plans_the_recipe_on_its_slides(tmp_path, muse):
    (tmp_path / "slide.tif").touch()
    rows = [{"slide_id": name, "path": "slide.tif", "split": split} for name, split in (("a", "train"), ("b", "test"))]
    write_sheet(tmp_path / "slides.tsv", rows)
    where = ["--sheet", tmp_path / "slides.tsv", "--results", tmp_path / "out", "-o", tmp_path / "run.yaml"]
    status, _, errors = muse("pretrain-config", RECIPE, *where, "--resolved", tmp_path / "run.json")
    assert status == 0, errors
    facts = read_json(tmp_path / "run.json")
    assert (facts["backbone"], facts["mpp"], facts["slides"]) == ("muse_compact_24", 0.5, ["a"])
    _, config = load_run(tmp_path / "run.yaml")
    assert [source.store for source in config.sources] == [tmp_path / "out/a/image-500nm.zarr"]
    assert (config.method, config.name, config.checkpoint) == ("adapt", "adapted", Path("compact"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_slide_is_adapted_to_and_then_has_the_same_nuclei(tmp_path, muse):
    draw_stained_slide(tmp_path / "s.tif", size_px=1000, n_nuclei=250)
    few = ["schedule.steps=6", "schedule.save_every=2", "batch=2", "hold.batch=1"]
    adapt = ("adapt", tmp_path / "s.tif", "-o", tmp_path / "run", "--threads", "1", "--accelerator", "cpu")
    status, out, errors = muse(*adapt, "--set", *few)
    assert status == 0, errors
    assert f"{tmp_path / 'run' / 'adapted.onnx'}" in out and "agreement (F1" in errors
    results = tmp_path / "results"
    status, _, errors = muse("run", tmp_path / "s.tif", "--model", tmp_path / "run" / "adapted.onnx", "-o", results)
    assert status == 0, errors
    assert read_provenance(results / "s" / "nuclei.parquet").verdict.verdict == "ok"
    old, new = (read_nuclei(folder / "s" / "nuclei.parquet") for folder in (tmp_path / "run" / "slides", results))
    n_both = int((match_points(new.xy, new.score, old.xy, 6.0) >= 0).sum())  # 6 px are 3 um
    assert n_both > 0.97 * max(len(old), len(new))


def test_results_of_a_run_give_stores_and_nuclei(tmp_path):
    rows = [
        {"slide_id": name, "path": f"/{name}.svs", "split": split}
        for name, split in (("a", ""), ("b", "test"), ("c", ""))
    ]
    for name in "ab":
        draw_slide(tmp_path / "results" / name, name)
        (tmp_path / "results" / name / "proposals.parquet").rename(tmp_path / "results" / name / "nuclei.parquet")
    write_json(tmp_path / "results" / "sheet.json", rows)
    config = tmp_path / "slides.yaml"
    _write_config([tmp_path / "results"], config, ["hold.weight=9"])
    found = load_run(config)[1]
    assert [source.proposals for source in found.sources] == [tmp_path / "results" / "a" / "nuclei.parquet"]
    assert found.hold.weight == 9


def test_slides_are_not_searched_by_several_processes_nor_for_wrong_settings(tmp_path, muse, monkeypatch):
    (tmp_path / "s.tif").touch()
    words = ("adapt", tmp_path / "s.tif", "-o", tmp_path / "run")
    status, _, errors = muse(*words, "--set", "checkpoint=lost.pt")
    assert status == 2 and "lost.pt: there is no such checkpoint" in errors
    status, _, errors = muse(*words, "--set", "hold.wieght=3")
    assert status == 2 and "hold: unknown setting 'wieght'; did you mean 'weight'?" in errors
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    status, _, errors = muse(*words)
    assert status == 2 and "srun starts several processes" in errors
    assert not (tmp_path / "run/slides").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_slides_without_nuclei_are_an_error(tmp_path, muse):
    (tmp_path / "broken.tif").write_bytes(b"II*\0")
    status, _, errors = muse("adapt", tmp_path / "broken.tif", "-o", tmp_path / "run", "--threads", "1")
    assert status == 2 and "muse adapt: 1 of 1 slides failed" in errors
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
