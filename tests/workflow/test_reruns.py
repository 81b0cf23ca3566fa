"""Changing a setting, or a cell of the sheet, reruns exactly the jobs that depend on it.

A cohort is run; then settings change, and a dry run shows which jobs Snakemake would run. A setting
that has no line here fails `test_every_setting_has_a_line`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import onnx
import pytest
import yaml
from labelled import draw_labelled_folder
from labelled import write_config as write_training_config
from test_pretrain_workflow import PRETRAIN
from web_server import Served, serve
from workflow_runs import (
    SNAKEFILE,
    draw_stained_slide,
    planned_jobs,
    run_snakemake,
    write_config,
    write_sheet,
)

from muse_pipeline.cohort.sheet import COLUMNS
from muse_pipeline.inference.card import METADATA_KEY
from muse_pipeline.inference.model import find_model, name_model

SCHEMA = SNAKEFILE.parent / "schemas/config.schema.yaml"
SETTINGS = {"proposals": {"method": "haematoxylin"}}
EMPTY = dict.fromkeys(("mpp", "roi", "shards", "patient", "split"), "")
# the shards of slide b do not depend on the config
ROWS = [
    {"slide_id": "a", "path": "a.tif", **EMPTY},
    {"slide_id": "b", "path": "b.tif", **EMPTY, "shards": "2"},
]

# Rule -> number of jobs if a step is repeated for both slides; the jobs that depend on the step are
# included.
NUCLEI = {"nuclei": 2, "report": 1}
DETECTION = {"detect": 3, **NUCLEI}
PROPOSALS = {"propose": 3, "proposals": 2}
EVERYTHING = {"image": 2, **DETECTION, **PROPOSALS}
PRETRAINING = {"pretrain": 1, "report": 1}
# The same if steps are repeated for slide a alone.
CUT_OF_A = {
    **{"detect": 1, "nuclei": 1, "propose": 1, "proposals": 1},
    "report": 1,
}
A = {"image": 1, **CUT_OF_A}

CHANGED_SETTINGS = [
    ("slides", "the same.tsv", {}),
    ("output", "elsewhere", EVERYTHING),
    ("mode", "label-free", DETECTION),
    ("model", "label_free", DETECTION),
    (
        "model",
        name_model(find_model("compact")),
        {},
    ),  # the model that `compact` means on this machine
    ("model", "same.onnx", {}),
    ("model", "tiny.yaml", {"finetune": 1, "export": 1, **DETECTION}),
    ("pretrain", PRETRAIN, PRETRAINING),
    (
        "pretrain",
        {**PRETRAIN, "views": {**PRETRAIN["views"], "mpp": [0.25, 0.5]}},
        {**PRETRAINING, "tile": 2},
    ),
    ("train_data", ".", {}),  # only a training run reads it
    ("provider", "openvino", DETECTION),
    ("proposals", None, {}),
    ("proposals", {"method": "haematoxylin", "strictness": 0.8}, PROPOSALS),
    ("proposals", {"method": "haematoxylin", "min_distance_um": 3.5}, PROPOSALS),
    ("regions", "tumour.onnx", {"regions": 2, "check_regions": 1, **NUCLEI}),
    ("third_stain", True, EVERYTHING),
    ("mpp", 0.25, EVERYTHING),
    ("extra_mpps", [0.25], {"tile": 2}),
    ("keep_stores", False, {}),
    ("max_corrupt", 0.5, EVERYTHING),
    ("shards", 1, {}),
    ("shards", 3, {**CUT_OF_A, "detect": 3, "propose": 3}),
    ("frame", "openslide", {**NUCLEI, "proposals": 2}),
    ("max_features", 100, NUCLEI),
    ("csv", True, NUCLEI),
    ("cells", True, NUCLEI),
    ("tma", True, NUCLEI),
    ("intensities", [0.3, 0.5, 0.7], NUCLEI),
    ("features", "none", NUCLEI),
    ("measurements", ["h_mean"], NUCLEI),
    ("embedding", True, NUCLEI),
    ("anndata", True, {"anndata_cohort": 1, **NUCLEI}),
    ("spatialdata", True, NUCLEI),
    ("statistics", {"group": "split"}, {"statistics": 1, "report": 1}),
    ("include_doubtful", ["scale"], {"report": 1}),
    ("viewer", False, NUCLEI),
    ("quality", False, NUCLEI),
    ("pretrain_store", {"codec": "jpeg"}, {}),
]
# The built-in model works only at 0.5 um/px, so this setting needs a different model.
TOGETHER_WITH = {"mpp": {"model": "fine.onnx"}}
ELSEWHERE = {
    "provider": ["--jobs", "1"]
}  # nodes of a cluster may have a provider that this machine lacks
CHANGED_CELLS = [
    ("slide_id", "c", A),
    ("path", "b.tif", A),
    ("mpp", "0.5", A),
    ("roi", "roi.geojson", A),
    ("shards", "1", {}),
    ("shards", "3", {**CUT_OF_A, "detect": 3, "propose": 3}),
    ("patient", "P1", {"report": 1}),
    ("split", "test", {"report": 1}),
    ("regions", "roi.geojson", {"nuclei": 1, "report": 1}),
    ("partner", "b.tif", {"report": 1}),
    ("organ", "kidney", {"report": 1}),
    ("stain", "IHC", {"detect": 1, "nuclei": 1, "report": 1}),
    ("label", "Tumour", {}),  # only training reads it
]
OF_THE_MACHINE = [
    ["--cores", "1"],
    ["--set-threads", "detect=1", "image=1"],
    ["--resources", "mem_mb=8000"],
    ["--set-resources", "detect:mem_mb=4000", "nuclei:runtime=10"],
]


def named(case) -> str | None:
    return case if isinstance(case, str) else None


def test_every_setting_has_a_line():
    schema = yaml.safe_load(SCHEMA.read_text("utf-8"))
    assert {setting for setting, *_ in CHANGED_SETTINGS} == schema["properties"].keys()
    assert {column for column, *_ in CHANGED_CELLS} | {"partner_transform"} == set(COLUMNS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a cohort that has run; it also has the files that the changed settings name."""
    folder = tmp_path_factory.mktemp("reruns")
    draw_stained_slide(folder / "a.tif", size_px=640, n_nuclei=100)
    shutil.copy(folder / "a.tif", folder / "b.tif")
    corner = {
        "type": "Polygon",
        "coordinates": [[[100, 100], [500, 100], [500, 500], [100, 500], [100, 100]]],
    }
    (folder / "roi.geojson").write_text(json.dumps(corner))
    write_training_config(draw_labelled_folder(folder, n_pictures=1))
    shutil.copy(find_model("compact"), folder / "same.onnx")
    write_model_at(0.25, folder / "fine.onnx")
    shutil.copy(folder / "same.onnx", folder / "tumour.onnx")  # planning does not open the model
    write_sheet(folder / "the same.tsv", ROWS)
    write_sheet(folder / "slides.tsv", ROWS)
    write_config(folder, **SETTINGS)
    run = run_snakemake(folder)
    assert run.returncode == 0, run.stdout
    return folder


