"""Sampling of tissue by its region: on slides with a region map, with drawn areas, and with
neither.
"""

import json
import shutil

import numpy as np
import pytest
import shapely
from drawn import ArraySlide
from labelled import CPU
from pretraining import MPP, SIDE_PX, draw_slide, write_config

from experiments.common.training import load_muse_config, pretrain
from muse_pipeline.core.errors import CheckpointError, ConfigError, StoreError
from muse_pipeline.core.files import write_json
from muse_pipeline.data.views import ViewSampler
from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.inference.region_files import record_failure, write_regions
from muse_pipeline.inference.region_maps import SlideMap
from muse_pipeline.methods.muse.data import read_pretrain_data
from muse_pipeline.slides.inspect import read_info
from muse_pipeline.store.store import open_store
from muse_pipeline.tissue.mask import TissueMask

BORDER_PX = SIDE_PX // 5 * 2  # tumour lies left of this; an index has 5 x 5 cells
CLASSES = (NucleusClass("Stroma", (150, 200, 150)), NucleusClass("Tumour", (200, 0, 0)))


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A slide's folder with a region map, as `muse regions` writes it."""
    folder = tmp_path_factory.mktemp("slides") / "S1"
    draw_slide(folder)
    info = ArraySlide([np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)]).info((MPP, MPP), "S1")
    write_json(folder / "slide.json", info.to_dict())
    whole = TissueMask(
        np.ones((40, 40), bool), np.array([8.0, 8.0]), None, (SIDE_PX * MPP / 1000) ** 2
    )
    whole.save(folder / "tissue.npz")
    write_map(folder, BORDER_PX)
    return folder


def write_map(folder, border_px):
    """Write a region map with tumour in the cells left of ``border_px``."""
    prob = np.zeros((2, 40, 40), np.uint8)
    border = round(border_px * MPP / 8)
    prob[1, :, :border] = prob[0, :, border:] = 255
    store, info = open_store(folder / "image-500nm.zarr"), read_info(folder / "slide.json")
    facts = {
        "slide_id": "S1",
        "fingerprint": info.fingerprint,
        "slide_mpp": [MPP, MPP],
        "tissue_sha256": None,
        "source": "model",
        "model": {"name": "drawn", "sha256": "ab" * 32},
        "cell_um": 8.0,
        "versions": {},
    }
    with record_failure(folder, "S1"):
        write_regions(
            SlideMap(CLASSES, (False, True), prob, np.ones((40, 40), bool), 0.01, facts),
            store,
            info,
            folder,
        )


def config_of(folder, path, weights, **source):
    slide = {
        "store": str(folder / "image-500nm.zarr"),
        "proposals": str(folder / "proposals.parquet"),
        **source,
    }
    return load_muse_config(
        write_config(path / "c.yaml", [slide], region_weights=weights, balance=1.0)
    )


def open_data(config, folder, log=print):
    return read_pretrain_data(
        config.sources, 0.5, config.min_nuclei, folder / "index", log, config.region_weights
    )


def tumour_share(image):
    """The fraction of sampled nuclei that lie in tumour."""
    rng, nuclei = np.random.default_rng(0), image.nuclei
    return np.mean([nuclei.draw(rng)[0] < BORDER_PX for _ in range(2000)])


def test_tissue_of_a_class_is_drawn_as_often_as_its_weight_tells(mapped, tmp_path):
    """Two fifths of the slide are tumour, so that a weight of 3 gives 6 of 9 samples."""
    for number, (weights, share) in enumerate(
        [({}, 2 / 5), ({"Tumour": 3.0}, 2 / 3), ({"Stroma": 3.0}, 2 / 11)]
    ):
        (image,) = open_data(config_of(mapped, tmp_path, weights), tmp_path / str(number)).images
        assert tumour_share(image) == pytest.approx(share, abs=0.03)


def test_a_slide_with_more_of_the_class_is_drawn_more_often(mapped, tmp_path):
    """A slide without weights counts with its area; the mapped slide counts with nine fifths of its
    area.
    """
    (weighted,) = open_data(config_of(mapped, tmp_path, {"Tumour": 3.0}), tmp_path).images
    (alike,) = open_data(config_of(mapped, tmp_path, {}), tmp_path).images
    config, rng = config_of(mapped, tmp_path, {}), np.random.default_rng(0)
    sample = ViewSampler([weighted, alike], config.views, balance=1.0)
    assert np.mean([sample(rng).image is weighted for _ in range(1000)]) == pytest.approx(
        9 / 14, abs=0.05
    )


