import numpy as np
import pyarrow.parquet as pq
import pytest
from nuclei_example import MPP, draw_nuclei, drawn_provenance, slide_info

from muse_pipeline.core.types import Frame
from muse_pipeline.nuclei import shape as morphology
from muse_pipeline.nuclei.parquet import CLUSTER, NucleiWriter, OptionalColumns, read_nuclei
from muse_pipeline.nuclei.rays import rays_to_rings, rings_to_polygons
from muse_pipeline.nuclei.shape import ShapeSample, measure_shapes
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.parse import iterate_features
from muse_pipeline.qupath.write import write_geojson


def measure(nuclei):
    return measure_shapes(rays_to_rings(nuclei.xy, nuclei.rays, MPP), MPP)


def ellipses(n, long_um, short_um, seed):
    """``n`` elliptic nuclei whose half axes vary around the given ones."""
    random = np.random.default_rng(seed)
    angle = np.arange(32) * 2 * np.pi / 32
    axes = np.array([long_um, short_um]) * random.normal(1, 0.03, (n, 2))
    rays = 1 / np.hypot(np.cos(angle) / axes[:, :1], np.sin(angle) / axes[:, 1:])
    return Nuclei(random.uniform(0, 9000, (n, 2)), Frame.LEVEL0, rays=rays, label=np.zeros(n))


@pytest.fixture
def kinds():
    return [
        ellipses(60, *axes, seed)
        for seed, axes in enumerate([(2, 1.9), (4, 1.5), (4, 3.8), (8, 7)])
    ]


def fit(parts):
    sample = ShapeSample(measure)
    for part in parts:
        sample.add(part)
    return sample.fit()


def test_kinds_of_nuclei_come_apart_the_smallest_first(kinds):
    clusters = fit(kinds)
    for number, kind in enumerate(kinds, 1):
        assert (clusters.assign(measure(kind)) == number).mean() > 0.9
    areas = [row["area_um2"] for row in clusters.describe()]
    assert areas == sorted(areas)
    assert areas[0] == pytest.approx(np.pi * 2 * 1.9, rel=0.1)


def test_neither_order_nor_parts_matter(kinds, monkeypatch):
    monkeypatch.setattr(morphology, "SAMPLE", 100)
    everything = Nuclei.concatenate(kinds)
    shuffled = everything[np.random.default_rng(3).permutation(len(everything))]
    one, other = (
        fit([everything]),
        fit([shuffled[start : start + 7] for start in range(0, len(shuffled), 7)]),
    )
    assert np.array_equal(one.centres, other.centres) and np.array_equal(one.mean, other.mean)


def test_the_sample_is_all_that_is_kept(kinds, monkeypatch):
    monkeypatch.setattr(morphology, "SAMPLE", 50)
    sample, measured = (
        ShapeSample(lambda nuclei: measured.append(len(nuclei)) or measure(nuclei)),
        [],
    )
    for part in kinds * 5:
        sample.add(part)
    assert len(sample._hashes) == 50
    assert sum(measured) < 2 * 60 + 4 * 50  # only nuclei that enter the sample are measured


def test_few_nuclei_or_none_are_no_trouble():
    none = draw_nuclei(0)
    assert fit([none]).assign(measure(none)).shape == (0,)
    two = ellipses(2, 3, 3, 0)
    assert set(fit([two]).assign(measure(two))) <= {1, 2, 3, 4}


def test_the_cluster_is_a_column_and_a_measurement_where_asked_for(tmp_path):
    nuclei = draw_nuclei(50)
    shapes = measure(nuclei)
    number = np.arange(50) % 4 + 1
    polygons = rings_to_polygons(rays_to_rings(nuclei.xy, nuclei.rays, MPP))[0]
    for name, clusters in (("plain", False), ("clustered", True)):
        with NucleiWriter(
            tmp_path / name,
            ("A", "B", "C"),
            drawn_provenance(),
            32,
            OptionalColumns(clusters=clusters),
        ) as writer:
            writer.write(nuclei, polygons, shapes | {CLUSTER: number})
        write_geojson(tmp_path / name, slide_info(), tmp_path / f"{name}.geojson.gz")
    assert CLUSTER not in pq.read_schema(tmp_path / "plain").names
    assert pq.read_table(tmp_path / "clustered")[CLUSTER].to_pylist() == number.tolist()
    assert len(read_nuclei(tmp_path / "clustered")) == 50
    plain, clustered = (
        [
            one["properties"]["measurements"]
            for one in iterate_features(tmp_path / f"{name}.geojson.gz")
        ]
        for name in ("plain", "clustered")
    )
    assert "Morphology cluster" not in plain[0]
    assert [one["Morphology cluster"] for one in clustered] == number.tolist()
