import numpy as np
import pytest

from muse_pipeline.qupath.columns import render_coordinates, render_decimals, render_integers


def rows(matrix):
    return [row.tobytes().replace(b"\0", b"").decode() for row in matrix]


@pytest.mark.parametrize("decimals", [1, 2, 3])
def test_decimals_as_python_writes_them(decimals):
    values = np.round(
        np.random.default_rng(2).normal(0, 1, 3000) * 10.0 ** np.arange(-2, 4).repeat(500), decimals
    )
    values = np.concatenate([values, [0, 1, 10, 0.5, -0.5, 12345]])
    assert rows(render_decimals(values, decimals)) == [
        f"{value + 0:.{decimals}f}" for value in values
    ]
    assert len(render_decimals(values[:0], decimals)) == 0


def test_integers():
    assert rows(render_integers(np.array([0, 7, 12345]), 5)) == ["00000", "00007", "12345"]


def test_coordinates():
    xy = (
        np.random.default_rng(3).uniform(-1, 1, (4000, 2))
        * 10.0 ** np.arange(-1, 7).repeat(500)[:, None]
    )
    xy = np.concatenate([xy, [[0, -0.04], [-0.1, 1000], [999.96, 99_999.9], [-1000, 100_000]]])
    texts = [
        ",".join(f"{np.round(value, 1) + 0:.1f}".removesuffix(".0") for value in position)
        for position in xy
    ]
    expected = ["],[".join(texts[first : first + 4]) + "]]]" for first in range(0, len(xy), 4)]
    assert rows(render_coordinates(xy.reshape(-1, 4, 2))) == expected
