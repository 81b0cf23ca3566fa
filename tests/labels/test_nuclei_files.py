"""Tables of points, as people, spreadsheets and other programs write them; each error names the
file and the line.
"""

import gzip

import numpy as np
import pytest

from muse_pipeline.labels.nuclei_files import read_points

XY = [[10.25, 20.0], [11.0, -0.5]]


@pytest.mark.parametrize(
    "content",
    [
        b"x,y,class\n10.25,20,b\n11,-.5,\n",
        b"\xef\xbb\xbfid, X, y, area, Class\r\n1, 10.25, 20, 30, b,\r\n\r\n2, 11, -0.5, 31, ,\r\n",
        b"class\ty\tx\nb\t20\t10.25\n\t-0.5\t11\n",
        "Größe;X [px];Y (px);Class\r\n3,5;10,25;20;b\r\n4;11;-0,5;\r\n".encode(),
        "Größe;X_px;Y pixels;Class\r\n3,5;10,25;20;b\r\n4;11;-0,5;\r\n".encode("cp1252"),
        b'note,x,y,class\n"a, b",10.25,"20","b"\n,11,-0.5,\n',
        gzip.compress(b"X,x,y,class\n0,10.25,20,b\n0,11,-0.5,\n", mtime=0),
    ],
)
def test_positions_and_classes(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    points = read_points(tmp_path / "t.csv", ("x", "y", "class"))
    assert points.nuclei.xy.tolist() == XY and points.words == ["b", ""]
    assert points.where(1).endswith("line 4" if b"\r\n\r\n" in content else "line 3")


def test_scores_are_read_where_there_are_no_classes(tmp_path):
    (tmp_path / "t.csv").write_text("cy;score;cx\n20;0,5;10,25\n-0,5;;11\n")
    points = read_points(tmp_path / "t.csv", ("cx", "cy"), n_rays=4)
    assert (
        points.nuclei.xy.tolist() == XY
        and points.nuclei.score[0] == 0.5
        and np.isnan(points.nuclei.score[1])
    )
    assert points.nuclei.rays.shape == (2, 4) and np.isnan(points.nuclei.rays).all()


def test_positions_in_um_are_read_where_they_are_expected(tmp_path):
    (tmp_path / "t.csv").write_text("X (um),Y (um)\n1,2\n")
    assert read_points(tmp_path / "t.csv", ("x", "y"), unit="um").nuclei.xy.tolist() == [[1, 2]]


def test_a_table_without_a_row_has_no_nuclei(tmp_path):
    (tmp_path / "t.csv").write_text("x,y,class\n")
    assert len(read_points(tmp_path / "t.csv", ("x", "y", "class")).nuclei) == 0
