"""The configs of the paper's probe read OCELOT and PUMA as they are downloaded (drawn here in the same layout)."""

import json
import shutil
from pathlib import Path

import pytest
from drawn_datasets import draw_ocelot, draw_puma

CONFIGS = Path(__file__).parents[2] / "config/probe"


def draw_splits(folder: Path, name: str) -> None:
    """Pictures of three patients in train, val and test."""
    if name == "ocelot":
        draw_ocelot(folder / name)
        cells = folder / name / "ocelot2023_v1.0.1/annotations"
        shutil.copy(cells / "val/cell/002.csv", cells / "test/cell/003.csv")
        return
    draw_puma(folder / name)
    for path in sorted((folder / name).glob("*/training_set_primary*")):
        shutil.copy(path, path.with_name(path.name.replace("001", "002")))
    for split, picture in {"train": "primary_roi_001", "val": "metastatic_roi_001", "test": "primary_roi_002"}.items():
        (folder / name / f"{split}.txt").write_text(f"training_set_{picture}\n")


@pytest.mark.parametrize("name", ["ocelot", "puma"])
def test_a_probe_learns_chooses_and_reports_by_the_split(name, muse, tmp_path):
    draw_splits(tmp_path, name)
    configs = CONFIGS / f"{name}.yaml", "--test", CONFIGS / f"{name}_test.yaml"
    status, output, errors = muse(
        *("probe", *configs, "--data", tmp_path, "--backbone", "muse_compact_16"),
        *("--window-px", 64, "--repeats", 10, "--json", tmp_path / "probe.json"),
    )
    assert status == 0, errors
    assert "(random, not trained)" in output
    splits = json.loads((tmp_path / "probe.json").read_text())["splits"]
    assert [splits[split]["n_nuclei"] for split in ("training", "validation", "test")] == [6, 6, 6]
    assert all(splits["test"]["n_by_class"].values())
