"""Features in the workflow: the same tables as from `muse run`, files for scverse, and comparisons
of groups.
"""

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from workflow_runs import (
    draw_stained_slide,
    enlarge,
    planned_jobs,
    run_snakemake,
    write_config,
    write_sheet,
)

from muse_pipeline import read_cohort
from muse_pipeline.cli.main import main
from muse_pipeline.cohort.layout import OF_COHORT
from muse_pipeline.core.files import read_json, read_tsv

SLIDES = {
    "s1": ("P1", "benign"),
    "s2": ("P2", "benign"),
    "s3": ("P3", "malignant"),
    "s4": ("P4", "malignant"),
}
SETTINGS = {
    "spatialdata": True,
    "anndata": True,
    "embedding": True,
    "statistics": {"group": "label"},
    "include_doubtful": ["scale"],
    "measurements": ["h_mean", "texture_asm"],
}

SCVERSE = "nuclei.h5ad", "slide.spatialdata.zarr", "embeddings-*.parquet"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    for number, name in enumerate(SLIDES):
        draw_stained_slide(folder / f"{name}.tif", 700, 120 + 60 * (number > 1), seed=number)
        enlarge(folder / f"{name}.tif")
    rows = [
        {"slide_id": name, "path": f"{name}.tif", "mpp": 0.5, "patient": patient, "label": label}
        for name, (patient, label) in SLIDES.items()
    ]
    write_sheet(folder / "slides.tsv", rows)
    return folder


def read_datasets(path):
    """Name -> value of every dataset in an HDF5 file, as text, because NaN does not equal NaN."""
    h5py, found = (
        pytest.importorskip("h5py", reason="h5py, the extra `spatial`, is not installed"),
        {},
    )
    with h5py.File(path) as file:
        file.visititems(
            lambda name, each: (
                found.update({name: each[()]}) if isinstance(each, h5py.Dataset) else None
            )
        )
    return {
        name: repr(getattr(values, "tolist", lambda values=values: values)())
        for name, values in found.items()
    }


@pytest.mark.timeout(600)
def test_every_slide_has_a_job_for_its_embeddings(cohort):
    write_config(cohort, embedding=True, anndata=True)
    jobs = planned_jobs(run_snakemake(cohort, "--dry-run").stdout)
    assert (jobs["nuclei"], jobs["anndata_cohort"]) == (4, 1)


def test_a_finished_slide_gets_what_it_lacks(cohort, tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py, the extra `spatial`, is not installed")
    run = ["run", str(cohort / "s1.tif"), "-o", str(tmp_path), "--no-viewer", "--mpp", "0.5"]
    assert main([*run, "--features", "all"]) == 0
    shard = (tmp_path / "s1/shards/1-of-1.parquet").stat().st_mtime_ns
    table = (tmp_path / "s1/nuclei.parquet").read_bytes()
    assert main([*run, "--anndata"]) == 0
    with h5py.File(tmp_path / "s1/nuclei.h5ad") as file:
        assert "X_embedding" not in file["obsm"]
    assert main([*run, "--anndata", "--embedding"]) == 0
    assert (tmp_path / "s1/shards/1-of-1.parquet").stat().st_mtime_ns == shard
    assert (tmp_path / "s1/nuclei.parquet").read_bytes() == table
    vectors = pq.read_table(tmp_path / "s1/embeddings-compact.parquet")["embedding"].to_pylist()
    with h5py.File(tmp_path / "s1/nuclei.h5ad") as file:
        assert file["obsm/X_embedding"].dtype == np.float16
        np.testing.assert_array_equal(file["obsm/X_embedding"][:], np.array(vectors, np.float16))
    with h5py.File(tmp_path / "cohort.h5ad") as file:
        assert list(file["obs/_index"].asstr()[:]) == ["s1"]
    assert read_json(tmp_path / "s1/ledger/embed.json")["status"] == "ok"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_workflow_gives_the_tables_of_muse_run_and_compares_the_groups(cohort):
    write_config(cohort, **SETTINGS)
    run = run_snakemake(cohort)
    assert run.returncode == 0, run.stdout
    results = cohort / "results"
    words = [
        "run",
        str(cohort / "slides.tsv"),
        "-o",
        str(cohort / "by_run"),
        "--anndata",
        "--embedding",
    ]
    assert main(words) == 0
    of_cohort, of_run = (
        read_datasets(folder / "cohort.h5ad") for folder in (results, cohort / "by_run")
    )
    differing = {name for name in of_cohort | of_run if of_cohort.get(name) != of_run.get(name)}
    # `muse run` was called without `include_doubtful`, so only these entries may differ.
    assert {name.partition("/")[2].partition("/")[0] for name in differing} <= {
        "left_out",
        "marked",
    }
    for name in SLIDES:
        table = results / name / "nuclei.parquet"
        assert table.read_bytes() == (cohort / "by_run" / name / "nuclei.parquet").read_bytes()
        for file in ("nuclei.h5ad", "embeddings-compact.parquet"):
            assert (results / name / file).read_bytes() == (
                cohort / "by_run" / name / file
            ).read_bytes()
        table_of_slide = zarr.open_group(
            results / name / "slide.spatialdata.zarr/tables/table", mode="r"
        )
        vectors = pq.read_table(results / name / "embeddings-compact.parquet")[
            "embedding"
        ].to_pylist()
        np.testing.assert_array_equal(
            table_of_slide["obsm/X_embedding"][:], np.array(vectors, np.float16)
        )
        assert pq.read_metadata(table).num_rows > 20
    stated = read_json(results / "s1/nuclei.provenance.json")
    assert {"h_mean", "texture_asm"} <= set(stated["measurements"])
    rows = {row["measure"]: row for row in read_tsv(results / "statistics.tsv")}
    slides = read_tsv(results / "cohort.tsv")
    assert {slide["status"] for slide in slides} == {"ok"} and all(
        slide["seconds_embed"] for slide in slides
    )
    assert "malignant</bdi> against <bdi>benign" in (results / "report.html").read_text()
    density = rows["nuclei_per_mm2"]
    assert (density["first"], density["second"], density["n_first"]) == ("benign", "malignant", "2")
    assert float(density["mean_second"]) > float(density["mean_first"])
    assert (results / "report.html").read_text(encoding="utf-8").count(
        '<td class="group"><bdi>benign'
    ) == 2
    counts = read_cohort(results).to_table(["patient"]).to_pandas()["patient"].value_counts()
    assert set(counts.index) == {"P1", "P2", "P3", "P4"}

    sheet = cohort / "slides.tsv"
    sheet.write_text(sheet.read_text().replace("P2\tbenign", "P2\tother"))
    run = run_snakemake(cohort)
    assert run.returncode == 1
    assert "\nstatistics failed: muse statistics: group " in run.stdout

    write_config(
        cohort,
        **{
            **SETTINGS,
            "spatialdata": False,
            "anndata": False,
            "features": "basic",
            "measurements": ["h_mean"],
        },
    )
    jobs = planned_jobs(run_snakemake(cohort, "--dry-run").stdout)
    assert jobs["nuclei"] == 4 and "detect" not in jobs and "image" not in jobs
    write_sheet(sheet, [{"slide_id": "s1", "path": "s1.tif", "mpp": 0.5}])
    write_config(cohort, model="compact-fp32")
    assert run_snakemake(cohort).returncode == 0
    stale = [
        path
        for name in (*OF_COHORT, *(f"s1/{each}" for each in SCVERSE))
        for path in results.glob(name)
    ]
    assert stale == []