def write_areas(path, area):
    """Write one annotation of the class Invasive."""
    feature = {
        "type": "Feature",
        "geometry": json.loads(shapely.to_geojson(area)),
        "properties": {
            "objectType": "annotation",
            "classification": {"name": "Invasive", "color": [9, 8, 7]},
        },
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def test_drawn_areas_weigh_too(mapped, tmp_path):
    areas = write_areas(tmp_path / "areas.geojson", shapely.box(0, 0, BORDER_PX, SIDE_PX))
    config = config_of(mapped, tmp_path, {"Invasive": 3.0, "Necrosis": 2.0}, regions=str(areas))
    (image,) = open_data(config, tmp_path).images
    assert tumour_share(image) == pytest.approx(2 / 3, abs=0.03)
    areas.unlink()
    with pytest.raises(ConfigError, match="areas"):
        open_data(config, tmp_path)


def test_drawn_areas_are_in_px_of_the_slide_and_not_of_its_store(tmp_path):
    """The area is the left column of index cells: 64 um, or 256 px of the slide and 128 px of the
    store.
    """
    folder = tmp_path / "S1"
    draw_slide(folder, mpp=0.25)
    info = ArraySlide([np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)]).info((0.25, 0.25), "S1")
    write_json(folder / "slide.json", info.to_dict())
    TissueMask(np.ones((20, 20), bool), np.array([8.0, 8.0]), None, 0.0256).save(
        folder / "tissue.npz"
    )
    areas = write_areas(tmp_path / "areas.geojson", shapely.box(0, 0, 256, SIDE_PX))
    (image,) = open_data(
        config_of(folder, tmp_path, {"Invasive": 3.0}, regions=str(areas)), tmp_path
    ).images
    nuclei = image.nuclei
    assert nuclei.n_columns == 3
    expected = [3.0 if cell % 3 == 0 else 1.0 for cell in nuclei.occupied.tolist()]
    assert np.diff(nuclei.cumulated, prepend=0).tolist() == expected


def test_a_run_has_one_region_map(mapped, tmp_path):
    """A run resumes with the region map that it was trained with, and rejects a different map."""
    folder = shutil.copytree(mapped, tmp_path / "S1")
    config = config_of(folder, tmp_path, {"Tumour": 3.0})
    pretrain(config, tmp_path / "run", CPU)
    pretrain(config, tmp_path / "run", CPU)
    write_map(folder, 2 * BORDER_PX)
    with pytest.raises(CheckpointError, match=r"regions\.json changed"):
        pretrain(config, tmp_path / "run", CPU)


def test_a_slide_without_a_region_map_is_one_sentence(mapped, tmp_path, muse):
    folder = shutil.copytree(mapped, tmp_path / "S1")
    (folder / "regions.json").unlink()
    config_of(folder, tmp_path, {"Tumour": 3.0})
    status, _, printed = muse(
        "pretrain", tmp_path / "c.yaml", "-o", tmp_path / "run", "--accelerator", "cpu"
    )
    assert (
        status == 2 and "has no readable regions.json; run `muse regions` for this slide" in printed
    )
    assert printed.count("\n") == 1


def test_a_slide_whose_region_model_failed_is_drawn_alike(mapped, tmp_path):
    folder, said = shutil.copytree(mapped, tmp_path / "S1"), []
    with pytest.raises(StoreError), record_failure(folder, "S1"):
        raise StoreError("a reason")
    config = config_of(folder, tmp_path, {"Tumour": 3.0})
    with pytest.raises(ConfigError, match="region_weights"):  # it is the only slide
        open_data(config, tmp_path, said.append)
    assert said == ["S1: all its nuclei have the weight 1, because it has no regions (a reason)"]


def test_a_class_that_the_map_has_not_is_named(mapped, tmp_path):
    with pytest.raises(ConfigError, match="class Tumor"):
        open_data(config_of(mapped, tmp_path, {"Tumor": 3.0}), tmp_path)
    with pytest.raises(ConfigError, match="number above 0"):
        config_of(mapped, tmp_path, {"Tumour": 0})
