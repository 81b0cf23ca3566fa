"""Labels of pictures: every format gives the same nuclei, in pixels of the picture at the model's
mpp.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
from drawn_labels import (
    CLASSES,
    RADIUS_PX,
    box,
    disc,
    draw_nuclei,
    geojson,
    grid_xy,
    make_source,
    pixels_at_nuclei,
    point,
    read,
)
from PIL import Image

from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.labels.statistics import LabelSummary, require_outlines

XY = grid_xy((120, 90))[:3]  # (20.5, 20.5), (60.5, 20.5), (100.5, 20.5)


@pytest.mark.parametrize("form", ["instances", "masks"])
@pytest.mark.parametrize("end", ["_masks.png", "_cp_masks.tif"])
def test_masks_beside_their_pictures_have_the_names_of_cellpose(tmp_path, end, form):
    apart = make_source(tmp_path, "P.png", b"", form)
    mask = np.zeros((90, 120), np.uint8)
    mask[10:22, 10:22] = 7
    for path in (apart.labels / "P.png", apart.images / f"P{end}"):
        Image.fromarray(mask).save(path)
    (expected,), (image,) = read(apart), read(replace(apart, labels=apart.images))
    assert image.name == "P" and len(image.nuclei) == 1
    assert np.array_equal(image.nuclei.rays, expected.nuclei.rays)
    (apart.images / f"P{end}").unlink()
    with pytest.raises(LabelError, match=r"no label file for 'P' \(_masks\.npy, _masks\.png,"):
        read(replace(apart, labels=apart.images))


@pytest.mark.parametrize(
    "name, form, text",
    [
        ("P.txt", "x y class", "20 20 Dark\n60 20 Pale\n100 20 Dark\n"),
        ("P_points.txt", "row column class", "20 20 Dark\n20 60 Pale\n20 100 Dark\n"),
        ("P.txt", "x y class", "20, 20, Dark\n\n60, 20, Pale\n100, 20, Dark"),
        ("P.csv", "x y class", "\ufeffx,y,class\r\n20,20,Dark\r\n60,20,Pale\r\n100,20,Dark\r\n"),
        (
            "P.csv",
            "x y class",
            "Größe;Y (px);X [px];Class\n3,5;20,0;20;Dark\n3;20;60;Pale\n3;20;100;Dark\n",
        ),
        (
            "P.tsv",
            "x y class",
            "id\tClass\tY\tX\na\tDark\t20\t20\nb\tPale\t20\t60\nc\tDark\t20\t100\n",
        ),
        (
            "P.geojson",
            "geojson",
            geojson(*((point(*xy), w) for xy, w in zip(XY, ("Dark", "Pale", "Dark"), strict=True))),
        ),
    ],
)
def test_points_in_every_format(tmp_path, name, form, text):
    (image,) = read(make_source(tmp_path, name, text, form))
    assert np.allclose(image.nuclei.xy, XY)
    assert image.nuclei.label.tolist() == [0, 1, 0]
    assert image.nuclei.frame is Frame.WINDOW
    assert image.region is None
    assert image.nuclei.rays.mean(1) == pytest.approx(RADIUS_PX * 0.5, rel=0.15)  # grown outlines


def test_a_class_with_a_blank_and_a_class_that_is_not_used(tmp_path):
    text = "x\ty\tclass\n20\t20\tdark one\n60\t20\tartefact\n"
    source = make_source(tmp_path, "P.tsv", text, class_map={"dark one": "Dark", "artefact": None})
    assert read(source)[0].nuclei.label.tolist() == [0, -1]


def test_a_derived_class_is_mapped_as_the_one_that_it_comes_from(tmp_path):
    text = geojson(
        (point(20, 20), "dark: Positive"),
        (point(60, 20), "dark: Negative"),
        (point(60, 60), "pale: 1+"),
    )
    source = make_source(
        tmp_path,
        "P.geojson",
        text,
        "geojson",
        class_map={"dark": "Dark", "dark: Negative": None, "pale": "Pale"},
    )
    assert read(source)[0].nuclei.label.tolist() == [0, -1, 1]


def test_names_of_qupath_need_no_class_map_and_a_class_map_decides_alone(tmp_path):
    words = ("Tumor", "Immune cells", "Stroma")
    content = geojson(*((point(*xy), word) for xy, word in zip(XY, words, strict=True)))
    source = make_source(tmp_path, "P.geojson", content, "geojson")
    (image,) = read_labelled_images([source], ("Lymphocyte", "Epithelial", "Stroma"), 0.5, 8)
    assert image.nuclei.label.tolist() == [1, 0, 2]
    mapped = replace(source, class_map={"Immune cells": "Stroma", "Stroma": "Stroma"})
    with pytest.raises(LabelError, match="class 'Tumor'"):
        read_labelled_images([mapped], ("Lymphocyte", "Epithelial", "Stroma"), 0.5, 8)


def test_outlines_that_were_drawn_stay_and_points_are_grown(tmp_path):
    square = box(55, 15, 66, 26)
    content = geojson((disc(*XY[0], 4), "Dark"), (square, None), (point(*XY[2]), "Pale"))
    image = read(make_source(tmp_path, "P.geojson", content, "geojson"))[0]
    assert image.nuclei.label.tolist() == [0, -1, 1]
    assert image.nuclei.rays[0] == pytest.approx(4 * 0.5, rel=0.02)
    assert image.nuclei.rays[1].max() == pytest.approx(5.5 * 0.5 * 2**0.5, rel=1e-4)
    assert image.nuclei.rays[2] == pytest.approx(RADIUS_PX * 0.5, rel=0.2)


def test_points_that_are_not_grown_have_no_outline_and_raise_no_doubt_about_the_scale(tmp_path):
    content = geojson((disc(*XY[0], 4), "Dark"), (point(*XY[1]), "Pale"), (point(*XY[2]), "Pale"))
    source = make_source(tmp_path, "P.geojson", content, "geojson", grow_outlines=False)
    images = read(source)
    rays = images[0].nuclei.rays
    assert rays[0] == pytest.approx(4 * 0.5, rel=0.02)
    assert np.isnan(rays[1:]).all()
    assert LabelSummary(images, CLASSES, 0.5).warnings == ()
    require_outlines(images)
    points = make_source(
        tmp_path / "points", "P.txt", "20 20 Dark\n", "x y class", grow_outlines=False
    )
    with pytest.raises(ConfigError, match=r"no outline; .*`grow_outlines"):
        require_outlines(read(points))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_masks_of_every_kind(tmp_path, suffix):
    mask = np.zeros((90, 120), np.uint16)
    for number, (x, y) in enumerate(XY.astype(int), 1):
        cv2.circle(mask, (int(x), int(y)), RADIUS_PX, 300 * number, -1)
    writers = {
        ".png": lambda path: cv2.imwrite(str(path), mask),
        ".tif": lambda path: tifffile.imwrite(path, mask.astype(np.int32)),
        ".npy": lambda path: np.save(path, mask.astype(np.int64)),
    }
    source = make_source(tmp_path, f"P{suffix}", b"", "instances", points=tmp_path / "points")
    writers[suffix](tmp_path / f"labels/P{suffix}")
    (tmp_path / "points").mkdir()
    (tmp_path / "points/P.csv").write_text("x,y,class\n21,20,Dark\n100,20,Pale\n")
    nuclei = read(source)[0].nuclei
    assert np.allclose(nuclei.xy, XY)
    assert nuclei.label.tolist() == [0, -1, 1]
    assert nuclei.rays.mean(1) == pytest.approx((RADIUS_PX + 0.5) * 0.5, rel=0.1)


@pytest.mark.parametrize("white", [1, 255, True])
def test_connected_areas_of_a_mask_are_nuclei_but_specks(tmp_path, white):
    mask = np.zeros((90, 120), np.uint8)
    for x, y in XY.astype(int):
        cv2.circle(mask, (int(x), int(y)), RADIUS_PX, 1, -1)
    mask[88:, 118:] = 1
    source = make_source(tmp_path, "P.png", b"", "masks")
    Image.fromarray(mask.astype(bool) if white is True else mask * np.uint8(white)).save(
        tmp_path / "labels/P.png"
    )
    nuclei = read(source)[0].nuclei
    assert np.allclose(nuclei.xy, XY)
    assert (nuclei.label == -1).all()
    assert nuclei.rays.mean(1) == pytest.approx((RADIUS_PX + 0.5) * 0.5, rel=0.1)


def test_pixels_nuclei_and_region_go_to_the_mpp_of_the_model_together(tmp_path):
    content = geojson((box(10, 10, 80, 30), "Region*"), *((point(*xy), "Dark") for xy in XY[:2]))
    image = read(make_source(tmp_path, "P.geojson", content, "geojson", mpp=0.5), mpp=0.25)[0]
    assert image.pixels.shape == (180, 240, 3)
    assert np.allclose(image.nuclei.xy, XY[:2] * 2)
    rows, columns = np.nonzero(image.region)
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (20, 160, 20, 60)
    assert image.region.sum() == 140 * 40
    at = pixels_at_nuclei(image)
    assert at.mean() < 120  # each centre lies on its dark disc


def test_regions_may_have_a_folder_of_their_own(tmp_path):
    (tmp_path / "regions").mkdir()
    (tmp_path / "regions/P.geojson").write_text(geojson((box(10, 10, 80, 30), "Region")))
    settings = {"regions": tmp_path / "regions", "outside": "leave out"}
    image = read(make_source(tmp_path, "P.txt", "20 20 Dark\n100 20 Dark\n", **settings))[0]
    assert len(image.nuclei) == image.n_left_out == 1
    assert image.region.sum() == 70 * 20


def test_a_tissue_outline_is_no_nucleus(tmp_path):
    content = geojson((box(0, 0, 120, 90), "Ignore*"), (point(*XY[0]), "Dark"))
    content = content.replace('"classification": {"name": "Ignore*"}', '"name": "Tissue"')
    assert len(read(make_source(tmp_path, "P.geojson", content, "geojson"))[0].nuclei) == 1


def test_a_label_file_belongs_to_the_longest_stem(tmp_path):
    source = make_source(tmp_path, "P_1_points.txt", "20 20 Dark\n")
    cv2.imwrite(str(tmp_path / "images/P_1.png"), draw_nuclei((120, 90), XY)[..., ::-1])
    (tmp_path / "labels/P_points.txt").write_text("20 20 Dark\n60 20 Pale\n")
    assert [(one.name, len(one.nuclei)) for one in read(source)] == [("P", 2), ("P_1", 1)]


def test_a_picture_that_has_its_mpp_needs_none(tmp_path):
    source = make_source(tmp_path, "P.txt", "20 20 Dark\n", mpp=None)
    pixels = draw_nuclei((120, 90), XY)
    (tmp_path / "images/P.png").unlink()
    tifffile.imwrite(
        tmp_path / "images/P.tif",
        pixels,
        photometric="rgb",
        resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER",
    )
    image = read(source)[0]
    assert image.pixels.shape == (45, 60, 3)  # half as large as at 0.25 um/px
    assert np.allclose(image.nuclei.xy, [[10.25, 10.25]])


def test_a_real_patch_in_rows_and_columns(shared_data):
    folder = shared_data / "brca-m2c"
    name = "TCGA-A7-A0DB-01Z-00-DX1"
    source = PictureSource(
        folder / "labels", "row column class", images=folder / "images", mpp=0.5,
        split=folder / "val.txt",
        exclude=("-A8-", "-AC-"), class_map={"1": "Dark", "2": "Pale", "3": None},
    )  # fmt: skip
    image = read(source)[0]
    rows = np.loadtxt(next((folder / "labels").glob(f"{image.name}*")))
    assert image.name.startswith(name[:12])
    assert image.patient == "TCGA-A7-A0DB"
    assert np.array_equal(image.nuclei.xy, rows[:, 1::-1] + 0.5)
    assert np.array_equal(image.nuclei.label, np.array([0, 1, -1])[rows[:, 2].astype(int) - 1])
    at = pixels_at_nuclei(image)
    assert at[:, 0].mean() < image.pixels[..., 0].mean() - 30  # nuclei absorb red


def mask_source(folder, n=3, **settings):
    """A mask of ``n`` nuclei, 13 px in diameter except the third, which is twice as large."""
    mask = np.zeros((90, 120), np.uint16)
    for number, (x, y) in enumerate(XY.astype(int)[:n], 1):
        cv2.circle(mask, (int(x), int(y)), RADIUS_PX if number < 3 else 2 * RADIUS_PX, number, -1)
    source = make_source(folder, "P.png", b"", "instances", **{"mpp": None, **settings})
    cv2.imwrite(str(folder / "labels/P.png"), mask)
    return source


def test_masks_without_mpp_are_taken_to_nuclei_of_one_size(tmp_path):
    (image,) = read(mask_source(tmp_path, diameter_um=8.0))
    assert 2 * image.nuclei.rays[:2].mean() == pytest.approx(8.0, rel=0.05)
    assert image.pixels.shape[0] == pytest.approx(90 * (8.0 / 0.5) / 12.4, rel=0.05)
