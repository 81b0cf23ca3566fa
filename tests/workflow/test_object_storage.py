"""A cohort with slides on a real web server and a real S3 server has the same results as with local
slides.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from web_server import Served, serve
from workflow_runs import draw_stained_slide, planned_jobs, run_snakemake, write_config, write_sheet

from muse_pipeline.core.files import read_tsv
from muse_pipeline.slides import remote
from muse_pipeline.slides.remote import SlideUrl
from muse_pipeline.slides.signature import slide_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TOP = Path(__file__).parents[2]
SECRET = "geheim"
RESULTS = (
    "nuclei.parquet",
    "nuclei.geojson.gz",
    "tissue.npz",
    "tissue.png",
    "colour.json",
    "summary.json",
    "density.png",
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A folder with two slides that have the same pixels; each file is named after its slide_id."""
    folder = tmp_path_factory.mktemp("drawn")
    draw_stained_slide(folder / "S 1.tif")
    shutil.copy(folder / "S 1.tif", folder / "T.tif")
    return folder


@pytest.fixture(scope="module")
def bucket(drawn):
    """An S3 server with the slides in "s3://slides"; environment variables tell Snakemake's jobs
    its address.
    """
    moto_server = pytest.importorskip(
        "moto.server", reason="moto, the S3 to test with, is not installed (extra `dev`)"
    )
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed (extra `dev`)")
    pytest.importorskip("s3fs", reason="the extra `remote` is not installed")
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": SECRET,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="slides")
        client.upload_file(str(drawn / "T.tif"), "slides", "cohort #7/T.tif")
        client.upload_file(str(drawn / "S 1.tif"), "slides", "other.tif")
        yield client
    server.stop()


@pytest.fixture(scope="module")
def host(drawn):
    """A web server that requires a signature and has one of the slides."""
    content = (drawn / "S 1.tif").read_bytes()
    files = {
        "/x/S%201.tif": Served(content, secret=f"sig={SECRET}"),
        "/no.tif": Served(content, secret="another"),
        "/broken.svs": Served(bytes(99)),
    }
    with serve(files) as host:
        yield host


def rows(host, signature=SECRET, key="cohort #7/T.tif"):
    return [
        {"slide_id": "S 1", "path": f"{host}/x/S%201.tif?sig={signature}"},
        {"slide_id": "T", "path": f"s3://slides/{key}"},
    ]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, bucket, host):
    """(folder, first run) of a cohort with two slides that cannot be fetched and a file that is not
    a slide.
    """
    folder = tmp_path_factory.mktemp("cohort")
    missing = [
        {"slide_id": "gone", "path": "s3://slides/nowhere.tif"},
        {"slide_id": "rejected", "path": f"{host}/no.tif?sig={SECRET}"},
        {"slide_id": "broken", "path": f"{host}/broken.svs"},
    ]
    write_sheet(folder / "slides.tsv", [*rows(host), *missing])
    write_config(folder)
    return folder, run_snakemake(folder)


def test_slides_that_do_not_come_cost_themselves_alone(first_run, host):
    folder, run = first_run
    assert run.returncode == 1
    slides = {row["slide_id"]: row for row in read_tsv(folder / "results/cohort.tsv")}
    assert [(slides[name]["status"], slides[name]["step"]) for name in ("S 1", "T")] == [
        ("ok", "")
    ] * 2, run.stdout
    assert [(slides[name]["status"], slides[name]["step"]) for name in ("gone", "rejected")] == [
        ("failed", "fetch")
    ] * 2
    assert (slides["broken"]["status"], slides["broken"]["step"]) == ("failed", "inspect")
    assert (
        "s3://slides/nowhere.tif: cannot be fetched: there is no such file"
        in slides["gone"]["reason"]
    )
    assert f"{host}/no.tif: cannot be fetched: access is denied" in slides["rejected"]["reason"]
    assert slides["S 1"]["path"] == f"{host}/x/S%201.tif"


def test_the_bytes_are_those_of_slides_on_this_machine(first_run, drawn, tmp_path, muse):
    folder, _ = first_run
    muse.ok("run", drawn / "S 1.tif", drawn / "T.tif", "-o", tmp_path)
    for slide in ("S 1", "T"):
        for name in RESULTS:
            local, fetched = tmp_path / slide / name, folder / "results" / slide / name
            assert local.read_bytes() == fetched.read_bytes(), (slide, name)


