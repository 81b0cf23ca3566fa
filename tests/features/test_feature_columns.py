"""Feature columns of a slide's table: independent of shards, exported to QuPath, and rejected if
unknown.
"""

from pathlib import Path

import numpy as np
import pandas
import pytest

from muse_pipeline.features.catalogue import features_of
from muse_pipeline.features.neighbours import measure_neighbours, with_surroundings
from muse_pipeline.nuclei.parquet import nuclei_schema, read_nuclei

CLASSES = ("Lymphocyte", "Epithelial", "Stroma")


@pytest.fixture(scope="session")
def names():
    return [feature.name for feature in features_of("all", CLASSES)]


def test_a_set_adds_its_columns_and_changes_no_other(shard, stitch, table, names, tmp_path):
    plain = pandas.read_parquet(stitch(tmp_path / "none.parquet", [shard]))
    basic = pandas.read_parquet(stitch(tmp_path / "basic.parquet", [shard], "--features", "basic"))
    in_basic = [name for name in names if name.split("_")[0] in {"shape", "h", "e"}]
    assert [name for name in basic.columns if name not in plain.columns] == in_basic
    pandas.testing.assert_frame_equal(basic, table[basic.columns])
    pandas.testing.assert_frame_equal(plain, table[plain.columns])
    assert list(plain.columns) == nuclei_schema(CLASSES, 32).names


def test_neighbours_at_exactly_the_radius_count():
    random = np.random.default_rng(3)
    um, label = (
        5.0 * random.integers(0, 60, (400, 2)),
        random.integers(-1, 3, 400),
    )  # -1: without class
    found = measure_neighbours(um[:300], label[:300], um[300:], label[300:], CLASSES)
    squared = ((um[:300, None] - um) ** 2).sum(2)
    squared[np.arange(300), np.arange(300)] = np.inf
    for radius in (25, 50, 100):
        assert (found[f"neighbours_within_{radius}um"] == (squared <= radius**2).sum(1)).all()
    assert (found["neighbours_nearest_um"] == np.sqrt(squared.min(1))).all()
    around = squared <= 50**2
    for number, name in enumerate(CLASSES):
        expected = (around & (label == number)).sum(1) / around.sum(1)
        assert (found[f"neighbours_fraction_{name}"] == expected).all()


def test_surroundings_hold_all_that_is_near_and_no_more_than_is_needed(table_file, tiled_slide):
    whole = read_nuclei(table_file)
    reach, back = np.array([100.0, 140.0]), 2000.0
    parts = [whole[start : start + 100] for start in range(0, len(whole), 100)]
    n_before = 0
    for nuclei, others in with_surroundings(iter(parts), reach, back):
        low, high = nuclei.xy.min(0) - reach, nuclei.xy.max(0) + reach
        inside = ((whole.xy >= low) & (whole.xy <= high)).all(1)
        inside[n_before : n_before + len(nuclei)] = False
        n_before += len(nuclei)
        assert {tuple(xy) for xy in others.xy} == {tuple(xy) for xy in whole.xy[inside]}
    assert n_before == len(whole)


def test_every_feature_is_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs/guide/features.md").read_text(encoding="utf-8")
    for feature in features_of("all", ("<class>",)):
        assert f"`{feature.name}`" in page, feature.name
