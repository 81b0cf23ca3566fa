"""Open datasets: the synthetic nuclei are read from each layout, and each error is one sentence."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_datasets import DRAWERS, LABELS, RADIUS_PX, SIZE, XY
from drawn_labels import pixels_at_nuclei
from scipy.io import loadmat, savemat

from muse_pipeline.core.errors import LabelError
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.layouts import LAYOUTS
from muse_pipeline.methods.detector.run import load_detector_config

RECIPE = Path(__file__).parents[2] / "config/train/multi_organ.yaml"
CLASSES = ("Lymphocyte", "Epithelial", "Stroma")
PATIENTS = {
    "pannuke": {"PanNuke fold1", "PanNuke fold2", "PanNuke fold3"},
    "lizard": {"Lizard fold1", "Lizard fold2", "Lizard fold3"},
    "puma": {"training_set_primary_roi_001", "training_set_metastatic_roi_001"},
    "ocelot": {"TCGA-AB-0001", "TCGA-AB-0002", "TCGA-AB-0003"},
    "nuinsseg": {"NuInsSeg human bladder", "NuInsSeg mouse lung"},
}
MPP = {"pannuke": 0.25, "lizard": 0.5, "puma": 0.23, "ocelot": 0.2, "nuinsseg": 0.25}


def draw_source(folder, name, **settings):
    """The recipe's source for a synthetic dataset, without excluded pictures."""
    DRAWERS[name](folder / name)
    sources = {source.format: source for source in load_detector_config(RECIPE, folder).sources}
    return replace(sources[name], exclude=(), **settings)


def read(*sources, mpp=0.25, n_rays=8):
    return read_labelled_images(sources, CLASSES, mpp, n_rays)


def test_every_layout_is_in_the_recipe():
    assert sorted(LABELS) == LAYOUTS.names()


@pytest.mark.parametrize("name", LABELS)
def test_a_layout_gives_what_was_drawn(tmp_path, name):
    source = draw_source(tmp_path, name)
    images = read(source)
    assert [image.name for image in images] == [sample.name for sample in source.list_all()]
    assert (
        {image.patient for image in images}
        == {source.patient_of(sample) for sample in source.choose()}
        == PATIENTS[name]
    )
    first, factor = next(image for image in images if len(image.nuclei)), MPP[name] / 0.25
    assert first.pixels.shape == (round(SIZE[1] * factor), round(SIZE[0] * factor), 3)
    kept = 5 if name == "nuinsseg" else 6  # one nucleus lies in a vague area of the first organ
    order = np.lexsort(first.nuclei.xy.round().T)  # row by row, as in XY
    assert np.allclose(
        first.nuclei.xy[order], XY[:kept] * first.pixels.shape[1::-1] / SIZE, atol=0.05
    )
    assert first.nuclei.label[order].tolist() == LABELS[name][:kept]
    assert first.nuclei.rays.mean(1) == pytest.approx(
        RADIUS_PX * MPP[name], rel=0.15
    )  # grown if only points are given
    dark = pixels_at_nuclei(first)
    assert dark.mean() < first.pixels.mean() - 40  # each centre lies on its dark disc


def test_what_is_vague_was_not_annotated(tmp_path):
    first, second = read(draw_source(tmp_path, "nuinsseg"))
    assert np.array_equal(np.argwhere(~first.region)[[0, -1]], [[40, 80], [95, 127]])
    assert second.region is None
    assert (first.n_left_out, second.n_left_out) == (1, 0)
    assert len(second.nuclei) == 6


def test_patches_without_nuclei_must_be_allowed(tmp_path):
    source = draw_source(tmp_path, "pannuke")
    assert [len(image.nuclei) for image in read(source)] == [6, 0] * 3
    with pytest.raises(LabelError, match=r"masks.npy: .* fold1_Colon_0001; .*allow_empty"):
        read(replace(source, allow_empty=False))


