"""PSM, from pictures without labels to a detector: each stage runs once, and mistakes are
reported.
"""

import cv2
import numpy as np
import pytest
from labelled import CPU, draw_labelled_folder
from tiny_runs import PSM as CONFIG

from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.data.unlabelled import PATIENT_OF_CROP
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.methods.psm.run import PsmRecipe, write_labels
from muse_pipeline.training.checkpoint import load_checkpoint
from muse_pipeline.training.recipe import load_run, stage_folder, train_run
from muse_pipeline.training.run import Options


def load_psm_config(path, changes=()):
    return load_run(path, changes=changes, default="psm")[1]


@pytest.fixture(scope="module")
def config_path(tmp_path_factory):
    folder = draw_labelled_folder(tmp_path_factory.mktemp("tissue"))
    (folder / "psm.yaml").write_text(CONFIG)
    return folder / "psm.yaml"


@pytest.fixture(scope="module")
def finished(config_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("psm")
    output = []
    train_run(
        PsmRecipe(),
        load_psm_config(config_path),
        folder,
        Options(accelerator="cpu", log=output.append),
    )
    return folder, output


def n_drawn(config_path, name):
    return len((config_path.parent / f"labels/{name}_points.txt").read_text().splitlines())


def test_every_stage_has_its_folder(finished):
    folder, output = finished
    stages = ["1-masks", "2-labels", "3-detector"]  # masks by Otsu need no activation stage
    assert sorted(path.name for path in (folder / "stages").iterdir()) == stages
    assert {"checkpoint.pt", "config.yaml", "provenance.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert any("instances in 3 pictures" in line for line in output)


def test_the_patients_are_those_of_the_pictures_and_slides(finished):
    assert load_checkpoint(finished[0] / "checkpoint.pt").meta["patients"] == ["P0", "P1", "P2"]
    names = {
        "S 1-00002-512-0": "S 1",
        "TCGA-A7-A0DA-01Z-00003-0-0": "TCGA-A7-A0DA",
        "picture-00000-a-1": "a-1",
    }
    assert {name: patient_in_name(name, PATIENT_OF_CROP) for name in names} == names


def test_labels_are_nearly_the_nuclei_that_were_drawn(config_path, finished):
    for number in range(3):
        name = f"picture-{number:05d}-P{number}"
        instances = cv2.imread(
            str(finished[0] / f"stages/2-labels/instances/{name}.png"), cv2.IMREAD_UNCHANGED
        )
        assert instances.dtype == np.uint16
        assert abs(int(instances.max()) - n_drawn(config_path, f"P{number}")) <= 6
        points = (finished[0] / f"stages/2-labels/points/{name}.tsv").read_text().splitlines()
        assert len(points) - 1 == instances.max()


def test_a_picture_of_more_nuclei_than_a_label_image_holds_is_rejected(tmp_path):
    instances = np.arange(300 * 300).reshape(300, 300)
    with pytest.raises(LabelError, match="89,999 nuclei exceed"):
        write_labels(tmp_path, "P1", np.zeros((300, 300, 3), np.uint8), instances)


@pytest.mark.slow  # because of the export
@pytest.mark.parametrize("verb, more", [("psm", []), ("train", ["--set", "method=psm"])])
def test_the_command_leaves_a_model_that_runs(config_path, finished, muse, verb, more):
    folder, _ = finished
    (folder / "tiny.onnx").unlink(missing_ok=True)
    out = muse.ok(verb, config_path, "-o", folder, "--accelerator", "cpu", *more)
    card = Predictor(folder / "tiny.onnx").card
    assert [one.name for one in card.classes] == ["Nucleus"]
    assert str(folder / "tiny.onnx") in out


def test_masks_may_be_those_of_an_activation_network(config_path, tmp_path):
    small = [
        "masks=activation",
        "activation.schedule.steps=3",
        "activation.window_px=64",
        "activation.batch=2",
    ]
    masks = train_run(
        PsmRecipe(), load_psm_config(config_path, changes=small), tmp_path, CPU, until="masks"
    )
    assert (stage_folder(tmp_path, 1, "activation") / "checkpoint.pt").is_file()
    assert len(list((masks / "masks").iterdir())) == 3


def test_tissue_without_nuclei_is_one_sentence(config_path, tmp_path, muse):
    (tmp_path / "glass").mkdir()
    cv2.imwrite(str(tmp_path / "glass/a.png"), np.full((120, 120, 3), 240, np.uint8))
    err = muse.fails(
        f"psm {config_path} -o {tmp_path / 'run'} --set sources.0.images={tmp_path / 'glass'}"
    )
    assert "none of 1 crops of tissue has a usable mask" in err
    assert not stage_folder(tmp_path / "run", 1, "masks").exists()


@pytest.mark.slow
def test_a_detector_learns_from_what_the_one_before_found(config_path, tmp_path):
    changes = ["self_training.rounds=1", "self_training.threshold=0.3"]
    config = load_psm_config(
        config_path, changes=[*changes, "detector.schedule={steps: 60, learning_rate: 0.01}"]
    )
    last = train_run(PsmRecipe(), config, tmp_path, CPU)
    assert last == tmp_path / "checkpoint.pt"
    labels, trained = (
        stage_folder(tmp_path, 4, "found-labels-1"),
        stage_folder(tmp_path, 5, "self-training-1"),
    )
    for number in range(3):
        instances = labels / f"instances/picture-{number:05d}-P{number}.png"
        n_found = cv2.imread(str(instances), cv2.IMREAD_UNCHANGED).max()
        assert abs(int(n_found) - n_drawn(config_path, f"P{number}")) <= 8
    before = (trained / "resume.pt").stat().st_mtime_ns
    surer = load_psm_config(
        config_path,
        changes=[
            *changes,
            "detector.schedule={steps: 60, learning_rate: 0.01}",
            "detector.export.threshold=0.6",
        ],
    )
    assert (
        train_run(PsmRecipe(), surer, tmp_path, CPU) == last
    )  # the new threshold only changes the card
    assert (trained / "resume.pt").stat().st_mtime_ns == before
    assert load_checkpoint(last).meta["config"]["export"]["threshold"] == 0.6
    unsure = load_psm_config(config_path, changes=[*changes, "self_training.threshold=1"])
    with pytest.raises(ConfigError, match="nucleus"):
        train_run(PsmRecipe(), unsure, tmp_path / "unsure", CPU)
