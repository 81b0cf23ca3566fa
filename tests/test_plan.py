"""The plan of a run, made from the sheet and the config, tested without a run."""

import os
import time
from dataclasses import replace

import pytest
import yaml

from muse_pipeline import workflow
from muse_pipeline.core.errors import SheetError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.plan import Plan, state_of_files, version_of_file, without_patterns
from muse_pipeline.settings import RunSettings, complete_config, list_settings, read_run_config
from muse_pipeline.workflow import WorkflowPlan, option

SETTINGS = list_settings()
CONFIG = {
    **{name: each.default for name, each in SETTINGS.items()},
    "model": "compact",
    "slides": "slides.tsv",
}
MODEL = {"model": "compact-fp32", "name": "compact", "sha256": "0" * 64, "provider": "cpu"}


def row(path, shards=1, **cells):
    return {"path": str(path), "mpp": None, "roi": None, "shards": shards, **cells}


@pytest.fixture
def slide(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"pixels")
    return path


@pytest.fixture
def plan(slide):
    rows = {
        "a": row(slide, mpp=0.25),
        "far": row("https://host/b.svs", shards=2),
        "gone": row("/none/c.svs"),
    }
    return WorkflowPlan(CONFIG, rows, MODEL)


def test_files_of_a_slide_and_of_all(plan):
    assert plan.store == "image-500nm.zarr"
    assert plan.files("slide.json", slides=["far"]) == ["results/far/slide.json"]
    assert plan.files("x", "y", slides=["a", "far"])[:3] == [
        "results/a/x",
        "results/a/y",
        "results/far/x",
    ]
    assert plan.shards("far") == [
        "results/far/shards/1-of-2.parquet",
        "results/far/shards/2-of-2.parquet",
    ]
    assert plan.shards("a", "proposals") == ["results/a/proposals/1-of-1.parquet"]


def test_a_slide_at_a_url_is_opened_by_its_copy(plan, slide):
    assert plan.input("a") == plan.argument_and_source("a") == [str(slide)]
    assert plan.input("far") == ["results/far/fetched"]
    assert plan.argument_and_source("far") == [
        "results/far/fetched",
        "--source",
        "https://host/b.svs",
    ]


def test_a_cell_becomes_an_option_or_nothing(plan):
    assert plan.option("a", "--mpp", "mpp") == ["--mpp", 0.25]
    assert plan.option("far", "--mpp", "mpp") == option("--x", None) == []
    with pytest.raises(SheetError, match=r"^b: no such slide in slides\.tsv$"):
        plan.row("b")


def test_what_snakemake_would_misunderstand_is_no_input(plan, slide):
    ahead = time.time() + 1000
    assert plan.file("a", "path") == [str(slide)]
    os.utime(slide, (ahead, ahead))
    assert plan.file("a", "path") == []
    assert WorkflowPlan(CONFIG, {"p": row("/x/{a}.svs")}).file("p", "path") == []
    assert without_patterns(["a.txt", "a*.txt", "{a}.txt"]) == ["a.txt"]


def test_the_state_follows_size_and_time_also_of_an_older_copy(plan, slide):
    first = plan.state("a", "path")
    os.utime(slide, (1, 1))
    assert plan.state("a", "path") != first
    assert plan.state("gone", "path") == plan.state("a", "roi") == state_of_files([])


