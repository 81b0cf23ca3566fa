"""Nuclei found by other programs keep position, outline and score through windows and stitching."""

from __future__ import annotations

import gzip
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from muse_pipeline.core.errors import LabelError, LeftOutWarning
from muse_pipeline.core.types import Bounds, SlideInfo
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.proposals.base import SlideSample
from muse_pipeline.proposals.imported import ImportedNuclei, ImportSettings

INFO = SlideInfo(
    slide_id="S1",
    path="s.svs",
    reader="drawn",
    vendor="drawn",
    size_px=(6000, 5000),
    mpp=(0.25, 0.25),
    mpp_source="drawn",
    level_sizes_px=((6000, 5000),),
    level_downsamples=((1.0, 1.0),),
    fingerprint="0",
    bounds=Bounds(100, 50, 5000, 4000),
)
XY = np.array([[400.0, 300.0], [1500.5, 900.25], [3000.0, 3100.0]])


def read(path: Path, info: SlideInfo = INFO, **settings) -> Nuclei:
    """The nuclei of a file, found in nine windows that cover the slide, sorted by y."""
    finder = ImportedNuclei.fit(
        SlideSample(0.5, (), None, info), ImportSettings(str(path), **settings)
    )
    parts = []
    for origin in np.stack(np.meshgrid([0, 1024, 2048], [0, 1024, 2048]), -1).reshape(-1, 1, 2):
        (found,) = finder(np.zeros((1, 1, 1, 3), np.uint8), origin)
        parts.append(replace(found, xy=found.xy + origin))
    nuclei = Nuclei.concatenate(parts)
    return nuclei[np.argsort(nuclei.xy[:, 1])]


def test_csv_in_pixels_and_um_with_scores(tmp_path):
    path = tmp_path / "S1.csv"
    path.write_text(
        "id,cx,cy,score\n" + "".join(f"{i},{x},{y},0.{9 - i}\n" for i, (x, y) in enumerate(XY))
    )
    pixels = read(tmp_path / "{slide}.csv", x="cx", y="cy")
    assert pixels.xy == pytest.approx(XY / 2)
    assert pixels.score == pytest.approx([0.9, 0.8, 0.7])
    assert pixels.rays == pytest.approx(4.0)
    path.write_text("x,y\n" + "".join(f"{x / 4},{y / 4}\n" for x, y in XY))
    um = read(path, unit="um", radius_um=3.0)
    assert um.xy == pytest.approx(XY / 2)
    assert um.rays == pytest.approx(3.0) and (um.score == 1).all()


def test_geojson_keeps_outlines_and_honours_bounds(tmp_path):
    square = [[300, 250], [340, 250], [340, 290], [300, 290], [300, 250]]
    shapes = [
        {"type": "Polygon", "coordinates": [square]},
        {"type": "Point", "coordinates": [900, 700]},
    ]
    path = tmp_path / "cells.geojson"
    path.write_text(
        json.dumps([{"type": "Feature", "geometry": shape, "properties": {}} for shape in shapes])
    )
    nuclei = read(path)
    assert nuclei.xy == pytest.approx(np.array([[420, 320], [1000, 750]]) / 2)
    assert nuclei.rays[0, ::8] == pytest.approx(5.0)  # 20 px of 0.25 um in each direction
    assert nuclei.rays[1] == pytest.approx(4.0)
    assert read(path, frame="openslide").xy[0] == pytest.approx([160, 135])
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as archive:
        archive.write(path, "cells.geojson")
    assert np.array_equal(read(tmp_path / "cells.zip").xy, nuclei.xy)


@pytest.mark.parametrize("name", ["S1.npy", "S1.tif", "S1.png"])
def test_label_images_of_the_slide_keep_outlines(tmp_path, name):
    """The images have a quarter of the resolution of level 0, as StarDist and Cellpose often do."""
    labels = np.zeros((1250, 1500), np.uint16)
    labels[200:210, 100:110], labels[600:612, 700:708] = 1, 2
    write = {
        ".npy": np.save,
        ".tif": tifffile.imwrite,
        ".png": lambda path, image: cv2.imwrite(str(path), image),
    }
    write[Path(name).suffix](tmp_path / name, labels)
    nuclei = read(tmp_path / name.replace("S1", "{slide}"))
    assert nuclei.xy == pytest.approx(np.array([[210, 410], [1408, 1212]]))  # in px of 0.5 um
    assert nuclei.rays[0, ::8] == pytest.approx(5.0, abs=0.1) and nuclei.rays[
        1, ::16
    ] == pytest.approx(4.0, abs=0.1)


def test_tiles_of_other_programs_are_nuclei_and_cores_are_not(tmp_path):
    square = {
        "type": "Polygon",
        "coordinates": [[[300, 250], [340, 250], [340, 290], [300, 290], [300, 250]]],
    }
    features = [
        {"type": "Feature", "geometry": square, "properties": {"objectType": kind}}
        for kind in ("tile", "tmaCore")
    ]
    (tmp_path / "cells.geojson").write_text(json.dumps(features))
    with pytest.warns(LeftOutWarning, match="left out 1"):
        assert len(read(tmp_path / "cells.geojson")) == 1


def test_a_file_that_is_cut_off_is_rejected(tmp_path):
    (tmp_path / "half.csv.gz").write_bytes(gzip.compress(b"x,y\n1,2\n")[:-10])
    with pytest.raises(LabelError, match=r"half\.csv\.gz: not readable"):
        read(tmp_path / "half.csv.gz")


def test_tissue_in_an_export_of_all_objects_is_no_nucleus(tmp_path):
    def feature(side, name):
        ring = [
            [300, 250],
            [300 + side, 250],
            [300 + side, 250 + side],
            [300, 250 + side],
            [300, 250],
        ]
        properties = {"objectType": "annotation", "classification": {"name": name}}
        return {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": properties,
        }

    path = tmp_path / "all.geojson"
    path.write_text(
        json.dumps([feature(3000, "Tissue"), feature(3000, "Region*"), feature(40, "Tumor")])
    )
    assert read(path).xy.tolist() == [[210, 160]]
    path.write_text(json.dumps([feature(3000, "Tumor")]))
    with pytest.raises(LabelError, match="covers more"):
        read(path)
