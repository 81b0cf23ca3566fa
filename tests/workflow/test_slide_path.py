"""The path of a slide: its steps in order, their ledgers, and the same bytes whichever way they are
run.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from step_commands import step_commands
from workflow_runs import draw_stained_slide

from muse_pipeline.cli.main import main
from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.ledgers import STEPS, read_progress
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.errors import SlideError
from muse_pipeline.core.files import read_json
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.outputs.base import FinishedSlide, Output
from muse_pipeline.pipeline import Models, make_image, plan_slides, run_slide, write_outputs
from muse_pipeline.settings import RunSettings

ALWAYS = tuple(step for step in STEPS if step not in {"fetch", "regions", "propose", "embed"})


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "S.tif"
    draw_stained_slide(path, size_px=640, n_nuclei=100)
    return path


@pytest.fixture(scope="module")
def whole(slide) -> Path:
    """The folder of the slide after ``run_slide``."""
    begun: list[str] = []
    folder = slide.parent / "whole/S"
    row, models = SheetRow("S", str(slide)), Models(Predictor(find_model("compact")))
    settings = RunSettings({"output": str(folder.parent), "shards": 2}, threads=2)
    run_slide(
        row,
        plan_slides([row], models, settings).records(row.slide_id),
        models,
        settings,
        begun.append,
    )
    assert begun == [
        "inspect",
        "tissue",
        "tile",
        "detect",
        "detect",
        "stitch",
        "geojson",
        "overlay",
    ]
    return folder


def results(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of every file except shards, logs and ledgers."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    beside = {"shards", "logs", "requests", "ledger"}
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.parent.name not in beside
    }


def test_every_step_has_its_ledger(whole):
    assert [(record.step, record.status) for record in read_progress(whole, 2)] == [
        (step, "ok") for step in ALWAYS
    ]


def test_outputs_of_one_step_share_its_ledger(tmp_path):
    """They share it even if an output of a different step, here ``tma``, comes between them in the
    order of outputs.
    """

    def output(name: str, step: str) -> type[Output]:
        write = classmethod(lambda cls, slide: [f"warning of {cls.name}"])
        return type(name, (Output,), {"name": name, "step": step, "write": write})

    outputs, begun = (
        [output("viewer", "overlay"), output("tma", "tma"), output("summary", "overlay")],
        [],
    )
    write_outputs(FinishedSlide(SlideFiles(tmp_path), RunSettings({})), outputs, begun.append)
    assert begun == ["tma", "overlay"]
    ledger = read_json(SlideFiles(tmp_path).ledger("overlay"))
    assert ledger["warnings"] == ["warning of viewer", "warning of summary"]


def test_step_by_step_the_bytes_are_the_same(slide, whole, tmp_path):
    for command in step_commands(slide, tmp_path / "S"):
        assert main(command) == 0, command
    assert results(tmp_path / "S") == results(whole)


def test_new_nuclei_replace_outdated_files_and_keep_proposals(whole, tmp_path):
    folder = tmp_path / "S"
    folder.mkdir()
    for name in ("slide.json", "tissue.npz", "tissue.png", "colour.json", "image-500nm.zarr"):
        (folder / name).symlink_to(whole / name)
    outdated = (
        "nuclei.h5ad",
        "embeddings-other.parquet",
        "slide.spatialdata.zarr/zarr.json",
        "viewer/index.html",
    )
    for name in (*outdated, "proposals.parquet"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    shards = [str(path) for path in sorted((whole / "shards").iterdir())]
    (tmp_path / "config.yaml").write_text("{viewer: false, csv: true, features: none}")
    assert (
        main(
            [
                "step",
                "nuclei",
                *shards,
                *f"--config {tmp_path / 'config.yaml'} --output {folder}".split(),
            ]
        )
        == 0
    )
    assert (folder / "nuclei.geojson.gz").read_bytes() == (whole / "nuclei.geojson.gz").read_bytes()
    assert (folder / "nuclei.csv.gz").is_file()
    assert not any((folder / name).exists() for name in outdated)
    assert (folder / "proposals.parquet").exists()


def test_a_step_that_fails_ends_the_path_and_leaves_no_older_ledger_behind_it(tmp_path):
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    files = SlideFiles(tmp_path / "S")
    files.ledger("tissue").parent.mkdir(parents=True)
    files.ledger("tissue").write_text(
        '{"step": "tissue", "status": "ok"}'
    )  # left over from an earlier run
    with pytest.raises(SlideError, match="is not a slide"):
        make_image(tmp_path / "broken.svs", SheetRow("S", "broken.svs"), files, 0.5, RunSettings())
    inspect, tissue, *_ = read_progress(files.folder)
    assert (inspect.status, tissue.status) == ("failed", "missing")
    assert tissue.reason == "not reached because inspect failed"


def test_the_jobs_of_the_workflow_are_not_in_the_list_of_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = re.findall(r"^    ([\w-]+) ", capsys.readouterr().out, re.M)
    assert "preflight" in listed and "step" not in listed
