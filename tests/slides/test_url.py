"""URLs of slides: which texts count as URLs, and how URLs are shown without secrets."""

import copy
import json
import pickle

import pytest

from muse_pipeline.cohort.collect import name_slides
from muse_pipeline.cohort.sheet import read_row, read_sheet
from muse_pipeline.core.errors import SheetError
from muse_pipeline.slides.remote import SlideUrl, is_url, url_problem

SIGNED = "https://ann:pass@host.org:8443/a%20b.svs?X-Amz-Signature=signed&versionId=3#top"


@pytest.mark.parametrize(
    "in_full, shown, file_name",
    [
        (SIGNED, "https://host.org:8443/a%20b.svs?versionId=3", "a b.svs"),
        ("http://token@host/x/y.tif?sig=q&se=2030&token=t", "http://host/x/y.tif", "y.tif"),
        ("s3://bucket/case 7/slide #1.svs", "s3://bucket/case 7/slide #1.svs", "slide #1.svs"),
        ("abfs://container@account.net/a.svs", "abfs://container@account.net/a.svs", "a.svs"),
        ("sftp://ann:pass@host/a.svs", "sftp://host/a.svs", "a.svs"),
        ("https://host/folder%2Fa.svs", "https://host/folder%2Fa.svs", "folder_a.svs"),
        (
            "https://ann:pa/ss@host/a.svs",
            "https://...",
            "",
        ),  # otherwise the password would be part of a path
        ("zip://a.svs::https://ann:pass@host/b.zip", "zip://a.svs::https://host/b.zip", "b.zip"),
    ],
)
def test_what_is_shown_of_a_url(in_full, shown, file_name):
    url = SlideUrl(in_full)
    for same in (url, pickle.loads(pickle.dumps(url)), copy.deepcopy(url)):
        assert (str(same), f"{same}", json.dumps(same), same.in_full) == (
            shown,
            shown,
            f'"{shown}"',
            in_full,
        )
    assert url.file_name == file_name


@pytest.mark.parametrize(
    "text, problem",
    [
        ("https://host/", "has no file name"),
        ("file:///data/a.svs", "give its path"),
        ("https://ann:pa/ss@host/a.svs", "%2F for /"),
        ("zip://a.svs::https://host/b.zip", "chain of URLs"),
        ("https://host/a.mrxs", "MIRAX"),
        ("http://host/a.dcm", "DICOM"),
        ("s3://bucket/a.mrxs", None),
        ("gs://bucket/a.svs", None),
        (SIGNED, None),
    ],
)
def test_which_urls_are_slides(text, problem):
    found = url_problem(text)
    assert found is None if problem is None else problem in found


def test_paths_are_no_urls():
    assert [
        is_url(text) for text in ("/a/b.svs", "a.svs", "C:\\a.svs", "https:/a", "s3://a/b")
    ] == [False] * 4 + [True]


@pytest.fixture
def sheet(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"x")
    path = tmp_path / "slides.tsv"
    path.write_text(
        f"slide_id\tpath\nA\ta.svs\nB\t{SIGNED}\nC\tnowhere.svs\nD\thttps://ann:pass@host/\n"
    )
    return path


def test_a_sheet_with_urls(sheet, muse):
    with pytest.raises(SheetError) as raised:
        read_sheet(sheet)
    assert "row 4: path 'nowhere.svs': no such file" in str(raised.value)
    assert "row 5: path 'https://host/': has no file name" in str(raised.value)
    sheet.write_text("\n".join(sheet.read_text().splitlines()[:3]))
    resolved = sheet.with_name("sheet.json")
    assert muse(f"sheet --check {sheet} --resolved {resolved}")[0] == 0
    assert [row["path"] for row in json.loads(resolved.read_text())] == [
        str(sheet.with_name("a.svs")),
        "https://host.org:8443/a%20b.svs?versionId=3",
    ]
    assert "pass" not in resolved.read_text()


def test_one_row_is_read_whatever_the_others_state(sheet):
    assert read_row(sheet, "B").path.in_full == SIGNED
    with pytest.raises(SheetError, match="row 4"):
        read_row(sheet, "C")
    with pytest.raises(SheetError, match="has no slide 'E'"):
        read_row(sheet, "E")


@pytest.mark.parametrize(
    "text", [f"A\t{SIGNED}\n", f"slide_id\tpath\tmpp\n{SIGNED}\tno.svs\t{SIGNED}\n"]
)
def test_a_url_in_a_wrong_position_reveals_nothing_either(tmp_path, text):
    sheet = tmp_path / "slides.tsv"
    sheet.write_text(text)
    with pytest.raises(
        SheetError, match=r"column 'path' is missing|https://host\.org:8443/a%20b\.svs"
    ) as raised:
        read_sheet(sheet)
    assert not [secret for secret in ("ann", "pass", "signed") if secret in str(raised.value)]


def test_slides_by_url_get_names(tmp_path):
    def names(*files):
        return [row.slide_id for row in name_slides(files)]

    assert names(tmp_path / "a.svs", SlideUrl("https://ann:pass@host/b.svs?sig=1")) == ["a", "b"]
    assert names(SlideUrl("s3://x/1/a.svs"), SlideUrl("s3://x/2/a.svs")) == ["x_1_a", "x_2_a"]
    with pytest.raises(SheetError, match="https://host/"):
        names(SlideUrl("https://ann:pass@host/"))
