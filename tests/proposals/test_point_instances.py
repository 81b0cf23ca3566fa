"""Points become instances: one each, wherever it is from; and a config that trains on them."""

import cv2
import numpy as np
import pytest
from labelled import draw_labelled_folder, write_config

from muse_pipeline.core.types import Frame
from muse_pipeline.labels.pictures import LabelledImage
from muse_pipeline.labels.read import read_labelled_images
from muse_pipeline.methods.detector.outlined import KINDS, instances_of_points
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.nuclei.table import Nuclei

MPP = 0.5


def image_of(xy, rays):
    pixels, nuclei = np.full((60, 80, 3), 230, np.uint8), Nuclei(xy, Frame.WINDOW, rays=rays)
    return LabelledImage(name="a", pixels=pixels, nuclei=nuclei, stain=None, weight=1.0)


def test_every_point_has_one_instance_wherever_it_is_from():
    xy = np.array([(15.5, 15.5), (24.5, 15.5), (60.5, 15.5), (60.5, 45.5), (60.5, 45.5)])
    rays = np.full((5, 16), 3.0, np.float32)
    rays[3:] = np.nan
    mask = np.zeros((60, 80), bool)
    mask[10:22, 8:32] = True  # two points share it
    instances, kind = instances_of_points(image_of(xy, rays), mask, MPP)
    assert [KINDS[index] for index in kind] == ["mask", "mask", "watershed", "disc", "disc"]
    assert set(np.unique(instances)) == set(range(6))
    assert ((instances == 1) | (instances == 2))[mask].all()
    assert (instances == 3).sum() * MPP**2 == pytest.approx(np.pi * 9, rel=0.1)


def test_an_implausibly_large_share_of_a_mask_is_not_taken():
    rays = np.full((1, 16), 4.0, np.float32)
    mask = np.ones((60, 80), bool)  # 1,200 um2
    instances, kind = instances_of_points(image_of(np.array([(40.5, 30.5)]), rays), mask, MPP)
    assert KINDS[kind[0]] == "watershed"
    assert (instances > 0).sum() * MPP**2 < 60


@pytest.mark.parametrize("mask", ["watershed", "otsu"])
def test_the_command_writes_a_config_that_reads_the_same_points(tmp_path, muse, mask):
    folder = draw_labelled_folder(tmp_path / "points", n_pictures=2)
    path = write_config(folder)
    status, out, err = muse("outline", path, "-o", tmp_path / "out", "--mask", mask)
    assert status == 0, err
    assert "72 points: " in out
    before, after = load_detector_config(path), load_detector_config(tmp_path / "out" / "config.yaml")
    points, outlined = (read_labelled_images(c.sources, c.class_names, c.mpp, c.n_rays) for c in (before, after))
    for one, other in zip(points, outlined, strict=True):
        assert (one.name, one.patient) == (other.name, other.patient)
        assert np.array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.nuclei.label, other.nuclei.label)
        assert np.abs(one.nuclei.xy - other.nuclei.xy).max() < 3  # px; drawn at the centre, found at the centroid
        assert np.isfinite(other.nuclei.rays).all()
    for points in (tmp_path / "out" / "source-0" / "points").iterdir():
        assert points.suffix == ".tsv"  # a class may have a comma in its name
    stored = cv2.imread(str(tmp_path / "out" / "source-0" / "instances" / "P0.png"), cv2.IMREAD_UNCHANGED)
    assert (stored.dtype, stored.max()) == (np.uint16, 36)


def test_a_config_without_points_is_rejected(tmp_path, muse):
    folder = draw_labelled_folder(tmp_path / "points", n_pictures=1)
    path = write_config(folder)
    assert muse("outline", path, "-o", tmp_path / "out")[0] == 0
    status, _, err = muse("outline", tmp_path / "out" / "config.yaml", "-o", tmp_path / "again")
    assert status == 2
    assert "nothing to outline" in err
    status, _, err = muse("outline", path, "-o", tmp_path / "again", "--mask", "otso")
    assert status == 2
    assert "otso" in err
    assert not (tmp_path / "again").exists()


def test_classes_with_a_comma_or_called_unknown_stay_classes(tmp_path, muse):
    folder = draw_labelled_folder(tmp_path / "points", n_pictures=1)
    path = write_config(folder)
    names = {"Dark": "stroma, other", "Pale": "unknown"}
    text = path.read_text()
    for old, new in names.items():
        text = text.replace(f"name: {old},", f"name: '{new}',").replace(f": {old}", f": '{new}'")
    path.write_text(text)
    status, _, err = muse("outline", path, "-o", tmp_path / "out", "--mask", "otsu")
    assert status == 0, err
    before, after = load_detector_config(path), load_detector_config(tmp_path / "out" / "config.yaml")
    assert before.class_names == after.class_names == tuple(names.values())
    points, outlined = (read_labelled_images(c.sources, c.class_names, c.mpp, c.n_rays)[0] for c in (before, after))
    assert outlined.nuclei.label.tolist() == points.nuclei.label.tolist()
    assert set(points.nuclei.label.tolist()) == {0, 1}
