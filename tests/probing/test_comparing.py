from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_probe import write_probe_configs

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import read_json
from muse_pipeline.models import BACKBONES
from muse_pipeline.probing.compare import open_networks
from muse_pipeline.probing.compare_labels import draw_patients
from muse_pipeline.probing.network import open_network
from muse_pipeline.training.checkpoint import Checkpoint, save_checkpoint

TISSUE = """
sources:
  - labelled:
      images: images
      labels: labels
      format: row column class
      mpp: 0.5
      class_map: { "1": Dark, "2": Pale }
      split: test.txt
views: { mpp: [0.5, 1.0] }
min_nuclei: 10
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Six patients to report on; a network that states the same of everything, and one with random weights."""
    folder = tmp_path_factory.mktemp("compared")
    config, test = write_probe_configs(folder)
    for split, numbers in {"train": (0,), "val": (1,), "test": (2, 3, 4, 5, 6, 7)}.items():
        (folder / f"{split}.txt").write_text("".join(f"P{number}.png\n" for number in numbers))
    (folder / "tissue.yaml").write_text(TISSUE)
    torch.manual_seed(0)
    weights = BACKBONES["muse_compact_16"]().state_dict()
    constant = {name: torch.zeros_like(value) for name, value in weights.items()}
    for name, state in {"random": weights, "constant": constant}.items():
        meta = {"kind": "backbone", "backbone": "muse_compact_16", "colour": {}, "patients": ["P0", "elsewhere"]}
        save_checkpoint(folder / f"{name}.pt", Checkpoint(state, {}, meta))
    return folder, config, test


def test_smaller_draws_of_patients_lie_in_larger_ones():
    drawn = draw_patients([f"p{n % 40}" for n in range(100)], draws=3)
    by_size = {(draw.share, draw.number): draw.patients for draw in drawn}
    assert {key: len(patients) for key, patients in by_size.items()} == {
        (1.0, 0): 40,
        **{(0.25, number): 10 for number in range(3)},
        **{(0.05, number): 2 for number in range(3)},
    }
    for number in range(3):
        assert by_size[0.05, number] < by_size[0.25, number]
    assert len({by_size[0.25, number] for number in range(3)}) == 3
    assert [(draw.share, len(draw.patients)) for draw in draw_patients(["a"], 2)] == [(1.0, 1)]


def test_with_labels_and_without(muse, drawn, tmp_path):
    folder, config, test = drawn
    arguments = ("--test", test, "--unlabelled", folder / "tissue.yaml", "--window-px", 96, "--repeats", 200)
    sides = ("--before", folder / "constant.pt", "--after", folder / "random.pt")
    status, out, _ = muse("compare", config, *arguments, *sides, "-o", tmp_path / "out", "--json", tmp_path / "c.json")
    assert status == 0
    assert out.startswith("With labels: yes. ")
    assert "\nWithout labels: " in out
    assert "before: muse_compact_16 (constant.pt)" in out
    result = read_json(tmp_path / "c.json")
    assert result == read_json(tmp_path / "out" / "compare.json")
    assert [answer["where"] for answer in result["answers"]] == ["With labels", "Without labels"]
    labelled = {(row["protocol"], row["share"]): row for row in result["with_labels"]["rows"]}
    assert set(labelled) == {("kNN", 1.0), ("linear", 1.0)}  # of one patient there is no smaller share
    for row in labelled.values():
        assert row["accuracy"]["after"] > row["accuracy"]["before"] + 10  # dark or pale: random features tell
        assert row["balanced_accuracy"]["before"] == 50
        assert row["accuracy"]["n_patients"] == 6
    retrieval, stable, across = (row for row in result["without_labels"]["rows"])
    assert retrieval["n_nuclei"] == 6 * 36
    assert np.isclose(retrieval["score"]["before"], 100 / 36)
    assert np.isclose(result["without_labels"]["chance"], 100 / 36)
    assert stable["score"]["before"] == across["score"]["before"] == 50
    assert stable["score"]["after"] > 60
    assert stable["score"]["verdict"] == "yes"
    page = (tmp_path / "out" / "compare.html").read_text()
    assert page.index("With labels: yes.") < page.index("Without labels: ") < page.index("<svg")
    assert page.count('src="data:image/png;base64,') == 2
    assert (tmp_path / "out" / "neighbours.png").stat().st_size > 10_000


