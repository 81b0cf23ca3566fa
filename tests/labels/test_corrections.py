"""Labels in the viewer's GeoJSON, which are valid only for one result of one slide."""

import json

import numpy as np
import pytest
from drawn_labels import box, disc, draw_nuclei, geojson, grid_xy, read
from slide_files import write_pyramid
from uneven_slide import draw_nuclei as nuclei_at
from uneven_slide import write_nuclei

from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.files import write_json
from muse_pipeline.labels.slide_source import SlideSource
from muse_pipeline.nuclei.parquet import footer_checksum
from muse_pipeline.slides.inspect import inspect_slide

SIZE, MPP, RADIUS = (900, 700), 0.25, 12
XY = grid_xy(SIZE, step_px=80, first_px=40)
MARKED, EMPTY = (410, 330, 470, 390), (465, 65, 495, 95)


@pytest.fixture
def slide(tmp_path):
    """Write slides/S.tif and results/S with its nuclei, and return the slide's SlideInfo."""
    (tmp_path / "slides").mkdir()
    write_pyramid(tmp_path / "slides/S.tif", draw_nuclei(SIZE, XY, RADIUS), mpp=MPP)
    info = inspect_slide(tmp_path / "slides/S.tif", "S")
    write_json(tmp_path / "results/S/slide.json", info.to_dict())
    write_nuclei(tmp_path / "results/S", nuclei_at(XY, np.zeros(len(XY), int)))
    return info


def make(tmp_path, slide, results=None, **changes):
    """A source of labels as the viewer writes them: a region with one nucleus, and an empty
    region.
    """
    checksum = footer_checksum(tmp_path / "results/S/nuclei.parquet")
    metadata = {"muse slide": slide.fingerprint, "muse nuclei": checksum, **changes}
    inside = [xy for xy in XY if MARKED[0] < xy[0] < MARKED[2] and MARKED[1] < xy[1] < MARKED[3]]
    assert len(inside) == 1
    text = geojson(
        (box(*MARKED), "Region*"), (box(*EMPTY), "Region*"), (disc(*inside[0], RADIUS), "Dark")
    )
    collection = json.loads(text)
    for feature in collection["features"][:2]:
        feature["properties"]["metadata"] = metadata
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/S.geojson").write_text(json.dumps(collection))
    return SlideSource(tmp_path / "labels", "geojson", slides=tmp_path / "slides", results=results)


def test_a_position_marked_as_no_nucleus_is_trained_on(tmp_path, slide):
    images = read(make(tmp_path, slide, tmp_path / "results"), context_px=256)
    assert sorted(len(image.nuclei) for image in images) == [0, 1]


def test_corrections_of_another_slide_are_rejected(tmp_path, slide):
    with pytest.raises(LabelError, match="viewer of a slide other"):
        read(make(tmp_path, slide, **{"muse slide": "0" * 16}), context_px=256)


def test_corrections_of_an_older_result_are_rejected_where_results_are_named(tmp_path, slide):
    source = make(tmp_path, slide, tmp_path / "results")
    write_nuclei(tmp_path / "results/S", nuclei_at(XY[1:], np.zeros(len(XY) - 1, int)))
    with pytest.raises(LabelError, match="older result of slide 'S'"):
        read(source, context_px=256)
