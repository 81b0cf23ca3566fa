"""Detection and stitching of a synthetic slide: the result does not depend on how the work is
divided.
"""

import shutil
from collections import Counter
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from scipy.spatial import cKDTree

from muse_pipeline.core.errors import ModelError, StoreError
from muse_pipeline.core.provenance import NamedFile
from muse_pipeline.core.types import Bounds
from muse_pipeline.evaluation.truth import read_truth
from muse_pipeline.inference.detect import (
    ModelFinder,
    WindowChoice,
    detect_image,
    detect_shard,
    no_nuclei,
)
from muse_pipeline.inference.stitch import stitch_shards
from muse_pipeline.nuclei.parquet import read_nuclei, read_provenance
from muse_pipeline.nuclei.rays import rays_to_rings, rings_to_polygons, survive_qupath
from muse_pipeline.nuclei.shape import SHAPE_COLUMNS
from muse_pipeline.slides.base import open_slide
from muse_pipeline.store.grid import Shard
from muse_pipeline.store.store import Store, open_store
from muse_pipeline.store.zarr_files import ShardFiles
from muse_pipeline.tissue.stain import IDENTITY


def test_most_drawn_nuclei_are_found_and_not_shifted(tiled_slide, whole):
    """No model was trained on synthetic slides, so this only shows that positions and scale are
    right throughout.
    """
    truth = read_truth(
        tiled_slide.folder / "truth.csv", ["Lymphocyte", "Epithelial", "Stroma"], (0.25, 0.25)
    ).nuclei
    found = read_nuclei(whole)
    distance, nearest = cKDTree(truth.xy).query(found.xy)
    close = distance * 0.25 < 2
    shift_um = (found.xy - truth.xy[nearest])[close].mean(0) * 0.25
    assert np.abs(shift_um).max() < 0.2
    assert len(set(nearest[close])) > 0.6 * len(truth)


@pytest.fixture(scope="module")
def sixteenths(tiled_slide, tmp_path_factory):
    """Sixteen shards of the slide, detected on two threads."""
    return tiled_slide.detect(tmp_path_factory.mktemp("sixteenths"), n_shards=16, threads=2)


def shard_of(whole):
    """The only shard of the table ``whole``."""
    return whole.with_name("1-of-1.parquet")


def crossing(outlines, box):
    """Mask of outlines with coordinates outside a box; outlines that only touch its edge are
    inside.
    """
    left, top, right, bottom = shapely.bounds(outlines).T
    return (left < box[0]) | (top < box[1]) | (right > box[2]) | (bottom > box[3])


def test_outlines_are_cut_at_the_scanners_bounds_and_nowhere_else(tiled_slide, whole, tmp_path):
    """No test slide ends within tissue, so the bounds are set to run through it."""
    before = pq.read_table(whole)
    centre, (width, height) = (
        np.median(read_nuclei(whole).xy, axis=0).astype(int),
        tiled_slide.info.size_px,
    )
    info = replace(
        tiled_slide.info,
        bounds=Bounds(*centre.tolist(), width - int(centre[0]), height - int(centre[1])),
    )
    stitch_shards([shard_of(whole)], info, tiled_slide.tissue.kept, tmp_path / "nuclei.parquet")
    after = pq.read_table(tmp_path / "nuclei.parquet")
    old, new = (shapely.from_wkb(table["geometry"].to_numpy()) for table in (before, after))
    inside = (read_nuclei(whole).xy >= centre).all(1)
    cut = inside & crossing(old, info.scanned_box)
    assert cut.sum() >= 3
    assert not (inside & crossing(new, info.scanned_box)).any()
    assert survive_qupath(new).all()
    assert after.filter(inside & ~cut) == before.filter(inside & ~cut)
    same = [
        name for name in before.column_names if name not in {"rays", "geometry", *SHAPE_COLUMNS}
    ]
    assert after.select(same) == before.select(same)  # including x and y, from which ids are made
    found = read_nuclei(tmp_path / "nuclei.parquet")
    rings = rays_to_rings(found.xy, found.rays, info.mpp)
    assert shapely.equals(rings_to_polygons(rings)[0], new).all()  # rays end on the outlines


@pytest.mark.parametrize("any_size", [True, False])
def test_a_picture_that_ends_in_tissue_has_no_more_nuclei_than_with_tissue_around_it(
    tiled_slide, shared_data, any_size, monkeypatch
):
    """481 px are not a multiple of the stride, and fixed windows reach far beyond the picture."""
    with open_slide(shared_data / "wsi-cmu-small-region/CMU-1-Small-Region.svs") as slide:
        around = slide.read_region((744, 544), 0, (993, 993))
    monkeypatch.setattr(tiled_slide.predictor, "any_size", any_size)
    picture = np.ascontiguousarray(around[256:737, 256:737])
    found, usual = (
        detect_image(tiled_slide.predictor, each, IDENTITY) for each in (picture, around)
    )
    n_usual = ((usual.xy >= 256) & (usual.xy < 737)).all(1).sum()
    assert n_usual > 300 and abs(len(found) / n_usual - 1) < 0.03