def write_model_at(mpp: float, path: Path) -> None:
    """Write the built-in model with a card that states a different ``mpp``."""
    model = onnx.load(find_model("compact"))
    card = {**{each.key: each.value for each in model.metadata_props}}
    card[METADATA_KEY] = json.dumps({**json.loads(card[METADATA_KEY]), "mpp": mpp})
    onnx.helper.set_model_props(model, card)
    onnx.save(model, path)


def plan(folder: Path, *arguments: str, rows=ROWS, settings=SETTINGS) -> dict[str, int]:
    """Rule -> number of jobs that a run would execute."""
    write_sheet(folder / "slides.tsv", rows)
    write_config(folder, **settings)
    run = run_snakemake(folder, "--dry-run", "--quiet", "rules", *arguments)
    assert run.returncode == 0, run.stdout
    planned = planned_jobs(run.stdout)
    assert planned or "Nothing to be done" in run.stdout
    planned.pop("all", None)
    return planned


@pytest.fixture
def without_metadata(finished):
    """The folder without Snakemake's metadata, as after the results were moved or after `rm -r
    .snakemake`.
    """
    kept = (finished / ".snakemake").rename(finished / "metadata")
    yield finished
    shutil.rmtree(finished / ".snakemake")
    kept.rename(finished / ".snakemake")


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("setting, value, jobs", CHANGED_SETTINGS, ids=named)
def test_a_setting_reruns_the_same_where_snakemake_remembers_nothing(
    without_metadata, setting, value, jobs
):
    settings = {**SETTINGS, **TOGETHER_WITH.get(setting, {}), setting: value}
    planned = plan(without_metadata, *ELSEWHERE.get(setting, []), settings=settings)
    assert planned == (
        {} if value == "same.onnx" else jobs
    )  # the same model under a different name


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("column, value, jobs", CHANGED_CELLS, ids=named)
def test_a_cell_reruns_the_same_where_snakemake_remembers_nothing(
    without_metadata, column, value, jobs
):
    assert (
        plan(without_metadata, rows=[{**ROWS[0], column: value}, {column: "", **ROWS[1]}]) == jobs
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_same_rows_in_another_sheet_fetch_nothing_again(tmp_path, pyramid_path):
    pytest.importorskip("aiohttp", reason="the extra `remote` is not installed")
    wanted = ["--", "results/a/slide.json"]
    write_config(tmp_path)
    with serve({"/a.tif": Served(pyramid_path.read_bytes(), secret="sig=geheim")}) as host:
        for name in ("slides.tsv", "the same.tsv"):
            write_sheet(tmp_path / name, [{"slide_id": "a", "path": f"{host}/a.tif?sig=geheim"}])
        run = run_snakemake(tmp_path, *wanted)
        assert planned_jobs(run.stdout).keys() >= {"fetch", "image"}, run.stdout
    assert (
        "Nothing to be done"
        in run_snakemake(tmp_path, "--config", "slides=the same.tsv", "--dry-run", *wanted).stdout
    )
    assert not [
        path
        for path in (tmp_path / ".snakemake").rglob("*")
        if path.is_file() and b"geheim" in path.read_bytes()
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_slide_replaced_by_a_file_with_an_older_date_is_run_again(finished):
    """`cp -p` and `rsync -a` keep the date of the file that they copy, which can be older than the
    results.
    """
    slide = finished / "a.tif"
    whole, dates = slide.read_bytes(), slide.stat()
    slide.write_bytes(whole + b" ")
    os.utime(slide, (dates.st_atime - 86_400, dates.st_mtime - 86_400))
    planned = plan(finished)
    slide.write_bytes(whole)
    os.utime(slide, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    assert planned == A
    assert plan(finished) == {}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("arguments", OF_THE_MACHINE, ids=" ".join)
def test_what_a_machine_has_reruns_nothing(finished, arguments):
    assert plan(finished, *arguments) == {}
