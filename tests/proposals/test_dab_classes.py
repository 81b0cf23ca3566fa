"""Brown and blue nuclei on drawn immunohistochemistry and on a real Ki-67 slide: both found, each of its class."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import pytest
from drawn import paint
from drawn_ihc import draw_ihc, store_ihc
from scipy.spatial import cKDTree

from muse_pipeline.core.errors import ConfigError
from muse_pipeline.inference.dab import ABSOLUTE, DAB, split_stains
from muse_pipeline.inference.stitch import stitch_shards
from muse_pipeline.nuclei.parquet import read_nuclei, read_provenance
from muse_pipeline.proposals.base import BLURRED, SlideSample
from muse_pipeline.proposals.dab import DabCut, DabFinder
from muse_pipeline.proposals.otsu import OtsuFinder, OtsuSettings
from muse_pipeline.proposals.propose import fit_proposer, propose_shard
from muse_pipeline.store.grid import Shard
from muse_pipeline.tissue.colour import SlideColour
from muse_pipeline.tissue.stain import TEXTBOOK

FITS = {
    "otsu": partial(OtsuFinder.fit, settings=OtsuSettings()),
}


def check_all_right(nuclei, centres, brown, mpp):
    distance, nearest = cKDTree(centres).query(nuclei.xy)
    assert sorted(nearest) == list(range(len(centres)))
    assert distance.max() * mpp < 1
    assert np.array_equal(nuclei.label.astype(bool), brown[nearest])


@pytest.mark.parametrize("method", FITS)
@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_every_drawn_nucleus_has_its_class(method, mpp):
    pixels, centres, brown = draw_ihc(mpp, (250, 250))
    finder = DabFinder.fit(SlideSample(mpp, (pixels,)), method, FITS[method])
    assert finder.cut.rule == "2-means" and finder.cut.remarks() == []
    assert finder.cut.means == pytest.approx((0.0, 1.3), abs=0.15)
    nuclei = finder.find(pixels)
    check_all_right(nuclei, centres, brown, mpp)
    assert nuclei.rays.mean() == pytest.approx(4.0, rel=0.15)
    assert np.array_equal(nuclei.prob.argmax(1), nuclei.label)
    assert [each.name for each in finder.card.classes] == ["Negative", "Positive"]


def test_stains_are_what_was_painted():
    amounts = np.random.default_rng(0).uniform(0, 1, (20, 20, 2))
    stains = np.array([TEXTBOOK[0] / np.linalg.norm(TEXTBOOK[0]), DAB / np.linalg.norm(DAB)])
    assert split_stains(paint(amounts @ stains)) == pytest.approx(amounts, abs=0.04)


@pytest.mark.parametrize(("share", "positive"), [(0.0, False), (1.0, True)])
def test_a_slide_of_one_kind_goes_by_the_absolute_threshold_and_is_recorded(share, positive):
    pixels, centres, _ = draw_ihc(0.5, (250, 250), share)
    finder = DabFinder.fit(SlideSample(0.5, (pixels,)), "otsu", FITS["otsu"])
    assert (finder.cut.rule, finder.cut.threshold) == ("absolute", ABSOLUTE)
    assert "not clearly of two kinds" in finder.cut.remarks()[0]
    check_all_right(finder.find(pixels), centres, np.full(len(centres), positive), 0.5)


def test_two_kinds_are_those_that_lie_apart_around_the_absolute_threshold():
    rng = np.random.default_rng(0)
    assert DabCut.of(np.concatenate([rng.normal(0.1, 0.05, 900), rng.normal(1.2, 0.3, 100)])).rule == "2-means"
    for one_kind in (rng.normal(0.5, 0.2, 1000), rng.uniform(0.3, 0.6, 1000), np.full(50, 0.46), np.zeros(0)):
        assert DabCut.of(one_kind).rule == "absolute"
    weak_and_strong = np.concatenate([rng.normal(0.8, 0.05, 500), rng.normal(1.9, 0.1, 500)])
    assert DabCut.of(weak_and_strong).threshold == ABSOLUTE  # both are positive


def test_a_slide_without_tissue_has_no_nuclei():
    finder = DabFinder.fit(SlideSample(0.5, ()), "otsu", FITS["otsu"])
    assert finder.cut.n_nuclei == 0 and not len(finder.find(np.full((64, 64, 3), 255, np.uint8)))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Store, slide, tissue, centres and brown of a strip of drawn immunohistochemistry: three windows."""
    return store_ihc(tmp_path_factory.mktemp("ihc"), (1200, 75))


@pytest.mark.parametrize("method", FITS)
def test_shards_never_show_and_the_table_states_how_classes_were_made(stored, tmp_path, method):
    store, info, tissue, centres, brown = stored
    tables = []
    for n_shards in (1, 3):
        shards = [tmp_path / f"{i}-of-{n_shards}.parquet" for i in range(1, n_shards + 1)]
        for index, path in enumerate(shards, 1):
            proposer = fit_proposer(store, method, {"classes": "dab"}, SlideColour())
            assert propose_shard(store, proposer, Shard(index, n_shards), path) == []
        tables.append(tmp_path / f"{n_shards}.parquet")
        stitch_shards(shards, info, tissue.kept, tables[-1])
    assert tables[0].read_bytes() == tables[1].read_bytes()
    check_all_right(read_nuclei(tables[0]), centres, brown, 0.5)
    output = read_provenance(tables[0])
    assert output.n_by_class == {"Negative": int((~brown).sum()), "Positive": int(brown.sum())}
    classes = output.proposer["classes"]
    assert (classes["by"], classes["rule"]) == ("dab", "2-means")
    assert 0.2 < classes["threshold"] < 1.2 and classes["n_nuclei"] > 200


def test_classes_that_are_not_there_are_one_sentence(stored, tmp_path):
    store = stored[0]
    for method, classes, output in (
        ("otsu", "fast-red", "give dab"),
        ("imported", "dab", "method otsu"),
    ):
        with pytest.raises(ConfigError, match=output):
            fit_proposer(store, method, {"classes": classes}, SlideColour())


@pytest.mark.parametrize("method", FITS)
def test_a_real_ki67_slide_has_both_classes(shared_data, method):
    path = shared_data / "wsi-openslide-crops/OS-2-ndpi.ome.tif"
    tifffile = pytest.importorskip("tifffile")
    if not path.is_file():
        pytest.skip("the Ki-67 crop OS-2 is not here")
    pixels, mpp = np.ascontiguousarray(tifffile.imread(path)[:, :1101]), 0.2271  # um per pixel, as the file states
    finder = DabFinder.fit(SlideSample(mpp, (pixels,)), method, FITS[method])
    assert finder.cut.rule == "2-means"
    assert finder.judge_window(pixels) == ""
    assert finder.judge_window(cv2.GaussianBlur(pixels, (0, 0), 2 / mpp)) == BLURRED
    nuclei = finder.find(pixels)
    assert 350 < len(nuclei) < 700  # by eye about 500, a sixth of them brown; some dark ones are split in two
    assert 0.1 < nuclei.label.mean() < 0.3
    x, y = nuclei.xy.astype(int).clip(0, [[1100, 2201]]).T
    red, _, blue = pixels[y, x].astype(int).T
    assert (np.median((blue - red)[nuclei.label == 0]) > 30) and (np.median((red - blue)[nuclei.label == 1]) > 0)