def test_a_moved_grid_finds_the_same_nuclei(tiled_slide, whole, tmp_path):
    """After a move by half a window, 99 % of certain nuclei are found again within 0.5 um, and 99.7
    % within 3 um.
    """
    card = tiled_slide.predictor.card
    half = (card.input_px // 2 - card.halo_px) // card.stride_px * card.stride_px
    first, second = read_nuclei(whole), read_nuclei(tiled_slide.nuclei(tmp_path, offset_px=half))
    for one, other in ((first, second), (second, first)):
        sure = one[one.score > card.threshold + 0.1]
        distance_um = cKDTree(other.xy).query(sure.xy)[0] * tiled_slide.info.mpp[0]
        assert (distance_um <= 0.5).mean() >= 0.99
        assert (distance_um <= 3).mean() >= 0.997


def test_looking_at_tissue_alone_changes_hardly_anything(tiled_slide, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(tiled_slide.predictor, "any_size", False)
    card, of_windows = tiled_slide.predictor.card, read_nuclei(tiled_slide.nuclei(tmp_path))
    for one, other in ((of_windows, read_nuclei(whole)), (read_nuclei(whole), of_windows)):
        sure = one[one.score > card.threshold + 0.1]
        distance, _ = cKDTree(other.xy).query(sure.xy)
        assert (distance * tiled_slide.info.mpp[0] <= 0.5).mean() >= 0.995


def test_nuclei_lie_in_tissue_and_none_is_there_twice(tiled_slide, whole):
    xy, mpp = read_nuclei(whole).xy, tiled_slide.info.mpp
    assert tiled_slide.tissue.kept.contains(xy, mpp).all()
    assert not cKDTree(xy * mpp[0]).query_pairs(1.0)


def test_batches_that_touch_a_rectangle_are_run_whole(tiled_slide, tmp_path):
    """A batch always has the same windows, so that nuclei do not depend on the rectangle."""

    class Recorder(ModelFinder):
        card = replace(tiled_slide.predictor.card, batch=3)
        trim = False

        def __call__(self, pixels, origin_xy):
            runs.append(origin_xy.tolist())
            return [no_nuclei(self.card)] * self.card.batch

    finder = Recorder(tiled_slide.predictor, tiled_slide.colour)
    runs = []
    detect_shard(tiled_slide.store, finder, tmp_path / "all.parquet")
    every, runs = runs, []
    low, high = np.array([1000, 1000]), np.array([1100, 2000])
    within = WindowChoice(within=(low, high))
    facts = detect_shard(tiled_slide.store, finder, tmp_path / "some.parquet", within)
    cores = [np.array(batch) + finder.card.halo_px for batch in every]
    touching = [((core < high) & (core + 960 > low)).all(1).any() for core in cores]
    assert runs == [batch for batch, touches in zip(every, touching, strict=True) if touches]
    assert 0 < facts["n_windows"] == sum(map(len, runs)) < sum(map(len, every))

    class FirstOfThree:
        """Refuses the first window of every batch."""

        remarks = ()
        reasons = cycle(["glass", "", ""])

        def judge(self, window):
            return next(self.reasons)

    runs = []
    some = [batch for batch in every if len(batch) == 3]
    detect_shard(
        tiled_slide.store, finder, tmp_path / "g.parquet", WindowChoice(guard=FirstOfThree())
    )
    assert len(some) > 1 and [batch for batch in runs if len(batch) == 3] == some


def test_what_windows_of_a_row_share_is_decoded_once(tiled_slide, tmp_path, monkeypatch):
    class Blind(ModelFinder):
        def __call__(self, pixels, origin_xy):
            return [no_nuclei(self.card)] * self.card.batch

    read_chunk, keep_chunks, decoded, read = ShardFiles.read_chunk, Store.keep_chunks, [], []

    def keep_and_count(store, n):
        keep_chunks(store, n)
        cached = store._read_chunk
        store._read_chunk = lambda *at: read.append(at) or cached(*at)

    monkeypatch.setattr(
        ShardFiles, "read_chunk", lambda self, *at: decoded.append(at) or read_chunk(self, *at)
    )
    monkeypatch.setattr(Store, "keep_chunks", keep_and_count)
    store = open_store(tiled_slide.store.path)
    detect_shard(
        store,
        Blind(tiled_slide.predictor, tiled_slide.colour),
        tmp_path / "all.parquet",
    )
    assert max(Counter(read).values()) == 4  # up to four windows share a chunk
    assert max(Counter(decoded).values()) == 1


def test_a_shard_with_a_byte_that_is_another_is_rejected(tiled_slide, whole, tmp_path):
    path = Path(shutil.copy(shard_of(whole), tmp_path))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="run `muse step detect`"):
        stitch_shards([path], tiled_slide.info, tiled_slide.tissue.kept, tmp_path / "n.parquet")
    assert not (tmp_path / "n.parquet").exists()


def test_a_missing_or_doubled_shard_is_rejected(tiled_slide, sixteenths, tmp_path):
    for wrong in (sixteenths[1:], [*sixteenths, sixteenths[0]]):
        with pytest.raises(StoreError, match="exactly once"):
            stitch_shards(wrong, tiled_slide.info, tiled_slide.tissue.kept, tmp_path / "n.parquet")
    assert not (tmp_path / "n.parquet").exists()


def test_shards_of_another_cut_model_or_slide_are_rejected(tiled_slide, tmp_path):
    mixed = tmp_path / "2-of-2.parquet"
    first = tmp_path / "1-of-2.parquet"
    finder = ModelFinder(tiled_slide.predictor, tiled_slide.colour)
    detect_shard(tiled_slide.store, finder, first, WindowChoice(Shard(1, 2)))
    detect_shard(
        tiled_slide.store,
        replace(finder, colour=tiled_slide.colour * 1.1),
        mixed,
        WindowChoice(Shard(2, 2)),
    )
    with pytest.raises(StoreError, match="different store"):
        stitch_shards(
            [first, mixed], tiled_slide.info, tiled_slide.tissue.kept, tmp_path / "n.parquet"
        )
    detect_shard(tiled_slide.store, finder, mixed, WindowChoice(Shard(2, 2)))
    other = replace(tiled_slide.info, fingerprint="another")
    with pytest.raises(StoreError, match="run `muse step detect`"):
        stitch_shards([first, mixed], other, tiled_slide.tissue.kept, tmp_path / "n.parquet")
    other = replace(tiled_slide.info, mpp=(0.26, 0.26))
    with pytest.raises(StoreError, match="um/px"):
        stitch_shards([first, mixed], other, tiled_slide.tissue.kept, tmp_path / "n.parquet")
    within = replace(tiled_slide.tissue, roi=shapely.box(0, 0, 500, 500))
    with pytest.raises(StoreError, match="different tissue"):
        stitch_shards([first, mixed], tiled_slide.info, within.kept, tmp_path / "n.parquet")


def test_a_table_states_what_it_was_made_from_and_by(tiled_slide, whole):
    provenance = read_provenance(whole)
    assert provenance.fingerprint == tiled_slide.info.fingerprint
    assert provenance.model == NamedFile("compact", tiled_slide.predictor.sha256)
    assert provenance.reader == tiled_slide.info.reader == "openslide"
    versions = provenance.versions
    assert {
        "muse-pipeline",
        "numpy",
        "shapely",
        "zarr",
        "openslide-python",
        "openslide-bin",
    } <= set(versions)
    assert {"onnxruntime", "onnxruntime-gpu"} & set(versions)


def test_a_model_of_another_mpp_is_rejected(tiled_slide, tmp_path):
    predictor = tiled_slide.predictor
    card = predictor.card
    try:
        predictor.card = replace(card, mpp=0.25)
        with pytest.raises(ModelError, match="stored"):
            finder = ModelFinder(predictor, tiled_slide.colour)
            detect_shard(tiled_slide.store, finder, tmp_path / "s.parquet")
    finally:
        predictor.card = card
    assert not list(tmp_path.iterdir())


def test_a_store_that_another_job_replaces_meanwhile_is_noticed(tiled_slide, tmp_path):
    """Missing chunks are read as glass; without the check, the remaining windows would be empty
    without an error.
    """
    shutil.copytree(tiled_slide.store.path, tmp_path / "image-500nm.zarr")
    store, output = open_store(tmp_path / "image-500nm.zarr"), tmp_path / "1-of-1.parquet"

    def replace_store(done, total):
        store.path.rename(tmp_path / "old")
        shutil.copytree(tmp_path / "old", store.path)
        shutil.rmtree(tmp_path / "old")

    with pytest.raises(StoreError, match="replaced while"):
        finder = ModelFinder(tiled_slide.predictor, tiled_slide.colour)
        detect_shard(store, finder, output, WindowChoice(Shard(1, 8)), progress=replace_store)
    assert not output.exists()
