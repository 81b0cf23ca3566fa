"""Patches by class or in a table: the accuracy of a backbone, with all labels and with few."""

import json

import numpy as np
import pytest

from muse_pipeline.core.pictures import write_png

PALE, DARK = (225, 180, 210), (150, 90, 160)


def draw_patches(folder, n, seed=0, side_px=48, names="{kind}-{number}"):
    """Pale and dark patches by class, as NCT-CRC-HE has its classes; (class, name) of each."""
    generator = np.random.default_rng(seed)
    found = []
    for kind, colour in (("STR", PALE), ("TUM", DARK)):
        for number in range(n):
            pixels = colour + generator.normal(0, 12, (side_px, side_px, 3))
            name = names.format(kind=kind, number=number)
            (folder / kind).mkdir(parents=True, exist_ok=True)
            write_png(folder / kind / f"{name}.png", pixels.clip(0, 255).astype(np.uint8))
            found.append((kind, name))
    return found


@pytest.fixture
def folders(tmp_path):
    draw_patches(tmp_path / "train", 12)
    draw_patches(tmp_path / "test", 6, seed=1, side_px=60, names="{kind}-t{number}")
    return tmp_path


def probe(muse, folders, *arguments):
    common = ["--backbone", "muse_compact_16", "--window-px", "48", "--accelerator", "cpu", "--threads", "1"]
    return muse("probe", folders / "train", "--test", folders / "test", *common, *arguments)


def test_patches_are_classified_with_all_labels_and_with_few(muse, folders):
    status, out, errors = probe(muse, folders, "--few", "2", "--json", folders / "p.json")
    assert status == 0, errors
    result = json.loads((folders / "p.json").read_text())
    assert result["classes"] == ["STR", "TUM"] and (result["n_train"], result["n_test"]) == (24, 12)
    assert result["protocols"].keys() == {
        f"{name}{few}" for name in ("kNN", "linear") for few in ("", ", 2 labels per class")
    }
    assert all(one["accuracy"] > 95 for one in result["protocols"].values())
    assert np.sum(result["protocols"]["kNN, 2 labels per class"]["confusion"]) == 5 * 12
    assert "kNN, 2 labels per class" in out and "12 of 12 patients or files" in out


def test_wrong_labels_are_learnt_as_they_are(muse, folders):
    """The table decides and not the pictures: with the classes exchanged every patch is wrong."""
    for split in ("train", "test"):
        (folders / f"{split}-all").mkdir()
        swap, rows = {"STR": "TUM", "TUM": "STR"}, ["image,label,patient"]
        for path in sorted((folders / split).rglob("*.png")):
            label = swap[path.parent.name] if split == "test" else path.parent.name
            path.rename(folders / f"{split}-all" / path.name)
            rows.append(f"{path.stem},{label},{split}{len(rows) % 3}")
        (folders / f"{split}.csv").write_text("\n".join(rows) + "\n")
    tables = ["--table", folders / "train.csv", "--test-table", folders / "test.csv", "--json", folders / "p.json"]
    common = ["--backbone", "muse_compact_16", "--window-px", "48", "--accelerator", "cpu"]
    status, _, errors = muse("probe", folders / "train-all", "--test", folders / "test-all", *common, *tables)
    assert status == 0, errors
    result = json.loads((folders / "p.json").read_text())
    assert all(one["accuracy"] < 5 for one in result["protocols"].values()) and result["n_test_patients"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--few", "13"], "class 'STR' has 12 patches to learn from, and 13 are needed"),
        (["--patient", "^(.)"], "S, T: reported, and learnt from"),
        (["--patient", "none"], "does not match the patient rule"),
        (["--finetune"], "by a frozen backbone"),
        (["--table", "none.csv"], "none.csv: not readable as a table"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, words, muse, folders):
    status, _, errors = probe(muse, folders, *arguments)
    assert status == 2 and words in errors and "Traceback" not in errors


def test_classes_of_the_test_must_be_known(muse, folders):
    (folders / "test" / "TUM").rename(folders / "test" / "MUC")
    status, _, errors = probe(muse, folders)
    assert status == 2 and "label 'MUC' is no class of the model (STR, TUM)" in errors
    config = folders / "c.yaml"
    config.write_text("method: detector\n")
    status, _, errors = muse("probe", config, "--few", "2")
    assert status == 2 and "need a folder of patches" in errors
