"""Slides at URLs are fetched completely or not at all, from real web servers that work or fail."""

import json
import resource
import sys
from importlib import import_module

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile
from web_server import Served, serve

from muse_pipeline.cli.run_slides import run_logged
from muse_pipeline.cohort.ledgers import first_problem, read_progress
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.errors import OutputError, SlideError
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.pipeline import Models, plan_slides
from muse_pipeline.settings import RunSettings
from muse_pipeline.slides import remote
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.remote import SlideUrl
from muse_pipeline.slides.signature import slide_file

pytest.importorskip("aiohttp", reason="the extra `remote` is not installed")
KEY = "sig=geheim"


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Retry without pauses."""
    monkeypatch.setattr(remote, "PAUSE_S", 0)


@pytest.fixture
def slide_bytes(pyramid_path):
    return pyramid_path.read_bytes()


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"ranges": False},
        {"secret": KEY},
        {"cut_after": 30_000, "n_cuts": 3},
        {"ranges": False, "cut_after": 30_000, "n_cuts": 3},
    ],
)
def test_a_slide_arrives_whole(muse, tmp_path, slide_bytes, pyramid_path, way):
    served = Served(slide_bytes, **way)
    assert len(slide_bytes) > 60_000
    with serve({"/x/a%20b.tif": served}) as host:
        url = f"{host.replace('//', '//ann:geheim@')}/x/a%20b.tif?{KEY}"
        status, printed, errors = muse(f"step fetch {url} --output {tmp_path / 'copy'}")
    shown = f"{host}/x/a%20b.tif"
    assert (status, printed, errors) == (0, f"{shown}: {len(slide_bytes):,} bytes\n", "")
    assert slide_file(tmp_path / "copy") == tmp_path / "copy/a b.tif"
    assert (tmp_path / "copy/a b.tif").read_bytes() == slide_bytes
    muse.ok(f"step inspect {tmp_path}/copy --slide-id S --source {shown} -o {tmp_path}/1.json")
    muse.ok(f"step inspect {pyramid_path} --slide-id S -o {tmp_path}/2.json")
    ours, local = (json.loads((tmp_path / name).read_text()) for name in ("1.json", "2.json"))
    assert ours == {**local, "path": shown}
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and b"geheim" in path.read_bytes()
    ]


BAD = {
    "gone": (Served(b"", status=404), "there is no such file"),
    "rejected": (Served(b"x", secret="another"), "access is denied; check credentials"),
    "broken": (Served(b"", status=503), "its server answers HTTP 503"),
    "cut": (Served(b"x" * 200_000, cut_after=30_000), "cannot be fetched"),
    "cut at once": (Served(b"x" * 40_000, cut_after=30_000), "cannot be fetched"),
    "growing": (Served(b"x" * 200_000, grows=b"x"), "changed while it was fetched"),
    "endless": (Served(b"x" * 200_000, states_size=False), "does not report the size"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_does_not_arrive_is_one_sentence_and_no_file(muse, tmp_path, kind):
    served, sentence = BAD[kind]
    with serve({"/a.tif": served}) as host:
        answer = muse(
            f"step fetch {host}/a.tif?{KEY} --output {tmp_path / 'copy'} --ledger "
            f"{tmp_path / 'ledger/fetch.json'}"
        )
    require_failure(answer, tmp_path, f"{host}/a.tif", sentence)


def require_failure(answer, folder, url, sentence):
    status, printed, errors = answer
    assert (status, printed, errors.count("\n")) == (2, "", 1)
    with pytest.raises(SlideError, match=sentence):
        raise SlideError(errors)
    assert errors.startswith(f"muse step fetch: {url}: ")
    assert "geheim" not in errors
    assert [path.name for path in folder.iterdir()] == ["ledger"]
    problem = first_problem(read_progress(folder))
    assert (problem.step, problem.status) == ("fetch", "failed")
    assert "geheim" not in problem.reason


@pytest.mark.parametrize(
    "url, sentence",
    [
        ("http://ann:geheim@127.0.0.1:1/a.tif", "Connection refused"),
        ("glacier://geheim@vault/a.tif", "unknown protocol"),
        ("https://host/", "has no file name"),
        # the message of aiohttp has the full URL
        ("http:///a.tif?sig=geheim", "cannot be fetched: InvalidUrl"),
    ],
)
def test_urls_that_lead_nowhere(muse, tmp_path, url, sentence):
    answer = muse(
        f"step fetch {url} --output {tmp_path / 'copy'} --ledger {tmp_path / 'ledger/fetch.json'}"
    )
    require_failure(answer, tmp_path, SlideUrl(url), sentence)


@pytest.mark.parametrize("module, url", [("fsspec", "https://h/a.tif"), ("s3fs", "s3://b/a.tif")])
def test_a_missing_package_is_named_with_its_extra(muse, tmp_path, monkeypatch, module, url):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(
        import_module("fsspec.registry"), "_registry", {}
    )  # as if not loaded by earlier tests
    answer = muse(
        f"step fetch {url} --output {tmp_path / 'copy'} --ledger {tmp_path / 'ledger/fetch.json'}"
    )
    require_failure(answer, tmp_path, url, r"is not installed.*the extra `remote`")


def test_a_slide_of_many_files_comes_with_all(tmp_path):
    system = fsspec.filesystem("memory")
    try:
        for name in ["a.mrxs", "a/Slidedat.ini", "a/Data0.dat", "b.mrxs", "s/1.dcm", "s/2.dcm"]:
            system.pipe(f"/cohort/{name}", b"1")
        assert remote.fetch_slide(SlideUrl("memory://cohort/a.mrxs"), tmp_path / "mirax") == 3
        assert remote.fetch_slide(SlideUrl("memory://cohort/s/2.dcm"), tmp_path / "dicom") == 2
    finally:
        system.rm("/cohort", recursive=True)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    mirax = {"mirax/a.mrxs", "mirax/a/Slidedat.ini", "mirax/a/Data0.dat", "mirax/source.json"}
    assert found == mirax | {"dicom/1.dcm", "dicom/2.dcm", "dicom/source.json"}


def test_a_key_cannot_lead_out_of_the_copy(tmp_path):
    system = fsspec.filesystem("memory")
    try:
        system.store["/c/a.mrxs"] = MemoryFile(system, "/c/a.mrxs", b"1")
        system.store["/c/a/../../../b"] = MemoryFile(system, "/c/a/../../../b", b"2")
        with pytest.raises(SlideError, match="outside the copy"):
            remote.fetch_slide(SlideUrl("memory://c/a.mrxs"), tmp_path / "1/2/copy")
    finally:
        system.store.clear()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_disk_that_takes_a_part_of_a_block_takes_no_slide(tmp_path, slide_bytes):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serve({"/a.tif": Served(slide_bytes)}) as host:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(slide_bytes) - 10_000, limits[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                remote.fetch_slide(SlideUrl(f"{host}/a.tif"), tmp_path / "copy")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_of_another_slide_is_rejected(muse, tmp_path, slide_bytes):
    with serve({"/a.tif": Served(slide_bytes)}) as host:
        remote.fetch_slide(SlideUrl(f"{host}/a.tif"), tmp_path / "copy")
    status, _, errors = muse(
        f"step inspect {tmp_path / 'copy'} --source s3://b/a.tif --output {tmp_path / 'o.json'}"
    )
    assert (status, "a.tif, not from s3://b/a.tif" in errors) == (2, True)
    (tmp_path / "copy/source.json").write_text('{"url": "s3://b/a.tif", "file": "../a.tif"}')
    with pytest.raises(SlideError, match="lacks the slide's URL"):
        open_slide(tmp_path / "copy")


def test_readers_state_how_a_url_is_opened(muse, tmp_path):
    for query in ("sig=geheim", f"sig={'geheim' * 100}"):  # the second is too long for a file name
        url = f"https://ann:geheim@host/a.tif?{query}"
        assert muse.fails(f"step inspect {url} --slide-id S -o {tmp_path}/o.json") == (
            "muse step inspect: https://host/a.tif: is a URL, not a path; copy it here first with"
            " `muse step fetch`\n"
        )


def test_without_snakemake_a_slide_is_fetched_and_its_copy_goes(tmp_path):
    steps = []
    with serve({"/a.tif": Served(b"no slide")}) as host:
        row = SheetRow("S", SlideUrl(f"{host}/a.tif?{KEY}"))
        models = Models(Predictor(find_model("compact")))
        settings = RunSettings({"output": str(tmp_path)})
        records = plan_slides([row], models, settings).records("S")
        assert "is not a slide" in run_logged(row, records, models, settings, steps.append)[0]
    assert steps == ["fetch", "inspect"]
    assert not (tmp_path / "S/fetched").exists()
    assert read_progress(tmp_path / "S")[0].status == "ok"


def test_preflight_asks_and_does_not_fetch(muse, tmp_path, slide_bytes):
    served = Served(slide_bytes, secret=KEY)
    with serve({"/a.tif": served}) as host:
        sheet = tmp_path / "slides.tsv"
        sheet.write_text(f"slide_id\tpath\nA\t{host}/a.tif?{KEY}\nB\t{host}/b.tif?{KEY}\n")
        status, printed, errors = muse(f"preflight {sheet} --json {tmp_path / 'found.json'}")
    assert (status, "1 of 2 slides cannot run (B)" in errors) == (2, True)
    assert f"cannot run  B: {host}/b.tif: cannot be fetched: there is no such file" in printed
    assert "at URLs  1 of them, all found" in printed
    assert json.loads((tmp_path / "found.json").read_text())["slides"][0]["fetch_bytes"] == len(
        slide_bytes
    )
    assert "geheim" not in printed + (tmp_path / "found.json").read_text()
    assert not [asked for asked in served.asked if asked.startswith("GET")]


def test_a_folder_of_a_user_s_own_is_spared(tmp_path, slide_bytes):
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides/b.svs").write_bytes(b"years of work")
    with (
        serve({"/a.tif": Served(slide_bytes)}) as host,
        pytest.raises(OutputError, match="command did"),
    ):
        remote.fetch_slide(SlideUrl(f"{host}/a.tif"), tmp_path / "slides")
    assert [path.name for path in (tmp_path / "slides").iterdir()] == ["b.svs"]