def test_the_same_weights_on_both_sides_differ_in_nothing(muse, drawn, tmp_path):
    folder, config, test = drawn
    for side in ("before", "after"):
        (tmp_path / f"{side}.pt").write_bytes((folder / "random.pt").read_bytes())
    sides = ("--before", tmp_path / "before.pt", "--after", tmp_path / "after.pt")
    status, out, _ = muse(
        *("compare", config, "--test", test, *sides, "--finetune", "--repeats", 100, "--window-px", 96),
        *("-o", tmp_path / "out"),
    )
    assert status == 0
    assert out.startswith("With labels: too close to call. ")
    rows = read_json(tmp_path / "out" / "compare.json")["with_labels"]["rows"]
    assert [row["protocol"] for row in rows] == ["kNN", "linear", "fine-tune"]
    assert all(row["accuracy"]["difference"] == 0 for row in rows)


def test_the_built_in_network_has_seen_every_patient_of_its_pictures():
    """Its file names pictures alone: another crop of one of their patients is no more unseen than they are."""
    seen = open_network("muse_compact_24", Path("compact")).patients
    assert "TCGA-A7-A0D9" in seen
    assert all(len(patient) == 12 for patient in seen if patient.startswith("TCGA"))


def test_tissue_alone_and_too_few_patients(muse, drawn, tmp_path):
    folder, *_ = drawn
    tissue = tmp_path / "tissue.yaml"  # beside what a pretraining has
    tissue.write_text(
        (folder / "tissue.yaml").read_text().replace("test.txt", "few.txt") + "backbone: muse_compact_16\n"
    )
    (folder / "few.txt").write_text("P2.png\nP3.png\n")
    sides = ("--before", "untrained", "--after", folder / "random.pt", "--data", folder, "--window-px", 96)
    status, out, _ = muse("compare", tissue, *sides, "-o", tmp_path / "out")
    assert status == 0
    assert out.startswith("Without labels: too few patients to call (2, where 6 are needed). ")
    assert read_json(tmp_path / "out" / "compare.json")["with_labels"] is None
    status, _, errors = muse("compare", tissue, *sides, "--finetune", "-o", tmp_path / "no")
    assert status == 2
    assert "--finetune means nothing" in errors


def test_patients_of_the_pretraining_are_not_reported(muse, drawn, tmp_path):
    folder, config, test = drawn
    weights = BACKBONES["muse_compact_16"]().state_dict()
    seen = tmp_path / "seen.pt"
    save_checkpoint(
        seen, Checkpoint(weights, {}, {"kind": "backbone", "backbone": "muse_compact_16", "patients": ["P4"]})
    )
    rejected = {
        ("compare", config, "--test", test): "seen.pt was trained on patients that are reported: P4; ",
        ("compare", folder / "tissue.yaml"): "seen.pt was trained on patients that are reported: P4; ",
    }
    sides = ("--before", "untrained", "--after", seen, "--window-px", 96, "-o", tmp_path / "out")
    for arguments, message in rejected.items():
        status, out, errors = muse(*arguments, *sides)
        assert (status, out) == (2, "")
        assert message in errors
        assert not (tmp_path / "out" / "compare.json").exists()
    status, _, errors = muse("probe", config, "--test", test, "--checkpoint", seen)
    assert status == 2
    assert "patients that are reported: P4" in errors
    status, out, _ = muse("compare", folder / "tissue.yaml", *sides, "--allow-shared-patients")
    assert status == 0
    assert "patients that seen.pt was trained on and that are reported: P4" in out


def test_backbones_are_those_of_the_checkpoints(drawn):
    folder, *_ = drawn
    before, after = open_networks(None, folder / "random.pt", None, "muse_compact_48")
    assert [before.name, after.name] == ["muse_compact_16", "muse_compact_16"]
    before, after = open_networks(folder / "random.pt", None, "muse_compact_48", "muse_compact_16")
    assert [before.name, after.name] == ["muse_compact_16", "muse_compact_48"]
    with pytest.raises(ConfigError, match="both untrained"):
        open_networks(None, None, None, "muse_compact_16")


def test_an_untrained_network_sees_the_colours_of_the_other(tmp_path):
    colour = {"method": "macenko", "stains": [[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]], "strong": [1.5, 1.0]}
    path = tmp_path / "mine.pt"
    meta = {"kind": "backbone", "backbone": "muse_compact_16", "colour": colour}
    save_checkpoint(path, Checkpoint(BACKBONES["muse_compact_16"]().state_dict(), {}, meta))
    before, after = open_networks(None, path, None, None)
    assert before.reference == after.reference
    assert before.reference.method == "macenko"
