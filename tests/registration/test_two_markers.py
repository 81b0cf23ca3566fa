"""The guide's code that joins the tables of two slides into one with both markers, using the map
between the slides.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from muse_pipeline.core.files import write_json
from muse_pipeline.registration.record import FORMAT
from muse_pipeline.registration.transform import Transform

GUIDE = Path(__file__).parents[2] / "docs/guide/ihc.md"
MATRIX = np.array([[0.0, -1.0, 900.0], [1.0, 0.0, 20.0]])  # um: turned by 90 degrees
MPP, PARTNER_MPP = (0.25, 0.25), (0.5, 0.5)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Two slides with the same 16 nuclei, of which one is displaced on the second, and four lie in
    a rejected tile.
    """
    monkeypatch.chdir(tmp_path)
    um = np.stack(np.meshgrid([50.0, 250, 450, 650], [50.0, 250, 450, 650]), -1).reshape(-1, 2)
    er_um = um @ MATRIX[:, :2].T + MATRIX[:, 2] + 1
    er_um[3] += 40
    for name, px, positive in (
        ("ki67", um / MPP, np.arange(16) % 2),
        ("er", er_um / PARTNER_MPP, np.arange(16) % 4),
    ):
        table = {
            "x": px[:, 0],
            "y": px[:, 1],
            "class": "Epithelial",
            "dab_od": 0.1,
            "positive": positive == 1,
        }
        folder = tmp_path / "results" / name
        folder.mkdir(parents=True)
        pd.DataFrame(table).iloc[::-1].to_parquet(folder / "nuclei.parquet", index=False)
    content = {
        "format": FORMAT,
        "slide": {"mpp": MPP, "size_px": [3200, 3200]},
        "partner": {"mpp": PARTNER_MPP, "size_px": [2000, 2000]},
        "matrix": Transform(MATRIX).matrix_px(MPP, PARTNER_MPP).tolist(),
        "tile_um": 400.0,
        "kept_tiles": ["11", "10"],
    }
    (tmp_path / "registered").mkdir()
    write_json(tmp_path / "registered/transform.json", content)
    return tmp_path


def test_nuclei_of_both_slides_are_one_row(study):
    (code,) = re.findall(
        r"## Two markers.*?```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL
    )
    exec(compile(code, str(GUIDE), "exec"), {})
    both = pd.read_csv(study / "both.tsv", sep="\t")
    assert (
        len(both) == 16 - 1 - 4
    )  # without the displaced nucleus and the four in the rejected tile
    np.testing.assert_allclose(both["distance_um"], np.sqrt(2), atol=1e-6)
    assert (both["positive"].sum(), both["positive_er"].sum()) == (5, 4)