def test_the_state_of_a_mirax_slide_follows_its_folder(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m.mrxs").touch()
    plan = WorkflowPlan(CONFIG, {"m": row(tmp_path / "m.mrxs")})
    before = plan.state("m", "path")
    (tmp_path / "m/Data0001.dat").write_bytes(b"pixels")
    assert plan.state("m", "path") != before


def test_small_files_get_one_thread(plan, slide, tmp_path):
    assert (plan.threads("a"), plan.threads("far"), plan.threads("gone")) == (1, 4, 4)
    with slide.open("r+b") as file:
        file.truncate(8 << 20)
    assert plan.threads("a") == 4
    (tmp_path / "m.mrxs").touch()  # small, but its pixels are in a folder next to it
    assert WorkflowPlan(CONFIG, {"m": row(tmp_path / "m.mrxs")}).threads("m") == 4


def changed(plan, **attributes):
    return replace(plan, **attributes)


def test_the_settings_of_nuclei_tell_one_run_from_another(plan):
    before = plan.nuclei_settings("a")
    assert changed(plan, config={**CONFIG, "output": "elsewhere"}).nuclei_settings("a") == before
    for other in (
        changed(plan, config={**CONFIG, "max_corrupt": 0.5}),
        changed(plan, rows={"a": {**plan.rows["a"], "shards": 3}}),
        changed(plan, model={**MODEL, "sha256": "1" * 64}),
        changed(plan, model={**MODEL, "provider": "cuda"}),
        changed(plan, is_trained=True),
    ):
        assert other.nuclei_settings("a") != before
    assert changed(plan, model={**MODEL, "sha256": "1" * 64}).image_settings(
        "a"
    ) == plan.image_settings("a")


def test_a_pretraining_run_counts_where_the_model_is_trained_on_it(plan):
    def settings(**attributes):
        return changed(plan, **attributes).nuclei_settings("a")

    assert settings(pretraining={"run": "b.yaml"}) == settings()
    assert settings(pretraining={"run": "b.yaml"}, is_trained=True) != settings(is_trained=True)


def test_a_file_is_named_with_its_checksum(tmp_path):
    roi = tmp_path / "roi.json"
    assert version_of_file(None) == "none"
    assert version_of_file(str(roi)) == "roi.json"
    roi.write_text("{}")
    assert version_of_file(str(roi)) == f"roi.json ({sha256_of(roi)[:8]})"


EVERYTHING = {
    "proposals": {"method": "haematoxylin"},
    "regions": "r.onnx",
    "extra_mpps": [0.25],
    "embedding": True,
}


@pytest.mark.parametrize(
    "config", [{}, EVERYTHING, {**EVERYTHING, "keep_stores": False}, {"spatialdata": True}]
)
def test_every_file_that_a_job_reads_is_written_by_an_earlier_job(plan, config):
    written: set[str] = set()
    for job in changed(plan, config={**CONFIG, **config}).jobs("far"):
        assert set(job.reads) <= written, job.name
        assert not set(job.writes) & written, job.name
        assert set(job.temporary) <= set(job.writes)
        written |= set(job.writes)
    assert {"nuclei.parquet", "nuclei.geojson.gz", "summary.json"} <= written


def test_images_and_shards_are_temporary_unless_they_are_kept(plan):
    jobs = changed(plan, config={**CONFIG, **EVERYTHING, "keep_stores": False}).jobs("a")
    shards = "shards/1-of-1.parquet", "proposals/1-of-1.parquet"
    assert sorted(name for job in jobs for name in job.temporary) == sorted(
        ["image-500nm.zarr", *shards]
    )
    assert not any(
        job.temporary for job in changed(plan, config={**CONFIG, **EVERYTHING}).jobs("a")
    )
    assert "tile-image-250nm.zarr" not in [job.name for job in jobs]  # no step reads it


def test_a_run_replaces_all_that_an_earlier_one_wrote_and_nothing_of_the_users(plan, tmp_path):
    plan = changed(plan, config={**CONFIG, **EVERYTHING, "output": str(tmp_path / "results")})
    ours = (
        "nuclei.parquet nuclei.part-001.geojson.gz summary.json density.png slide.json nuclei.h5ad "
        "overlays/1.png"
    )
    mine = "nuclei.qpdata nuclei.geojson nuclei.part-001-mine.geojson tissue.csv overlays/mine.png"
    records = plan.records("a")
    (records.folder / "overlays").mkdir(parents=True)
    for name in f"{ours} {mine}".split():
        (records.folder / name).touch()
    records.withdraw(records.outdated)
    left = {str(path.relative_to(records.folder)) for path in records.folder.rglob("*.*")}
    assert left == set(mine.split())


def test_a_slide_with_drawn_regions_is_not_mapped(plan):
    mapped = changed(
        plan, config={**CONFIG, "regions": "r.onnx"}, rows={"a": row("a.svs", regions="drawn.json")}
    )
    assert "regions" not in [job.name for job in mapped.jobs("a")]
    assert not any("regions.json" in job.reads for job in mapped.jobs("a"))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"quality": False, "viewer": False, "features": "none", "keep_stores": False},
        {
            "quality": {"subtract": ["ink"]},
            "cells": {"expand_um": 4},
            "frame": "openslide",
            "measurements": ["area_um2"],
        },
        {
            "spatialdata": True,
            "embedding": True,
            "third_stain": True,
            "max_corrupt": 0.3,
            "tma": True,
        },
    ],
)
def test_a_batch_has_the_settings_of_the_rules(settings, tmp_path):
    config = complete_config({"slides": "slides.tsv", **settings})
    written = tmp_path / "run_config.yaml"
    written.write_text(yaml.safe_dump(config))
    of_batch = Plan(RunSettings(read_run_config(written)), {}, MODEL)
    assert {
        name: of_batch.config[name]
        for name, each in SETTINGS.items()
        if each.job in {"image", "nuclei"}
    } == {name: config[name] for name, each in SETTINGS.items() if each.job in {"image", "nuclei"}}


@pytest.mark.parametrize(
    "n_slides, n_cores, sizes", [(60, 8, [10] * 6), (600, 2, [50] * 12), (4, 8, [4])]
)
def test_small_slides_are_divided_among_the_cores(slide, monkeypatch, n_slides, n_cores, sizes):
    monkeypatch.setattr(workflow, "count_cores", lambda: n_cores)
    plan = WorkflowPlan(CONFIG, {f"s{n}": row(slide) for n in range(n_slides)}, MODEL)
    batches = plan.batches(plan.slides)
    assert [len(batch) for batch in batches.values()] == sizes
    assert sorted(slide for batch in batches.values() for slide in batch) == sorted(plan.slides)


@pytest.mark.parametrize(
    "settings",
    [{"extra_mpps": [1.0]}, {"regions": "nuclei"}, {"proposals": {"method": "otsu"}}],
)
def test_there_are_no_batches_if_other_rules_read_files_of_single_steps(slide, settings):
    plan = WorkflowPlan(CONFIG | settings, {f"s{n}": row(slide) for n in range(4)}, MODEL)
    assert plan.batches(plan.slides) == {}
