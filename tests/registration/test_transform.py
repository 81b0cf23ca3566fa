"""The map from slide to partner, its file, and maps from other programs."""

import numpy as np
import pytest
from drawn import ArraySlide

from muse_pipeline.core.types import Bounds
from muse_pipeline.registration.transform import Transform, read_given, read_transform

MATRIX = np.array(
    [[0.0, -1.1, 300.0], [1.1, 0.0, -20.0]]
)  # turned by 90 degrees clockwise, as y points down
PIXELS = np.zeros((40, 50, 3), np.uint8)


def info_of(mpp, bounds=None):
    return ArraySlide([PIXELS]).info(mpp, bounds=bounds)


def test_a_transform_describes_itself():
    turned = Transform(MATRIX)
    assert (round(turned.degrees), round(turned.scale, 3), turned.is_mirrored) == (90, 1.1, False)
    assert Transform(np.array([[-1.0, 0, 9], [0, 1, 0]])).is_mirrored


def test_a_transform_survives_its_file_whatever_the_pixels():
    slide_mpp, partner_mpp = (0.25, 0.26), (0.5, 0.5)
    matrix = Transform(MATRIX).matrix_px(slide_mpp, partner_mpp)
    np.testing.assert_allclose(matrix @ [1000, 1000, 1] * partner_mpp, MATRIX @ [250, 260, 1])
    again = read_transform({"matrix": matrix.tolist()}, slide_mpp, partner_mpp)
    np.testing.assert_allclose(again.matrix, MATRIX)


def write_landmarks(path, points_px, targets_px):
    rows = [
        ",".join(map(str, (*source, *target)))
        for source, target in zip(points_px, targets_px, strict=True)
    ]
    path.write_text("x,y,partner_x,partner_y\n" + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("frame", ["qupath", "openslide"])
def test_landmarks_give_the_affine_map_that_made_them(tmp_path, frame):
    slide, partner = (
        info_of((0.25, 0.25), Bounds(3, 5, 30, 30)),
        info_of((0.5, 0.5), Bounds(7, 2, 30, 30)),
    )
    points = np.random.default_rng(0).uniform(0, 1000, (5, 2))
    targets = Transform(MATRIX).to_partner(points * 0.25) / 0.5
    from_corner = frame == "qupath"
    path = write_landmarks(
        tmp_path / "l.csv",
        points - from_corner * np.array([3, 5]),
        targets - from_corner * np.array([7, 2]),
    )
    np.testing.assert_allclose(read_given(path, slide, partner, frame).matrix, MATRIX, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "0, -1.1, 600\n1.1, 0, -40",
        "0\t-1.1\t600\n1.1\t0\t-40\n0\t0\t1",
        "[[0.0e+00 -1.1e+00 6.0e+02]\n [1.1 0 -40.]]",
        "0,0, -1,1, 600,0\r\n1,1, 0,0, -40,0\r\n",
        "0;-1,1;600\r\n1,1;0;-40\r\n0;0;1",
    ],
)
def test_a_matrix_is_read_from_text(tmp_path, text):
    (tmp_path / "m.txt").write_text(text)
    found = read_given(tmp_path / "m.txt", info_of((0.5, 0.5)), info_of((0.5, 0.5)))
    np.testing.assert_allclose(found.matrix, MATRIX)


def test_landmarks_saved_by_excel_are_those_with_decimal_points(tmp_path):
    write_landmarks(
        tmp_path / "l.csv", [[1.5, 2], [30, 4], [5, 60.25]], [[300.5, 1], [-2, 33.75], [7, 8]]
    )
    text = (
        (tmp_path / "l.csv").read_text().replace(",", ";").replace(".", ",").replace("\n", "\r\n")
    )
    (tmp_path / "excel.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    plain, excel = (
        read_given(tmp_path / name, info_of((1, 1)), info_of((1, 1)))
        for name in ("l.csv", "excel.csv")
    )
    np.testing.assert_array_equal(excel.matrix, plain.matrix)


def test_a_matrix_of_qupath_counts_from_the_bounds(tmp_path):
    (tmp_path / "m.txt").write_text("0, -1.1, 600\n1.1, 0, -40")
    slide, partner = (
        info_of((0.5, 0.5), Bounds(10, 20, 9, 9)),
        info_of((0.5, 0.5), Bounds(100, 200, 9, 9)),
    )
    found = read_given(tmp_path / "m.txt", slide, partner)
    np.testing.assert_allclose(found.to_partner([5.0, 10.0]) / 0.5, [600 + 100, -40 + 200])
