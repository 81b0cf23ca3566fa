"""An error in a label file is one sentence that names the file and the line, feature or
instance.
"""

import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
from drawn_labels import draw_nuclei, geojson, grid_xy, make_source, point, read
from PIL import Image

from muse_pipeline.core.errors import GeoJSONError, LabelError, LeftOutWarning, MuseWarning
from muse_pipeline.labels.label_sources import require_words

GOOD = (point(20, 20), "Dark")


def test_a_point_less_than_a_pixel_outside_is_moved_inside_with_a_count(tmp_path):
    content = geojson(GOOD, (point(60, 90.9), "Dark"), (point(-0.4, 60), "Pale"))
    source = make_source(tmp_path, "P.geojson", content, "geojson")
    with pytest.warns(MuseWarning, match="geojson: 2 nuclei .* moved inside"):
        (image,) = read(source)
    assert (
        len(image.nuclei) == 3
        and (image.nuclei.xy >= 0).all()
        and (image.nuclei.xy < (120, 90)).all()
    )


def test_a_misspelt_patient_is_not_learnt_from(tmp_path):
    source = make_source(tmp_path, "P.txt", "20 20 Dark\n")
    with pytest.raises(LabelError, match=r"images: exclude: .*'PO'"):
        require_words([replace(source, exclude=("PO",))])
    expect("images: yields no image", replace(source, exclude=("P",)))
    other = make_source(tmp_path / "other", "P.txt", "20 20 Dark\n")
    both = [replace(each, exclude=("X-",)) for each in (source, other)]
    (tmp_path / "images/X-1.png").write_bytes((tmp_path / "images/P.png").read_bytes())
    require_words(both)


def test_a_file_without_nuclei_may_be_meant(tmp_path):
    (image,) = read(make_source(tmp_path, "P.txt", "", allow_empty=True))
    assert image.nuclei.rays.shape == (0, 8)


@pytest.mark.parametrize(
    "geometry, noun",
    [
        ({"type": "LineString", "coordinates": [[1, 1], [2, 2]]}, "line"),
        ({"type": "Polygon", "coordinates": [[]]}, "empty object"),
        (point(30, 30) | {"plane": {"c": -1, "z": 1, "t": 0}}, "object on a plane above 0"),
    ],
)
def test_what_is_neither_point_nor_outline_is_left_out(tmp_path, geometry, noun):
    source = make_source(
        tmp_path, "P.geojson", geojson(GOOD, (geometry, "No class of the model")), "geojson"
    )
    with pytest.warns(LeftOutWarning, match=f"P.geojson: left out 1 {noun}"):
        (image,) = read(source)
    assert len(image.nuclei) == 1


def two_squares() -> np.ndarray:
    """(90, 120) uint8: 1 in two squares, and 0 elsewhere."""
    mask = np.zeros((90, 120), np.uint8)
    mask[10:20, 10:20] = mask[10:20, 80:90] = 1
    return mask


def encoded(array, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    "content, message",
    [
        (encoded(np.ones((120, 90), np.uint8)), "P.png: is 90 x 120 px, .* 120 x 90"),
        (
            encoded(np.random.default_rng(0).integers(0, 9, (90, 120), np.uint8))[:2000],
            r"P.png: not readable as a mask",
        ),
        (encoded(np.zeros((90, 120), np.uint8)), r"P.png: contains no nucleus"),
    ],
)
def test_masks(tmp_path, content, message):
    expect(message, make_source(tmp_path, "P.png", content, "instances"))


@pytest.mark.parametrize("white", [1, 255])
def test_instances_without_numbers(tmp_path, white):
    message = f"P.png: .* the number {white}; .*`format: masks`"
    expect(message, make_source(tmp_path, "P.png", encoded(two_squares() * white), "instances"))


@pytest.mark.parametrize(
    "array, message",
    [
        (
            two_squares() * np.array([[1] * 60 + [2] * 60]),
            "P.npy: has 2 values .*`format: instances`",
        ),
        (np.zeros((0, 5), np.uint8), "P.npy: is 5 x 0 px"),
    ],
)
def test_masks_without_numbers(tmp_path, array, message):
    source = make_source(tmp_path, "P.npy", b"", "masks")
    np.save(tmp_path / "labels/P.npy", array)
    expect(message, source)


@pytest.mark.parametrize(
    "mpp, message", [(None, "its pixel size is unknown"), (0.3, "is 0.3 um/px, .* 0.25")]
)
def test_scale(tmp_path, mpp, message):
    import tifffile

    source = make_source(tmp_path, "P.txt", "20 20 Dark\n", mpp=mpp)
    if mpp:
        (tmp_path / "images/P.png").unlink()
        options = {
            "photometric": "rgb",
            "resolution": (40_000, 40_000),
            "resolutionunit": "CENTIMETER",
        }
        tifffile.imwrite(tmp_path / "images/P.tif", np.zeros((90, 120, 3), np.uint8), **options)
    expect(message, source)


def expect(message, source):
    with pytest.raises((LabelError, GeoJSONError), match=message) as caught:
        read(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["x y class", "row column class"])
def test_exchanged_coordinates(tmp_path, form):
    xy = np.random.default_rng(1).permutation(grid_xy((400, 400), step_px=36))[:20]
    source = make_source(
        tmp_path, "P.txt", "".join(f"{x:g} {y:g} Dark\n" for x, y in xy - 0.5), form
    )
    cv2.imwrite(str(tmp_path / "images/P.png"), draw_nuclei((400, 400), xy)[..., ::-1])
    if form == "x y class":
        assert len(read(source)[0].nuclei) == 20
    else:
        expect(r"P\.txt: few .* exchanged", source)
