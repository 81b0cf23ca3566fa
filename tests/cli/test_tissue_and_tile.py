"""``muse step tissue`` and ``muse step tile`` on a JPEG pyramid that OpenSlide reads."""

import hashlib
import json

import cv2
import numpy as np
import pytest
import zarr
from drawn import discs, draw
from PIL import Image
from slide_files import spoil_tile, write_pyramid

from muse_pipeline.core.files import read_json
from muse_pipeline.store.store import open_store
from muse_pipeline.tissue.mask import TissueMask

CENTRES_UM = np.array([[150.0, 130.0], [380.3, 210.2], [255.7, 300.4]])
RING = [[400, 400], [800, 400], [800, 700], [400, 700], [400, 400]]
SQUARE = {"type": "Polygon", "coordinates": [RING]}


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory):
    """A slide with three purple discs of 30 um on pink, at 0.25 um/px, with Aperio's downsamples 1,
    4 and 16.
    """
    path = tmp_path_factory.mktemp("slides") / "discs.tif"

    def colour_at(x, y):
        tissue = (x > 60) & (x < 480) & (y > 50) & (y < 380)
        ground = np.where(tissue[..., None], (225, 160, 195), (243, 243, 243))
        on = discs(CENTRES_UM, 30.0, colour=(1, 0, 0), background=(0, 0, 0))(x, y)[..., :1]
        return np.where(on > 0, (110, 60, 140), ground)

    image = draw(colour_at, (2300, 1900), (0.25, 0.25), oversampling=1).levels[0]
    write_pyramid(path, image, factors=(4, 16), mpp=0.25, compression="jpeg")
    return path


def run_steps(muse, slide, out, *tile_arguments, roi=None):
    """Run `inspect`, `tissue` and `tile`, and return the exit status, output and errors of
    `tile`.
    """
    info = out / "slide.json"
    muse.ok(f"step inspect {slide} --slide-id discs --output {info}")
    limits = ["--roi", roi] if roi else []
    outputs = f"--mask {out / 'tissue.npz'} --picture {out / 'tissue.png'}".split()
    outputs += f"--outline {out / 'tissue.geojson'} --colour {out / 'colour.json'}".split()
    muse.ok(
        f"step tissue {slide} --info {info}",
        *limits,
        *outputs,
        "--ledger",
        out / "tissue-ledger.json",
    )
    store = out / "image-500nm.zarr"
    return muse(
        f"step tile {slide} --info {info} --tissue {out / 'tissue.npz'} --output {store}",
        *tile_arguments,
    )


def test_discs_are_where_they_were_drawn(muse, slide_path, tmp_path):
    assert run_steps(muse, slide_path, tmp_path, "--threads", "2")[0] == 0
    store = open_store(tmp_path / "image-500nm.zarr")
    pixels = store.read((0, 0), store.size_px)
    dark = (pixels[..., 1] < 110).astype(np.uint8)
    _, _, _, centres = cv2.connectedComponentsWithStats(dark)
    found_um = (centres[1:] + 0.5) * store.mpp
    np.testing.assert_allclose(
        found_um[np.argsort(found_um[:, 0])], CENTRES_UM[np.argsort(CENTRES_UM[:, 0])], atol=0.05
    )
    tissue, tissue_px = store.tissue
    assert tissue.sum() * (tissue_px * 0.5) ** 2 == pytest.approx((420 + 32) * (330 + 32), rel=0.05)
    assert TissueMask.load(tmp_path / "tissue.npz").area_mm2 == pytest.approx(
        0.420 * 0.330, rel=0.05
    )
    assert read_json(tmp_path / "tissue-ledger.json")["status"] == "ok"
    assert max(Image.open(tmp_path / "tissue.png").size) <= 1500
    assert len(read_json(tmp_path / "tissue.geojson")["features"]) == 1


def test_what_of_a_roi_is_left_out_is_printed_once_and_recorded(
    muse, slide_path, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    point = {"type": "Point", "coordinates": [1, 1]}
    (tmp_path / "roi.geojson").write_text(json.dumps([SQUARE, point]))
    status, _, printed = muse(f"run {slide_path} --roi roi.geojson --output out")
    assert (
        status == 0
        and printed.count("left out") == 1
        and printed.endswith("roi.geojson: left out 1 point\n")
    )
    assert "left out 1 point" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_a_roi_limits_what_is_stored(muse, slide_path, tmp_path):
    (tmp_path / "roi.geojson").write_text(json.dumps(SQUARE))
    assert run_steps(muse, slide_path, tmp_path, roi=tmp_path / "roi.geojson")[0] == 0
    tissue = TissueMask.load(tmp_path / "tissue.npz")
    assert tissue.area_mm2 == pytest.approx(0.1 * 0.075, rel=0.01)
    checksum = hashlib.sha256((tmp_path / "roi.geojson").read_bytes()).hexdigest()
    assert tissue.roi_file == {"name": "roi.geojson", "sha256": checksum, "area_mm2": 0.0075}
    assert (
        zarr.open_array(str(tmp_path / "image-500nm.zarr/0"), mode="r")[:, 600:, 600:] == 255
    ).all()


def test_a_spoiled_jpeg_tile_is_a_hole_or_a_sentence(muse, slide_path, tmp_path):
    spoiled = tmp_path / "spoiled.tif"
    spoiled.write_bytes(slide_path.read_bytes())
    spoil_tile(
        spoiled, 0, 2 * 9 + 2
    )  # at (512, 512) in level 0: work px (256, 256), in chunk (0, 0)
    assert run_steps(muse, spoiled, tmp_path, "--max-corrupt", "0.5")[0] == 0
    attributes = open_store(tmp_path / "image-500nm.zarr").attributes
    assert (
        attributes["corrupt"] == [[0, 0, 512, 512]] and 0.1 < attributes["corrupt_fraction"] < 0.5
    )
    (tmp_path / "strict").mkdir()
    status, _, printed = run_steps(muse, spoiled, tmp_path / "strict")
    assert status == 2 and "of the tissue cannot be decoded" in printed
    assert not list((tmp_path / "strict").glob("*.zarr")) and not list(
        (tmp_path / "strict").glob(".*partial")
    )


@pytest.mark.parametrize("verb", ["tissue", "tile"])
def test_a_slide_that_took_the_position_of_another_is_rejected(muse, tmp_path, verb):
    slide, out = tmp_path / "s.tif", tmp_path / "out"
    write_pyramid(slide, np.full((600, 600, 3), 243, np.uint8))
    run_steps(muse, slide, out)
    write_pyramid(slide, np.full((600, 600, 3), 241, np.uint8))
    made = [
        word
        for kind in ("mask", "picture", "outline", "colour")
        for word in (f"--{kind}", out / f"new-{kind}")
    ]
    arguments = {
        "tissue": made,
        "tile": f"--tissue {out / 'tissue.npz'} --mpp 0.5 -o {out / 'new.zarr'}".split(),
    }
    printed = muse.fails(f"step {verb} {slide} --info {out / 'slide.json'}", *arguments[verb])
    assert (
        f"{slide}: is not the file that `muse step inspect` read (discs); run it again" in printed
    )
    assert not list(out.glob("new*"))
