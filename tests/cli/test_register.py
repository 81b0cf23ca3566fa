"""``muse register`` and ``muse step partner`` on a synthetic pair of slides."""

import json

import cv2
import numpy as np
import pytest
from drawn_pair import Warp, draw_partner, draw_section, errors_um, stain_he
from slide_files import write_pyramid

from muse_pipeline.core.files import read_json
from muse_pipeline.registration.record import read_registered
from muse_pipeline.store.store import open_store

WARP = Warp(degrees=-97, scale=0.97, shift_um=(80, 40))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A slide with a pyramid, and its partner as a plain picture without a pixel size."""
    folder = tmp_path_factory.mktemp("pair")
    section = draw_section((1500.0, 1300.0), 0.6)
    write_pyramid(folder / "he.tif", stain_he(section.amounts), (2, 4), mpp=0.6, compression="jpeg")
    partner = draw_partner(section, WARP, 0.8)
    cv2.imwrite(str(folder / "ihc.png"), partner[..., ::-1])
    cv2.imwrite(str(folder / "glass.png"), np.full_like(partner, 248))
    return folder, section


@pytest.mark.slow
def test_a_partner_is_registered_checked_and_tiled(muse, files, tmp_path):
    folder, section = files
    pair = [folder / "he.tif", folder / "ihc.png", "--partner-mpp", "0.8"]
    printed = muse.ok("register", *pair, "-o", tmp_path)
    assert "turned by -97" in printed and "tiles" in printed
    content = read_json(tmp_path / "transform.json")
    assert (content["frame"], content["units"], content["mirrored"]) == ("level0", "px", False)
    assert content["slide"]["slide_id"] == "he" and content["partner"]["mpp"] == [0.8, 0.8]
    errors = errors_um(read_registered(tmp_path / "transform.json").transform, section, WARP)
    assert np.median(errors) <= 2 and np.percentile(errors, 95) <= 5
    kept = content["residuals"]["kept"]
    assert 0 < kept == sum(row.count("1") for row in content["kept_tiles"])

    again = tmp_path / "again"  # starts from the transform that was found, without a search
    muse.ok(
        "register", *pair, "-o", again, "--start", tmp_path / "transform.json", "--threads", "2"
    )
    assert read_json(again / "transform.json")["residuals"]["kept"] >= kept - 1

    info = tmp_path / "slide.json"
    muse.ok(f"step inspect {folder / 'he.tif'} --output {info}")
    outputs = [
        "--mask",
        tmp_path / "t.npz",
        "--picture",
        tmp_path / "t.png",
        "--outline",
        tmp_path / "t.geojson",
    ]
    muse.ok(
        f"step tissue {folder / 'he.tif'} --info {info}",
        *outputs,
        "--colour",
        tmp_path / "c.json",
    )
    of_workflow = tmp_path / "S1/partner"
    made_from = [
        folder / "he.tif",
        "--partner",
        folder / "ihc.png",
        "--info",
        info,
        "--tissue",
        tmp_path / "t.npz",
        "--mpp",
        "0.6",
    ]
    partner = ["step", "partner", *made_from, "-o", of_workflow / "image-600nm.zarr"]
    assert "tiles" in muse.ok(*partner, "--start", tmp_path / "transform.json")
    record = read_json(of_workflow / "partner.json")
    assert record["status"] == "ok" and record["residuals"]["kept"] >= kept - 1
    assert open_store(of_workflow / "image-600nm.zarr").tissue[0].any()
    status, output, error = muse(
        *partner
    )  # without a transform, the partner must have a pixel size
    record = read_json(of_workflow / "partner.json")
    assert (status, record["status"]) == (0, "failed") and "--partner-mpp" in record["reason"], (
        error
    )
    assert output == f"cannot be used: {record['reason']}\n"
    assert sorted(path.name for path in of_workflow.iterdir()) == [
        "image-600nm.zarr",
        "partner.json",
    ]
    assert not any((of_workflow / "image-600nm.zarr").iterdir())


@pytest.mark.parametrize(
    "partner, options, why",
    [
        ("ihc.png", [], "--partner-mpp"),
        ("glass.png", ["--partner-mpp", "0.8"], "no tissue found"),
        ("none.png", [], "no such file"),
        ("ihc.png", ["--partner-mpp", "50"], "at 4 um/px; correct --mpp or --partner-mpp\n"),
        ("ihc.png", ["--partner-mpp", "0.8", "--start", "none.csv"], "cannot be read"),
    ],
)
def test_a_partner_that_cannot_be_used_is_one_sentence_and_nothing_is_written(
    muse, files, tmp_path, partner, options, why
):
    out = tmp_path / "out"
    assert why in muse.fails(
        f"register {files[0] / 'he.tif'} {files[0] / partner}", *options, "-o", out
    )
    assert not out.exists()


def test_a_foreign_transform_is_recorded(muse, files, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"matrix": [[1, 0, 0], [0, 1, 0]]}))
    (tmp_path / "slide.json").write_text("{}")
    muse(f"step inspect {files[0] / 'he.tif'} --output {tmp_path / 'slide.json'}")
    store = tmp_path / "partner/x.zarr"
    arguments = ["--info", tmp_path / "slide.json", "--tissue", tmp_path / "none.npz", "-o", store]
    pair = [files[0] / "he.tif", "--partner", files[0] / "ihc.png"]
    muse.ok("step partner", *pair, *arguments, "--start", tmp_path / "t.json")
    assert "is not a transform.json" in read_json(store.parent / "partner.json")["reason"]
