"""Which slides of a cohort a backbone is trained on, and that no patient is both trained on and
held back.
"""

from pathlib import Path

import pytest
import yaml
from labelled import draw_labelled_folder, write_config
from workflow_runs import write_sheet

from experiments.common.training import load_muse_config
from muse_pipeline.core.files import read_json
from muse_pipeline.training.recipe import load_run

SETTINGS = {
    "name": "tiny",
    "backbone": "muse_compact_16",
    "schedule": {"steps": 2},
    "views": {"global_px": 64, "local_px": 32, "mpp": [0.25, 0.5]},
}


@pytest.fixture
def where(tmp_path, monkeypatch):
    """A folder with a sheet of five slides and a config without sources; commands run in it."""
    (tmp_path / "slide.tif").touch()
    names = {
        "a": ("", "P1"),
        "b": ("train", "P2"),
        "c": ("test", "P3"),
        "d": ("val", "P4"),
        "e-bad": ("", ""),
    }
    rows = [
        {"slide_id": k, "path": "slide.tif", "split": s, "patient": p}
        for k, (s, p) in names.items()
    ]
    write_sheet(tmp_path / "slides.tsv", rows)
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(SETTINGS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def plan(muse, where):
    """``plan(arguments...)``: the exit status, the config of the run or None, and what was
    printed.
    """

    def run(*arguments):
        common = [
            "given.yaml",
            "--sheet",
            "slides.tsv",
            "--results",
            "out",
            "-o",
            "run.yaml",
            "--resolved",
            "run.json",
        ]
        status, out, errors = muse("step pretrain-config", *common, *arguments)
        return status, load_muse_config(Path("run.yaml")) if status == 0 else None, out + errors

    return run


def test_slides_are_read_at_the_finest_mpp_and_test_slides_are_held_back(plan, where):
    status, config, output = plan()
    assert (status, output) == (0, "tiny: muse_compact_16 on 4 of 5 slides; 1 held back\n")
    folders = [source.store.parent for source in config.sources]
    assert folders == [where / "out" / name for name in ("a", "b", "d", "e-bad")]
    assert {source.store.name for source in config.sources} == {"image-250nm.zarr"}
    assert {source.proposals.name for source in config.sources} == {"proposals.parquet"}
    patients = [
        source.patient_of(folder.name)
        for source, folder in zip(config.sources, folders, strict=True)
    ]
    assert patients == ["P1", "P2", "P4", "e-bad"]
    assert config.views.mpp == (0.25, 0.5) and config.schedule.steps == 2
    facts = read_json(where / "run.json")
    assert (facts["slides"], facts["held"]) == (["a", "b", "d", "e-bad"], ["c"])
    assert (facts["mpp"], facts["backbone"]) == (0.25, "muse_compact_16")


def test_what_is_left_out_is_for_the_user_to_state(plan):
    _, config, _ = plan("--exclude", "bad", "--held-splits", "val", "test")
    assert [source.store.parent.name for source in config.sources] == ["a", "b"]
    _, config, _ = plan("--held-splits")
    assert len(config.sources) == 5


def test_an_unchanged_config_keeps_its_time(plan, where):
    plan()
    written = (where / "run.yaml").stat().st_mtime_ns
    plan()
    assert (where / "run.yaml").stat().st_mtime_ns == written
    plan("--set", "seed=1")
    assert (where / "run.yaml").stat().st_mtime_ns > written


def test_pictures_of_the_config_stay_its_sources(plan, where):
    draw_labelled_folder(where, n_pictures=2)
    (where / "given.yaml").write_text(
        yaml.safe_dump({**SETTINGS, "sources": [{"images": "images", "mpp": 0.5}]})
    )
    _, config, output = plan()
    assert "on 4 of 5 slides and 1 source of its own; 1 held back" in output
    assert config.sources[0].images == where / "images"
    assert [Path(file).name for file in read_json(where / "run.json")["inputs"]] == [
        "P0.png",
        "P1.png",
    ]


def test_a_patient_on_both_sides_is_rejected(plan, where):
    sheet = where / "slides.tsv"
    sheet.write_text(sheet.read_text().replace("P1", "P3"))
    status, _, output = plan()
    assert status == 2
    assert (
        "P3: slide 'c' is held out as 'test', but 'a' of the same patient would be in training"
        in output
    )


def test_whose_a_training_run_is_validated_on_is_not_learnt_from(plan, where):
    draw_labelled_folder(where, n_pictures=1)
    judge = write_config(where).rename(where / "judge.yaml")
    validation = [{"slides": "slides.tsv", "labels": "labels", "format": "geojson", "split": "val"}]
    judge.write_text(judge.read_text() + yaml.safe_dump({"validation": validation}))
    status, _, output = plan("--judged-by", judge)
    assert status == 2
    assert (
        "P4: in `held`, and also in `sources` or in the training data" in output
    )  # patients are compared as in the sheet, not as in the slides' names
    status, config, _ = plan("--judged-by", judge, "--held-splits", "val")
    assert status == 0
    assert [source.split.name for source in config.held] == ["val"]


PAIRED = {**SETTINGS, "method": "trident", "views": {"global_px": 64, "mpp": [0.5, 1.0]}}


def fill_partners(where, *slides):
    """Give these slides a partner in the sheet."""
    (where / "ihc.tif").touch()
    header, *rows = (where / "slides.tsv").read_text().splitlines()
    cells = ["ihc.tif" if row.split("\t")[0] in slides else "" for row in rows]
    lines = [
        f"{line}\t{cell}" for line, cell in zip([header, *rows], ["partner", *cells], strict=True)
    ]
    (where / "slides.tsv").write_text("\n".join(lines) + "\n")


def test_slides_with_a_partner_are_paired_with_its_store(muse, where):
    fill_partners(where, "a", "c", "d")
    (where / "given.yaml").write_text(yaml.safe_dump(PAIRED))
    files = [
        "--sheet",
        "slides.tsv",
        "--results",
        "out",
        "-o",
        "run.yaml",
        "--resolved",
        "run.json",
    ]
    muse.ok("step pretrain-config given.yaml", *files)
    _, config = load_run(Path("run.yaml"))
    partners = {s.store.parent.name: s.partner and s.partner.store for s in config.sources}
    stores = [where / "out" / name / "partner/image-500nm.zarr" for name in "ad"]
    assert partners == {"a": stores[0], "b": None, "d": stores[1], "e-bad": None}
    assert read_json(where / "run.json")["partners"] == ["a", "d"]  # c is held back
    muse.ok("step pretrain-config given.yaml", *files, "--set", "alignment.branches=1")
    assert read_json(where / "run.json")["partners"] == []
