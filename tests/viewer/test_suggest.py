import csv

import numpy as np
import pytest
from finished_slide import CLASSES
from uneven_slide import draw_nuclei, write_nuclei

from muse_pipeline.cli.main import main
from muse_pipeline.core.files import read_json, write_json
from muse_pipeline.viewer.suggest import Fields, choose, measure_fields, suggest_fields

FIELD_PX = 1024  # 256 um at 0.25 um/px


def write_fields(folder, info, unsure, labels, seed=0):
    """A slide of fields in a row, each with 30 nuclei: of one label, and as unsure as is given."""
    random = np.random.default_rng(seed)
    xy = random.uniform(0, FIELD_PX, (30 * len(unsure), 2))
    xy[:, 0] += np.repeat(np.arange(len(unsure)), 30) * FIELD_PX
    nuclei = draw_nuclei(xy, np.repeat(labels, 30), seed)
    sure = 1 - np.repeat(unsure, 30) * (len(CLASSES) - 1) / len(CLASSES)
    nuclei.prob[:] = ((1 - sure) / (len(CLASSES) - 1))[:, None]
    nuclei.prob[np.arange(len(xy)), nuclei.label] = sure
    write_json(folder / "slide.json", {**info, "slide_id": folder.name})
    write_nuclei(folder, nuclei)


@pytest.fixture
def info(finished):
    return read_json(finished / "slide.json")


def test_fields_are_measured(tmp_path, info):
    write_fields(tmp_path / "s", info, [0.1, 0.6, 0.3], [0, 1, 2])
    fields = measure_fields(tmp_path / "s")
    assert fields.n_nuclei.tolist() == [30, 30, 30]
    assert np.allclose(fields.xy, [[512, 512], [1536, 512], [2560, 512]])
    assert np.allclose(fields.unsure, [0.1, 0.6, 0.3], atol=1e-5)
    assert np.allclose(fields.content[:, :3], np.eye(3))


def test_the_least_sure_field_of_all_slides_is_first(tmp_path, info):
    write_fields(tmp_path / "a", info, [0.1, 0.2, 0.1, 0.3], [0, 0, 0, 0], seed=1)
    write_fields(tmp_path / "b", info, [0.2, 0.9, 0.1, 0.1], [0, 0, 0, 0], seed=2)
    first = suggest_fields(tmp_path, 1)[0]
    assert (first["slide_id"], first["x"], first["y"]) == ("b", 1536, 512)
    assert "unsure" in first["why"]


def test_the_next_field_is_unlike_the_first():
    content = np.array([[0.0, 0.0], [0.01, 0.0], [3.0, 3.0], [3.01, 3.0]])
    unsure = np.array([0.9, 0.89, 0.5, 0.4])
    fields = Fields(*np.full((2, 4), "s"), np.zeros((4, 2)), np.ones(4), np.full(4, 30), unsure, content)
    assert choose(fields, np.zeros(4), 2) == [0, 2]
    assert sorted(choose(fields, np.zeros(4), 9)) == [0, 1, 2, 3]


def test_the_command_writes_a_table(tmp_path, info, capsys):
    write_fields(tmp_path / "s", info, [0.1, 0.6, 0.3], [0, 1, 2])
    assert main(["suggest", str(tmp_path), "-n", "2"]) == 0
    with (tmp_path / "suggest.tsv").open() as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert capsys.readouterr().out.count("nuclei") == 2


def test_few_nuclei_are_one_sentence(tmp_path, info, capsys):
    write_json(tmp_path / "s/slide.json", info)
    write_nuclei(tmp_path / "s", draw_nuclei(np.full((3, 2), 100.0), np.zeros(3, int)))
    assert main(["suggest", str(tmp_path)]) == 2
    assert "no field of 256 um has 20 nuclei" in capsys.readouterr().err