def test_copies_are_removed_and_no_secret_is_written(first_run):
    folder, run = first_run
    assert not list(folder.glob("results/*/fetched"))
    assert SECRET not in run.stdout
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "slides.tsv"]
    assert any(path.match(".snakemake/metadata/*") for path in files)
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_what_is_done_is_fetched_again_only_where_it_must_be(first_run, host):
    folder, _ = first_run
    write_sheet(folder / "slides.tsv", rows(host))
    assert planned_jobs(run_snakemake(folder).stdout) == {"report": 1, "all": 1}
    write_sheet(folder / "slides.tsv", rows(host, signature="signed-anew"))
    assert "Nothing to be done" in run_snakemake(folder).stdout
    whole = dict.fromkeys(("fetch", "image", "detect", "nuclei"), 1)
    write_sheet(folder / "slides.tsv", rows(host, key="other.tif"))
    assert planned_jobs(run_snakemake(folder, "--dry-run").stdout) == {
        **whole,
        "report": 1,
        "all": 1,
    }
    write_sheet(folder / "slides.tsv", rows(host))
    write_config(folder, extra_mpps=[1.0])
    again = planned_jobs(run_snakemake(folder, "--dry-run").stdout)
    assert (again["fetch"], again["image"], again["tile"]) == (
        2,
        2,
        2,
    )  # all images are made again from new copies


def test_pods_of_kubernetes_leave_a_cohort_in_the_bucket(bucket, drawn, tmp_path, muse):
    """The commands of the job's pods run here, each for one slide; one of the two slides does not
    exist.
    """
    write_sheet(
        tmp_path / "slides.tsv",
        [*rows("")[1:], {"slide_id": "gone", "path": "s3://slides/nowhere.tif"}],
    )
    job = yaml.safe_load((TOP / "contrib/kubernetes/cohort.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    values = {each["name"]: each["value"] for each in container["env"]}
    values |= {"SHEET": str(tmp_path / "slides.tsv"), "RESULTS": "s3://slides/results"}
    statuses = []
    for index in range(job["completions"]):
        pod = tmp_path / f"pod-{index}"
        pod.mkdir()
        environment = {**os.environ, **values, "JOB_COMPLETION_INDEX": str(index)}
        command = [*container["command"], *container["args"]]
        statuses.append(subprocess.run(command, check=False, cwd=pod, env=environment).returncode)
    assert statuses == [0, 2]

    results = tmp_path / "results"
    for key in bucket.list_objects_v2(Bucket="slides", Prefix="results/")["Contents"]:
        (path := tmp_path / key["Key"]).parent.mkdir(parents=True, exist_ok=True)
        bucket.download_file("slides", key["Key"], str(path))
    muse.ok(f"sheet --check {tmp_path / 'slides.tsv'} --resolved {results / 'sheet.json'}")
    muse.ok(f"report {results}")
    slides = {row["slide_id"]: row for row in read_tsv(results / "cohort.tsv")}
    assert {name: (row["status"], row["step"]) for name, row in slides.items()} == {
        "T": ("ok", ""),
        "gone": ("failed", "fetch"),
    }
    muse.ok(f"run {drawn / 'T.tif'} -o {tmp_path / 'local'}")
    for name in RESULTS:
        assert (tmp_path / "local/T" / name).read_bytes() == (results / "T" / name).read_bytes(), (
            name
        )


def test_a_key_with_special_characters(bucket, drawn, tmp_path):
    remote.fetch_slide(SlideUrl("s3://slides/cohort #7/T.tif"), tmp_path / "copy")
    assert slide_file(tmp_path / "copy").read_bytes() == (drawn / "T.tif").read_bytes()


@pytest.mark.parametrize(
    "url, environment, sentence",
    [
        ("s3://slides/nowhere.tif", {}, "there is no such file"),
        ("s3://no-such-bucket/a.tif", {}, "there is no such file"),
        ("s3://slides/folder", {}, "there is no such file"),
        (
            "s3://slides/other.tif",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            "EndpointConnectionError",
        ),
        (
            "s3://slides/other.tif",
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None},
            "no credentials",
        ),
    ],
)
def test_s3_that_does_not_give(bucket, tmp_path, muse, monkeypatch, url, environment, sentence):
    bucket.put_object(Bucket="slides", Key="folder/a.tif", Body=b"x")
    monkeypatch.setattr(remote, "PAUSE_S", 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    fetch_system_anew()
    status, _, errors = muse(f"step fetch {url} --output {tmp_path / 'copy'}")
    fetch_system_anew()
    assert (status, errors.count("\n"), errors.startswith(f"muse step fetch: {url}: ")) == (
        2,
        1,
        True,
    )
    assert sentence in errors
    assert SECRET not in errors
    assert not (tmp_path / "copy").exists()


def fetch_system_anew():
    """Drop the connections that fsspec keeps, so that the next call starts as in a new process."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