def test_numbers_that_return_in_another_class_are_other_nuclei(tmp_path):
    source = draw_source(tmp_path, "pannuke")
    channels = np.load(next(tmp_path.rglob("masks.npy")))[0]
    assert 1 in channels[..., 0]
    assert 1 in channels[..., 1]
    assert len(read(source)[0].nuclei) == 6


def test_arrays_stay_on_disk(tmp_path, monkeypatch):
    source, opened, load = draw_source(tmp_path, "pannuke"), [], np.load
    monkeypatch.setattr(
        np, "load", lambda path, **how: opened.append(load(path, **how)) or opened[-1]
    )
    assert len(read(source)) == 6
    assert all(isinstance(array, np.memmap) for array in opened)
    assert len(opened) >= 6


def test_folds_organs_and_patches_are_chosen_by_name(tmp_path):
    source = draw_source(tmp_path, "pannuke")
    chosen = read(replace(source, exclude=("fold1", "fold2", "Colon")))
    assert [image.name for image in chosen] == ["fold3_Breast_0000"]
    (tmp_path / "split.txt").write_text("fold2_Colon_0001\nfold1_Breast_0000\n")
    chosen = read(replace(source, split=tmp_path / "split.txt"))
    assert [image.name for image in chosen] == ["fold1_Breast_0000", "fold2_Colon_0001"]
    (tmp_path / "split.txt").write_text("fold4_Colon_0001\n")
    with pytest.raises(LabelError, match=r"1 of its names .*pannuke, first fold4_Colon_0001"):
        read(replace(source, split=tmp_path / "split.txt"))


@pytest.mark.parametrize("name", LABELS)
def test_a_dataset_that_was_unpacked_twice_is_rejected(tmp_path, name):
    source = draw_source(tmp_path, name)
    shutil.move(shutil.copytree(tmp_path / name, tmp_path / "copy"), tmp_path / name / "copy")
    with pytest.raises(LabelError, match=rf"{name}: contains '.*' twice, in .*copy"):
        read(source)


def test_a_rule_of_patients_comes_before_the_dataset(tmp_path):
    images = read(draw_source(tmp_path, "lizard", patient=r"_([a-z]+)_"))
    assert [image.patient for image in images] == ["consep", "crag", "glas", "pannuke"]


def test_files_count_only_where_they_are_used(tmp_path):
    source = replace(draw_source(tmp_path, "pannuke"), exclude=("fold1", "fold2"))
    names = [path.name for path in source.files()]
    assert names == ["images.npy", "types.npy", "masks.npy"]
    names = {path.name for path in draw_source(tmp_path, "ocelot").files()}
    assert names == {
        "metadata.json",
        *(f"00{n}.{suffix}" for n in (1, 2, 3) for suffix in ("jpg", "csv")),
    }


def change_mat(**changes):
    """A function that changes variables of the first file; None removes one."""

    def change(folder):
        path = sorted(folder.rglob("*.mat"))[0]
        content = {key: value for key, value in loadmat(path).items() if not key.startswith("_")}
        content = {**content, **changes}
        savemat(path, {key: value for key, value in content.items() if value is not None})

    return change


def drop_a_channel(folder):
    path = next(folder.rglob("masks.npy"))
    np.save(path, np.load(path)[..., :5])


@pytest.mark.parametrize(
    "name, damage, sentence",
    [
        ("pannuke", drop_a_channel, r"\(2, 96, 128, 5\), expected \(2, 96, 128, 6\)"),
        ("lizard", change_mat(inst_map=None), "consep_1.mat: .*inst_map"),
        ("lizard", change_mat(**{"class": np.full((6, 1), 7)}), "1.mat, instance 1: class '7'"),
        ("lizard", change_mat(inst_map=np.ones((9, 9), np.int32)), "is 9 x 9 px, .* 128 x 96"),
    ],
)
def test_arrays_that_were_not_published_are_one_sentence(tmp_path, name, damage, sentence):
    source = draw_source(tmp_path, name)
    damage(tmp_path / name)
    with pytest.raises(LabelError, match=sentence):
        read(source)
