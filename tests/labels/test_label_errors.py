"""An error in a label file is one sentence that names the file and the line, feature or
instance.
"""

import io
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from drawn_labels import box, disc, draw_nuclei, geojson, grid_xy, make_source, point, read
from PIL import Image

from muse_pipeline.core.errors import GeoJSONError, LabelError, LeftOutWarning, MuseWarning
from muse_pipeline.labels.label_sources import require_words

GOOD = (point(20, 20), "Dark")


@pytest.mark.parametrize(
    "text, message",
    [
        ("20 20 Dark\n600 20 Dark\n", r"P.txt, line 2: \(600.5, 20.5\) lies outside"),
        ("-3 20 Dark\n-4 9 Dark", r"line 1: .* lies outside .* \(so do 1 more\)"),
        ("20 20 Dark\n20 20 Darc\n", "P.txt, line 2: class 'Darc' .* did you mean 'Dark'"),
        ("nucleus file\n20 20 Dark\n", "P.txt, line 1: .* nucleus, file, expected x, y, class"),
        ("x y y class\n1 1 1 Dark\n", "line 1: .* x, y, y, class, expected"),
        ("row column class\n20 20 Dark\n", "line 1: .* expected x, y, class"),
        ("20 20 Dark\nnan 20 Dark\n", "line 2: x is 'nan'"),
        ("20 20\n", "line 1: has 2 values"),
        ("20 20 Dark 0.7\n", "line 1: has 4 values"),
        (
            "x [µm];y [µm];class\n20;20;Dark\n",
            r"line 1: positions are in um \(x \[µm\], y \[µm\]\)",
        ),
        (
            "20 20 Dark\n60 20 Dark\n" * 2,
            "P.txt: 2 of its 4 nuclei are duplicates, .* x 20.5, y 20.5",
        ),
        ("", "P.txt: contains no nucleus in P.png; .*allow_empty"),
        (b"20 20 Dark\n20 40 \x00\xe4rk\n", "P.txt, line 2: not readable as text"),
    ],
)
def test_text(tmp_path, text, message):
    expect(message, make_source(tmp_path, "P.txt", text))


def test_all_unknown_classes_of_a_file_are_listed(tmp_path):
    message = (
        r"(P.txt, line 2|feature 2): class 'A' is not in class_map \(dark\).*; also unknown: 'B',"
        r" 'C'$"
    )
    words = ["DARK", "A", "B", "A", "C"]
    text = "".join(f"{20 * (n + 1)} 20 {word}\n" for n, word in enumerate(words))
    expect(message, make_source(tmp_path / "text", "P.txt", text, class_map={"dark": "dark"}))
    content = geojson(*((point(20 * (n + 1), 20), word) for n, word in enumerate(words)))
    expect(
        message,
        make_source(tmp_path / "json", "P.geojson", content, "geojson", class_map={"dark": "dark"}),
    )


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
    "content, message",
    [
        ('{"type": "FeatureCollection", "features": [', "P.geojson: .*(export it again)"),
        ("20 20 Dark", "P.geojson: not JSON"),
        (
            geojson(GOOD, (point(20, 95), "Dark")),
            r"P.geojson, feature 2: \(20, 95\) lies outside the picture",
        ),
        (
            geojson(GOOD, (point(20, 25), "Tumour")),
            "P.geojson, feature 2: class 'Tumour'",
        ),
        (geojson((point(float("nan"), 20), "Dark")), "P.geojson: feature 1: .*cannot be built"),
        (geojson(GOOD, (box(5, 5, 5, 20), "Dark")), "feature 2: is a polygon without an area"),
        (
            geojson(({"type": "Polygon", "coordinates": []}, "Dark")),
            "left out: 1 empty object",
        ),
        (geojson(GOOD, (disc(50, 50, 85), None)), "feature 2: covers more .*'Region'"),
        (geojson((box(30, 30, 50, 50), "Region"), GOOD), "feature 2: .* outside every 'Region'"),
        (geojson((box(130, 30, 150, 50), "Region")), "P.geojson: .*no pixel"),
        (geojson((point(30, 30), "Region"), GOOD), "feature 1: .* closed area"),
        (
            geojson(
                (
                    {
                        "type": "Polygon",
                        "coordinates": [[[0, 0], [50, 50], [50, 0], [0, 50], [0, 0]]],
                    },
                    "Region",
                ),
                GOOD,
            ),
            "feature 1: the lines .* cross",
        ),
        (geojson((box(30, 30, 50, 50), "Region")), "contains no nucleus"),
    ],
)
def test_geojson(tmp_path, content, message):
    expect(message, make_source(tmp_path, "P.geojson", content, "geojson"))


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


