"""The sheet: valid and invalid rows, and all problems reported at once."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from muse_pipeline.cohort.collect import (
    add_to_sheet,
    collect_slides,
    find_rows,
    name_slides,
    write_sheet,
)
from muse_pipeline.cohort.sheet import SheetRow, id_problem, read_cells, read_sheet
from muse_pipeline.core.errors import LeftOutWarning, SheetError
from muse_pipeline.core.files import read_json


@pytest.fixture
def folder(tmp_path):
    for name in ("a.svs", "b.svs", "roi.geojson"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def problems(path) -> list[str]:
    with pytest.raises(SheetError) as raised:
        read_sheet(path)
    assert str(raised.value).startswith(f"{path}: ")
    return str(raised.value)[len(f"{path}: ") :].split("\n  ")


def test_full_rows(folder):
    header = "slide_id\tpath\tmpp\tpatient\troi\tsplit\tshards"
    path = write(
        folder / "slides.tsv",
        f"{header}\nA 1\ta.svs\t0.25\tP 7\troi.geojson\ttrain\t3\n\nB\tb.svs\n",
    )
    assert read_sheet(path) == [
        SheetRow(
            "A 1", str(folder / "a.svs"), 0.25, "P 7", str(folder / "roi.geojson"), "train", 3
        ),
        SheetRow("B", str(folder / "b.svs")),
    ]


def test_an_organ_stands_in_the_resolved_sheet_where_it_is_filled(folder):
    path = write(
        folder / "slides.tsv", "slide_id\tpath\torgan\nA\ta.svs\tBreast, left\nB\tb.svs\t\n"
    )
    first, second = read_sheet(path)
    assert first.to_dict()["organ"] == "Breast, left" and "organ" not in second.to_dict()


def test_a_stain_is_read_in_any_of_its_forms(folder):
    words = {
        "HE": "H&E",
        "h & e": "H&E",
        "Ki-67": "IHC",
        "ihc": "IHC",
        "Unknown": "unknown",
        "": None,
        "?": None,
    }
    for word, stain in words.items():
        with warnings.catch_warnings(action="ignore"):
            (row,) = read_sheet(
                write(folder / "slides.tsv", f"slide_id\tpath\tstain\nA\ta.svs\t{word}\n")
            )
        assert row.stain == stain and ("stain" in row.to_dict()) == (stain is not None)
    given = row.complete("kidney", "IHC")
    assert (given.organ, given.stain) == ("kidney", "IHC")
    assert given.complete("breast", "H&E") == given  # a row that states them keeps them


def test_a_partner_and_where_its_registration_starts(folder):
    header = "slide_id\tpath\tpartner\tpartner_transform"
    path = write(folder / "slides.tsv", f"{header}\nA\ta.svs\tb.svs\troi.geojson\nB\tb.svs\t\t\n")
    first, second = read_sheet(path)
    assert (first.partner, first.partner_transform) == (
        str(folder / "b.svs"),
        str(folder / "roi.geojson"),
    )
    assert second.partner is None and second.partner_transform is None


def test_paths_start_at_the_sheet(folder, monkeypatch):
    (folder / "sheets").mkdir()
    path = write(
        folder / "sheets/slides.tsv", f"slide_id\tpath\nA\t../a.svs\nB\t{folder / 'b.svs'}\n"
    )
    monkeypatch.chdir(folder / "sheets")
    for sheet in (path, path.relative_to(folder / "sheets")):
        rows = read_sheet(sheet)
        assert [row.path for row in rows] == [
            str(folder / "sheets/../a.svs"),
            str(folder / "b.svs"),
        ]


def test_columns_of_ones_own_are_kept(folder):
    path = write(folder / "slides.tsv", "slide_id\tpath\tgrade\tsite\t\nA\ta.svs\tII\t\n")
    (row,) = read_sheet(path)
    assert row == SheetRow("A", str(folder / "a.svs"), own={"grade": "II", "site": None})
    assert (row.to_dict()["grade"], row.cells()["site"]) == ("II", None)
    assert SheetRow.from_dict(json.loads(json.dumps(row.to_dict()))) == row


@pytest.mark.parametrize(
    "name", ["origin", "site", "stage", "row", "map", "batch", "region", "core", "case", "part"]
)
def test_columns_of_ones_own_are_not_taken_for_misspelt_ones(folder, name):
    path = write(folder / "slides.tsv", f"slide_id\tpath\t{name}\nA\ta.svs\tII\n")
    assert read_sheet(path) == [SheetRow("A", str(folder / "a.svs"), own={name: "II"})]


MPP = [
    "MPP",
    "Mpp",
    "um_per_px",
    "um/px",
    "\N{MICRO SIGN}m/px",
    "UM_per_pixel",
    "Microns_per_pixel",
    "mpp_um",
    "pixel_size",
    "Pixel Size",
    "pixelSize_um",
    "pixel_width",
    "micrometres_per_pixel",
    "PixelSize (\N{MICRO SIGN}m)",
]


@pytest.mark.parametrize("name", MPP)
@pytest.mark.parametrize("separator", ["\t", ";"])
def test_mpp_has_synonyms_in_any_case(folder, name, separator):
    mpp = "0,25" if separator == ";" else "0.25"
    path = write(
        folder / "slides.csv", f"slide_id;path;{name}\nA;a.svs;{mpp}\n".replace(";", separator)
    )
    assert read_sheet(path) == [SheetRow("A", str(folder / "a.svs"), 0.25)]
    add_to_sheet(path, [SheetRow("B", str(folder / "b.svs"), 0.5)])
    assert [row.mpp for row in read_sheet(path)] == [0.25, 0.5]


def test_columns_have_names_in_any_case(folder, muse):
    header = "Slide ID\tPATH\tPatient\tLabel\tOrgan\tROI\tgrade"
    path = write(folder / "slides.tsv", f"{header}\nA\ta.svs\tP1\tx\tcolon\troi.geojson\tII\n")
    (row,) = read_sheet(path)
    assert (row.slide_id, row.patient, row.label, row.organ, row.own) == (
        "A",
        "P1",
        "x",
        "colon",
        {"grade": "II"},
    )
    assert row.roi == str(folder / "roi.geojson")
    assert (
        read_cells(path, "Label")["A"]["Label"] == "x"
        and read_cells(path, "label")["A"]["label"] == "x"
    )


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a"])
def test_any_separator_is_read_under_any_name(folder, name, separator):
    mpp = "0,25" if separator == ";" else "0.25"
    lines = [["slide_id", "path", "mpp", "note"], ["A", "a.svs", mpp, '"x, y; z"']]
    text = "\r\n".join(map(separator.join, lines))
    path = write(
        folder / name, f"\ufeff{text}\r\n"
    )  # with a byte order mark and CRLF, as Excel writes it
    (row,) = read_sheet(path)
    assert (row.slide_id, row.mpp, row.own) == ("A", 0.25, {"note": "x, y; z"})
    add_to_sheet(path, [SheetRow("B", str(folder / "b.svs"))])
    assert path.read_text().endswith(separator.join(["B", "b.svs", "", ""]) + "\n")


@pytest.mark.parametrize(
    "name",
    [
        "TCGA-A7-A0DB-01Z",
        "test3-DAPI-2-(387)",
        "S 12 [b]",
        "Gewebe Ä_1",
        "組織1",
        "a,b=c+d@e",
        "x" * 120,
    ],
)
def test_names_that_are_safe(name):
    assert id_problem(name) is None


HIDDEN_OR_EMPTY = ["", ".", "..", ".a", "-a", " a", "a ", "a.", "\u202ea", "a\tb", "a\nb", "a\0b"]
LONG_OR_TAKEN = [
    "x" * 121,
    "é" * 61,
    "cohort.tsv",
    "roi.tsv",
    "cohort.h5ad",
    "statistics.tsv",
    "Logs",
    "QuPath",
]


@pytest.mark.parametrize(
    "name", [*HIDDEN_OR_EMPTY, *LONG_OR_TAKEN, "../a", *(f"a{c}b" for c in "/\\'\"{}$`;*?#~%:|")]
)
def test_names_that_are_not(name):
    assert id_problem(name).startswith("slide_id ")


def test_a_folder_of_slides(tmp_path):
    positions = [
        "one/S1.svs",
        "two/S1.svs",
        "x.ome.tif",
        "x.svs",
        "M.mrxs",
        "M/Data0001.dat",
        "pen mark?.ndpi",
        "é.scn",
    ]
    positions += [
        ".hidden/a.svs",
        "results/A/slide.json",
        "results/A/tissue.tif",
        "photo.jpg",
        "notes.txt",
        "-dash.bif",
    ]
    for location in positions:
        path = tmp_path / location
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    with pytest.warns(
        LeftOutWarning, match="1 file left out: photo.jpg; pictures are included only with --mpp"
    ):
        names = {row.slide_id: row.path for row in collect_slides(tmp_path)}
    expected = {
        "M": "M.mrxs",
        "dash": "-dash.bif",
        "one_S1": "one/S1.svs",
        "two_S1": "two/S1.svs",
        "pen mark_": "pen mark?.ndpi",
        "x.ome.tif": "x.ome.tif",
        "x.svs": "x.svs",
        "é": "é.scn",
    }
    assert names == {name: str(tmp_path / location) for name, location in expected.items()}
    assert "photo" in {row.slide_id for row in collect_slides(tmp_path, mpp=0.25)}


def test_files_that_are_left_out_are_named(tmp_path, muse):
    names = (
        "a.tif b.btf c.qptiff d.kfb e.isyntax f.vsi g.jp2 M.mrxs M/Data0.dat n.txt o.zarr/.zgroup "
        "o.zarr/0/1.2"
    )
    for name in names.split():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SheetError, match=r"o\.zarr: is an OME-Zarr folder"):
        collect_slides(tmp_path / "o.zarr")
    _, shown, printed = muse(f"sheet {tmp_path} -o {tmp_path / 's.tsv'}")
    assert shown == f"{tmp_path / 's.tsv'}: 4 slides\n"
    others = (
        "5 files left out: d.kfb, e.isyntax, f.vsi, g.jp2, o.zarr; pictures are included only"
        " with --mpp"
    )
    assert printed == f"muse sheet: {tmp_path}: {others}\n"
    with pytest.warns(LeftOutWarning, match="4 files left out: d.kfb, e.isyntax, f.vsi, o.zarr$"):
        assert "g" in {row.slide_id for row in collect_slides(tmp_path, mpp=0.5)}
    for path in tmp_path.glob("[a-cM].*"):
        path.unlink()
    assert "5 files left out: d.kfb," in muse(f"sheet {tmp_path} -o {tmp_path / 't.tsv'}")[2]


def test_slides_behind_links_are_found_once(tmp_path, pyramid_path):
    (tmp_path / "here/a").mkdir(parents=True)
    (tmp_path / "there").mkdir()
    (tmp_path / "here/a/1.tif").symlink_to(pyramid_path)
    (tmp_path / "there/2.tif").symlink_to(pyramid_path)
    (tmp_path / "here/batch").symlink_to(tmp_path / "there")
    (tmp_path / "here/again").symlink_to(tmp_path / "there")
    (tmp_path / "there/loop").symlink_to(tmp_path / "here")
    assert sorted(row.slide_id for row in collect_slides(tmp_path / "here")) == ["1", "2"]


def test_a_name_in_an_old_encoding_is_named(tmp_path, muse, pyramid_path):
    slide = tmp_path / os.fsdecode(b"M\xfcller.tif")
    slide.write_bytes(pyramid_path.read_bytes())
    for command in (
        ("sheet", tmp_path, "-o", tmp_path / "s.tsv"),
        ("run", slide, "-o", tmp_path / "out"),
    ):
        printed = muse.fails(*command)
        assert r"M\xfcller.tif: is not a name in UTF-8; rename the file or its folder" in printed
    assert not (tmp_path / "out").exists()


def test_slides_by_name_are_called_as_briefly_as_they_can_be(tmp_path):
    def names(*positions):
        return [
            row.slide_id for row in name_slides([tmp_path / location for location in positions])
        ]

    assert names("a/x.svs", "b/y.svs") == ["x", "y"]
    assert names("a/x.svs", "b/x.svs") == ["a_x", "b_x"]
    assert names("a/x.png", "a/x.jpg") == ["x.png", "x.jpg"]
    assert names("a/x.png", "a/x.png") == ["x.png", "x.png-2"]
    alike = names("a/b.svs", "a_b.svs", "b.svs", "A_B.SVS", "a?b.svs")
    assert len({name.casefold() for name in alike}) == 5
    assert all(id_problem(name) is None for name in alike)


def test_slides_folders_and_sheets_together_in_their_order(tmp_path):
    for name in ("one/c.svs", "one/deep/d.svs", "e.svs", "f.svs"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    sheet = write(tmp_path / "slides.csv", "slide_id,path,mpp\nF,f.svs,0.5\n")
    url = "https://host/b.svs"
    rows = find_rows([url, sheet, tmp_path / "one", tmp_path / "e.svs"])
    assert [row.slide_id for row in rows] == ["b", "F", "c", "d", "e"]
    assert [row.mpp for row in rows] == [None, 0.5, None, None, None]
    assert rows[0].path == url and rows[4].path == str(tmp_path / "e.svs")
    assert find_rows([tmp_path / "one"]) == collect_slides(
        tmp_path / "one"
    )  # slide_ids as in the folder's sheet
    rows = find_rows([tmp_path / "one", tmp_path / "e.svs"], mpp=0.25)
    assert {row.mpp for row in rows} == {0.25}


def test_a_slide_that_is_named_twice_is_one_and_slides_of_one_name_are_named_after_their_folders(
    tmp_path,
):
    for name in ("one/c.svs", "two/C.svs", "two/deep/c.svs", "two/d.svs"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert len(find_rows([tmp_path / "one", tmp_path / "one/c.svs"])) == 1
    rows = find_rows([tmp_path / "one", tmp_path / "two"])
    assert [row.slide_id for row in rows] == ["one_c", "two_C", "d", "deep_c"]
    rows = find_rows(
        [tmp_path / "one/c.svs", tmp_path / "two", "https://host/d.svs", tmp_path / "one"]
    )
    assert [row.slide_id for row in rows] == ["one_c", "two_C", "two_d", "deep_c", "host_d"]
    rows = find_rows([tmp_path / "two/C.svs", "https://host/a/c.svs", "https://host/b/c.svs"])
    assert [row.slide_id for row in rows] == ["C", "host_a_c", "host_b_c"]
    sheet = write(tmp_path / "slides.tsv", "slide_id\tpath\nC\tone/c.svs\n")
    with pytest.raises(SheetError, match=r"slide_id 'C' belongs to .*one/c.svs and .*two/C.svs"):
        find_rows([sheet, tmp_path / "two"])


def test_a_link_that_leads_nowhere_is_named_by_the_check(tmp_path):
    for name in ("a.svs", "b.dcm"):
        (tmp_path / name).symlink_to(tmp_path / "gone")
    write_sheet(tmp_path / "slides.tsv", collect_slides(tmp_path))
    with pytest.raises(SheetError, match=r"(?s)'a.svs': no such file.*'b.dcm': no such file"):
        read_sheet(tmp_path / "slides.tsv")


def test_a_dicom_series_is_one_slide(tmp_path):
    def dicom(name, uid, size):
        element = b"\x20\x00\x0e\x00UI" + len(uid).to_bytes(2, "little") + uid
        (tmp_path / name).write_bytes(b"\0" * 128 + b"DICM" + element + b"\0" * size)

    dicom("level-1.dcm", b"1.2.3", 10)
    dicom("level-0.dcm", b"1.2.3", 100)
    dicom("label.dcm", b"1.2.3", 5)
    dicom("other.dcm", b"1.2.4", 1)
    assert [row.slide_id for row in collect_slides(tmp_path)] == ["level-0", "other"]


def test_there_and_back(folder):
    for name in ("sheet.tsv", "sheet.csv"):
        rows = collect_slides(folder, mpp=0.5)
        write_sheet(folder / name, rows)
        assert read_sheet(folder / name) == rows
    text = "slide_id\tpath\tmpp\torgan\tstain\na\ta.svs\t0.5\t\t\nb\tb.svs\t0.5\t\t\n"
    assert (folder / "sheet.tsv").read_text() == text
    (folder / "elsewhere").mkdir()
    write_sheet(folder / "elsewhere/sheet.tsv", rows)
    assert read_sheet(folder / "elsewhere/sheet.tsv") == rows


def test_the_command(muse, tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    sheet, resolved = tmp_path / "slides.tsv", tmp_path / "sheet.json"
    muse.fails(f"sheet {tmp_path} --output {sheet}")
    assert muse(f"sheet {tmp_path} --mpp 0.25 --output {sheet}") == (
        0,
        f"{sheet}: 1 slide\n",
        "",
    )
    assert muse(f"sheet --check {sheet} --resolved {resolved}") == (
        0,
        f"{sheet}: 1 slide, nothing wrong\n",
        "",
    )
    none = dict.fromkeys(("patient", "roi", "split", "shards"))
    assert read_json(resolved) == [
        {"slide_id": "a", "path": str(tmp_path / "a.png"), "mpp": 0.25, **none}
    ]
    assert "give a FOLDER" in muse("sheet")[2]


def test_checking_loads_nothing_heavy(folder):
    sheet = write(folder / "slides.tsv", "slide_id\tpath\nA\ta.svs\n")
    code = (
        "import sys; from muse_pipeline.cli.main import main; "
        f"assert main(['sheet', '--check', {str(sheet)!r}]) == 0; "
        "sys.exit(not {'numpy', 'pandas', 'zarr', 'openslide'}.isdisjoint(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_sheet_with_rows_is_never_overwritten(tmp_path, muse, pyramid_path):
    sheet = tmp_path / "slides.tsv"
    muse.ok(f"sheet {pyramid_path.parent} --output {sheet}")
    before = sheet.read_bytes()
    complaint = muse.fails(f"sheet {pyramid_path.parent} --output {sheet}")
    assert "--add` adds the slides that it lacks" in complaint
    assert sheet.read_bytes() == before


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_slides_are_added_to_a_sheet_whose_rows_stay(folder, muse, end):
    lines = ["path,grade,slide_id", "a.svs, II ,b", "gone.svs,,gone"]
    sheet = folder / "slides.csv"
    sheet.write_bytes(("\ufeff" + end.join(lines)).encode())
    added = f"{sheet}: 1 slide added, 1 slide there already\n"
    assert muse(f"sheet {folder} -o {sheet} --add") == (0, added, "")
    assert sheet.read_bytes().decode() == "\ufeff" + "".join(
        line + end for line in [*lines, "b.svs,,b-2"]
    )
    before = sheet.read_bytes()
    assert "0 slides added, 2 slides there already" in muse(f"sheet {folder} -o {sheet} --add")[1]
    (folder / "c.svs").touch()
    status, _, printed = muse(f"sheet {folder} -o {sheet} --add --mpp 0.5")
    assert (status, sheet.read_bytes()) == (2, before) and "has no column 'mpp'" in printed
    assert (
        muse(f"sheet {folder} -o {folder / 'new.tsv'} --add")[1]
        == f"{folder / 'new.tsv'}: 3 slides\n"
    )


def test_words_for_a_missing_value_are_empty_cells_and_some_are_labels(folder):
    words = ("unknown", "-", "?", "Missing", "NONE", "na", "P-1")
    rows = "".join(f"s{n}\ta.svs\t{word}\t{word}\t-\t#N/A\n" for n, word in enumerate(words))
    path = write(folder / "slides.tsv", f"slide_id\tpath\tpatient\tlabel\ter\tmpp\n{rows}")
    with pytest.warns(
        LeftOutWarning, match=r"missing value: 'unknown' in column 'patient' \(rows: 1\)"
    ):
        found = read_sheet(path)
    assert [row.patient for row in found] == [*[None] * 6, "P-1"]
    assert [row.label for row in found] == ["unknown", None, None, *words[3:]]
    assert {(row.own["er"], row.mpp) for row in found} == {("-", None)}


def test_patients_that_differ_in_case_alone_are_warned_of(folder):
    rows = "".join(
        f"s{n}\ta.svs\t{word}\n" for n, word in enumerate(("p1", "P1", "p2", "p1", "", ""))
    )
    path = write(folder / "slides.tsv", f"slide_id\tpath\tpatient\n{rows}")
    with pytest.warns(
        LeftOutWarning, match=r"differ only in case count as different patients: 'p1' and 'P1'$"
    ):
        assert [row.patient for row in read_sheet(path)][:2] == ["p1", "P1"]
