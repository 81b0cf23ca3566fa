"""The slide.json of synthetic slides and of all real test slides."""

import json

import numpy as np
import pytest
from PIL import Image
from slide_files import write_pyramid

from muse_pipeline.core.errors import MppError
from muse_pipeline.slides.inspect import inspect_slide, read_info
from muse_pipeline.slides.signature import BLOCK_BYTES, fingerprint_file


def test_drawn_pyramid(pyramid_path, ome_path):
    info = inspect_slide(pyramid_path, "drawn")
    assert (info.reader, info.vendor, info.mpp, info.mpp_source) == (
        "openslide",
        "generic-tiff",
        (0.5, 0.5),
        "TIFF resolution tags",
    )
    assert info.size_px == (1001, 803)
    assert info.level_sizes_px == ((1001, 803), (500, 401), (250, 200))
    assert info.level_downsamples == ((1.0, 1.0), (2.0, 2.0), (4.0, 4.0))
    assert info.bounds is None
    assert info.warnings == ()
    ome = inspect_slide(ome_path, "drawn")
    assert (ome.reader, ome.mpp, ome.mpp_source) == (
        "tiffslide",
        (0.5, 0.5),
        "OME-XML PhysicalSizeX",
    )
    assert ome.level_downsamples == info.level_downsamples


def test_ome_xml_of_a_file_whose_levels_are_pages(tmp_path, gradient):
    xml = (
        '<OME><Image><Pixels SizeX="1001" SizeY="803" PhysicalSizeX="2e-5"'
        ' PhysicalSizeXUnit="in"/></Image></OME>'
    )
    write_pyramid(tmp_path / "a.tif", gradient, mpp=None, description=xml)
    info = inspect_slide(tmp_path / "a.tif", "a")
    assert (info.reader, info.mpp, info.mpp_source) == (
        "openslide",
        (0.508, 0.508),
        "OME-XML PhysicalSizeX",
    )


def test_aperio_with_objective_power_only(tmp_path, gradient):
    path = tmp_path / "scan.svs"
    write_pyramid(
        path, gradient, mpp=None, description="Aperio Image Library v1\n1001x803|AppMag = 20"
    )
    info = inspect_slide(path, "scan")
    assert (info.vendor, info.mpp, info.mpp_source) == ("aperio", (0.5, 0.5), "objective power 20x")
    assert "only an estimate" in info.warnings[0]


def test_a_missing_mpp_is_rejected_with_the_way_to_give_it(tmp_path, gradient):
    path = tmp_path / "picture.png"
    Image.fromarray(gradient).save(path, dpi=(72, 72))
    with pytest.raises(MppError, match="mpp column"):
        inspect_slide(path, "picture")
    assert inspect_slide(path, "picture", mpp=0.5).mpp == (0.5, 0.5)


def test_the_fingerprint_follows_the_content(tmp_path):
    content = bytearray(np.random.default_rng(0).bytes(4 * BLOCK_BYTES))
    path, copy = tmp_path / "a.svs", tmp_path / "b.svs"
    path.write_bytes(content)
    copy.write_bytes(content)
    first = fingerprint_file(path)
    assert first == fingerprint_file(copy)
    assert len(first) == 64
    for where in (0, 2 * BLOCK_BYTES, len(content) - 1):
        changed = content.copy()
        changed[where] ^= 1
        copy.write_bytes(changed)
        assert fingerprint_file(copy) != first
    copy.write_bytes(content + b"\0")
    assert fingerprint_file(copy) != first


def test_the_fingerprint_of_a_mirax_slide_covers_its_folder(tmp_path):
    path = tmp_path / "slide.mrxs"
    path.write_bytes(b"thumbnail")
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide/Data0001.dat").write_bytes(b"pixels")
    first = fingerprint_file(path)
    (tmp_path / "slide/.DS_Store").write_bytes(b"icons")
    assert fingerprint_file(path) == first
    (tmp_path / "slide/Data0001.dat").write_bytes(b"others")
    assert fingerprint_file(path) != first


def test_the_command(muse, tmp_path, pyramid_path):
    output, ledger = tmp_path / "out/slide.json", tmp_path / "ledger.json"
    words = f"step inspect {pyramid_path} --output {output} --ledger {ledger} --slide-id"
    muse.ok(words, "a slide")
    assert read_info(output) == inspect_slide(pyramid_path, "a slide")
    assert json.loads(ledger.read_text())["status"] == "ok"
    assert muse(f"step inspect {tmp_path / 'nowhere.svs'} --output {output}")[::2] == (
        2,
        f"muse step inspect: {tmp_path / 'nowhere.svs'}: no such file; check the path\n",
    )


def test_the_command_prints_what_it_finds(muse, tmp_path):
    write_pyramid(tmp_path / "black.tif", np.zeros((400, 500, 3), np.uint8), mpp=0.25)
    status, shown, _ = muse(f"step inspect {tmp_path / 'black.tif'}")
    assert (status, shown.splitlines()[0]) == (0, "black")
    assert [path.name for path in tmp_path.iterdir()] == ["black.tif"]
    facts = dict(line.split(maxsplit=1) for line in shown.splitlines()[1:])
    assert facts["size"] == "500 x 400 px, 0.125 x 0.1 mm"
    assert facts["mpp"] == "0.25 um per pixel (TIFF resolution tags)"
    assert facts["levels"].startswith("500 x 400, 250 x 200")
    assert facts["bounds"] == "none" and facts["fingerprint"] == fingerprint_file(
        tmp_path / "black.tif"
    )
    assert facts["warning"].startswith("100% of the slide is black")


DICOM, HAMAMATSU = ("openslide", "dicom"), ("openslide", "hamamatsu")
REAL = {
    "wsi-cmu-small-region/CMU-1-Small-Region.svs": ("openslide", "aperio", (2220, 2967), 0.499, 1),
    "wsi-openslide-crops/OS-1-detail.ome.tif": ("tiffslide", "ome-tiff", (1101, 1101), 0.2271, 1),
    "wsi-openslide-crops/OS-2-ndpi.ome.tif": ("tiffslide", "ome-tiff", (2202, 2202), 0.2271, 1),
    "wsi-dicom-camelyon/camelyon_jpeg_tiled_full.dcm": (*DICOM, (1152, 700), 28.969, 1),
    "wsi-ndpi-fluorescence/test3-DAPI-2-(387).ndpi": (*HAMAMATSU, (3968, 4864), 0.22818, 7),
}


@pytest.mark.parametrize("name", REAL)
def test_real_slides(shared_data, name):
    reader, vendor, size_px, mpp, n_levels = REAL[name]
    info = inspect_slide(shared_data / name, "real")
    assert (info.reader, info.vendor, info.size_px) == (reader, vendor, size_px)
    assert info.mpp == pytest.approx((mpp, mpp), abs=1.1e-3)
    assert len(info.level_sizes_px) == n_levels
    assert info.level_downsamples == tuple((float(2**k), float(2**k)) for k in range(n_levels))
    words = {"dicom": "implausible", "hamamatsu": "fluorescence"}.get(vendor)
    assert all(words in warning for warning in info.warnings) if words else not info.warnings