@pytest.mark.parametrize(
    "drawn", [(), ((box(10, 10, 30, 30), None),), ((box(10, 10, 30, 30), "Dark"),)]
)
def test_a_file_of_regions_that_holds_none(tmp_path, drawn):
    (tmp_path / "regions").mkdir()
    (tmp_path / "regions/P.geojson").write_text(geojson(*drawn))
    source = make_source(tmp_path, "P.txt", "20 20 Dark\n", regions=tmp_path / "regions")
    expect(r"regions.P\.geojson: has no annotation 'Region\*'", source)


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
        (encoded(np.ones((90, 120, 3), np.uint8)), "P.png: expected one channel"),
        (encoded(np.ones((120, 90), np.uint8)), "P.png: is 90 x 120 px, .* 120 x 90"),
        (
            encoded(np.random.default_rng(0).integers(0, 9, (90, 120), np.uint8))[:2000],
            r"P.png: not readable as a mask",
        ),
        (b"nothing", r"P.png: not readable as a mask"),
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
    "array, message",
    [
        (np.full((90, 120), -1), "has the number -1"),
        (np.full((90, 120), 0.5), "found float64"),
        (np.array([None]), "contains Python objects, like the `_seg.npy`"),
    ],
)
def test_masks_as_arrays(tmp_path, array, message):
    source = make_source(tmp_path, "P.npy", b"", "instances")
    np.save(tmp_path / "labels/P.npy", array)
    expect(message, source)


def test_points_of_another_picture(tmp_path):
    mask = np.zeros((90, 120), np.uint8)
    mask[10:20, 80:95] = 1
    source = make_source(tmp_path, "P.png", encoded(mask), "instances", points=tmp_path / "points")
    (tmp_path / "points").mkdir()
    (tmp_path / "points/P.csv").write_text("x,y,class\n15,87,Dark\n")
    expect("P.csv: no point lies .* P.png", source)


def test_pictures(tmp_path):
    source = make_source(tmp_path, "P.txt", "20 20 Dark\n")
    path = tmp_path / "images/P.png"
    path.write_bytes(path.read_bytes()[:5000])
    expect(r"P.png: cannot be decoded|P.png: .*damaged", source)
    path.write_bytes(b"")
    expect(r"P.png", source)


def test_files_that_are_missing_or_one_too_many(tmp_path):
    source = make_source(tmp_path, "Q.txt", "20 20 Dark\n")
    expect(r"labels: no label file for 'P' \(.csv", source)
    for name in ("P_a.txt", "P_b.csv"):
        (tmp_path / "labels" / name).write_text("20 20 Dark\n")
    expect("P_a.txt: .* P_b.csv both belong to 'P'", source)
    (tmp_path / "labels/P_b.csv").rename(tmp_path / "labels/P.csv")
    expect("P.csv: .* P_a.txt both belong to 'P'", source)


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


def test_pixels_that_are_not_square_are_rejected(tmp_path):
    import tifffile

    source = make_source(tmp_path, "P.txt", "20 20 Dark\n", mpp=None)
    (tmp_path / "images/P.png").unlink()
    options = {"photometric": "rgb", "resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "images/P.tif", np.zeros((90, 120, 3), np.uint8), **options)
    expect("P.tif: .* square pixels", source)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("P.png\nP.png\n", "names P.png twice"),
        ("P.png\nR.png\n", "1 of its names .* R.png"),
    ],
)
def test_splits(tmp_path, text, message):
    (tmp_path / "split.txt").write_text(text)
    expect(message, make_source(tmp_path, "P.txt", "20 20 Dark\n", split=tmp_path / "split.txt"))


def test_a_class_map_that_leads_nowhere(tmp_path):
    expect(
        "maps '1' to 'Palish'",
        make_source(tmp_path, "P.txt", "20 20 1\n", class_map={"1": "Palish"}),
    )
    expect(
        r"class '2' is not in class_map \(1\)",
        make_source(tmp_path, "P.txt", "20 20 2\n", class_map={"1": "Pale"}),
    )


def test_json_of_another_kind(tmp_path):
    expect(
        "P.json: neither a FeatureCollection",
        make_source(tmp_path, "P.json", json.dumps({"a": 1}), "geojson"),
    )


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
