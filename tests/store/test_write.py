"""A slide is written to a store with the right pixels, the right files, and no partial results."""

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
import zarr
from drawn import ArraySlide
from numcodecs import Zstd
from ome_zarr_models.v05 import Image
from ome_zarr_models.v05.image_label import ImageLabel

from muse_pipeline.cohort.layout import store_name
from muse_pipeline.core.errors import OutputError, SlideError, StoreError
from muse_pipeline.store.resample import AreaReader
from muse_pipeline.store.store import open_store
from muse_pipeline.store.write import (
    StoreOptions,
    chunks_with_tissue,
    tissue_on_lattice,
    write_store,
)
from muse_pipeline.tissue.mask import TissueMask

MPP = (0.25, 0.2504)


def noise_slide(width=2900, height=2300, **kw):
    return ArraySlide(
        [np.random.default_rng(0).integers(0, 250, (height, width, 3), np.uint8)], **kw
    )


def write(path, slide, *rectangles, slide_mpp=MPP, roi=None, threads=1, **options):
    """Write a store of a slide whose tissue is rectangles (left, top, right, bottom) in um; return
    its SlideInfo.
    """
    info = slide.info(slide_mpp)
    mask = np.zeros([int(np.ceil(info.size_px[i] * info.mpp[i] / 8)) for i in (1, 0)], bool)
    for left, top, right, bottom in rectangles:
        mask[int(top // 8) : int(bottom // 8), int(left // 8) : int(right // 8)] = True
    write_store(
        slide,
        info,
        TissueMask(mask, np.array([8.0, 8.0]), roi, mask.sum() * 64e-6),
        path,
        StoreOptions(**options),
        threads,
    )
    return info


def files_of(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_only_chunks_that_touch_a_rectangle(tmp_path):
    slide = noise_slide()
    write(tmp_path / "whole.zarr", slide, (0, 0, 725, 575))
    corners = np.array([-40.0, 511.5]), np.array([1024.0, 900.0])
    write(tmp_path / "part.zarr", slide, (0, 0, 725, 575), within=corners)
    whole, part = (open_store(tmp_path / f"{name}.zarr") for name in ("whole", "part"))
    expected = whole.read((0, 0), whole.size_px)
    expected[1024:] = 255
    expected[:, 1024:] = 255
    np.testing.assert_array_equal(part.read((0, 0), part.size_px), expected)
    np.testing.assert_array_equal(part.tissue[0], whole.tissue[0])


def test_chunks_near_tissue_hold_the_slide_and_the_rest_is_white(tmp_path):
    slide = noise_slide()
    info = write(tmp_path / "a.zarr", slide, (300, 300, 400, 310))
    store = open_store(tmp_path / "a.zarr")
    expected = AreaReader(slide, info, 0.5).read((0, 0), store.size_px)
    expected[:512] = 255  # row 512 is at 256 um; tissue and its margin are at 268 to 342 um
    expected[:, :512] = 255
    expected[1024:] = 255
    expected[:, 1024:] = 255
    np.testing.assert_array_equal(store.read((0, 0), store.size_px), expected)
    assert store.size_px == (1450, 1152)
    assert (store.mpp, store.slide_mpp, store.slide_id) == (0.5, MPP, "drawn")


def test_no_tissue_is_a_valid_empty_store(tmp_path):
    write(tmp_path / "a.zarr", noise_slide(300, 200))
    store = open_store(tmp_path / "a.zarr")
    assert (store.read((0, 0), store.size_px) == 255).all() and not store.tissue[0].any()
    assert not [name for name in files_of(tmp_path / "a.zarr") if "/c/" in name]


def test_viewers_can_read_it(tmp_path):
    write(
        tmp_path / "a.zarr", ArraySlide([np.full((1000, 1300, 3), 90, np.uint8)]), (0, 0, 320, 248)
    )
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")
    image, label = Image.from_zarr(group), ImageLabel.from_zarr(group["labels/tissue"])
    assert [axis.name for axis in image.ome_attributes.multiscales[0].axes] == ["c", "y", "x"]
    assert [axis.name for axis in label.ome_attributes.multiscales[0].axes] == ["y", "x"]
    shapes = [group[str(level)].shape for level in range(3)]
    assert shapes == [(3, 501, 650), (3, 126, 163), (3, 32, 41)]
    for level in range(3):
        assert (group[str(level)][:, :30, :30] == 90).all()


def test_every_level_shows_the_same_position(tmp_path):
    image = np.full((2048, 2048, 3), 250, np.uint8)
    image[320:448, 640:896] = 20  # y 160 to 224 um, x 320 to 448 um
    write(tmp_path / "a.zarr", ArraySlide([image]), (0, 0, 1024, 1024), slide_mpp=(0.5, 0.5))
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")
    for dataset in group.attrs["ome"]["multiscales"][0]["datasets"]:
        scale, shift = dataset["coordinateTransformations"]
        middle = np.argwhere(group[dataset["path"]][0] < 100).mean(0)
        # half a pixel of 0.5 um
        centre_um = middle * scale["scale"][1:] + shift["translation"][1:] + 0.25
        np.testing.assert_allclose(centre_um, [192, 384], atol=0.3)


@pytest.mark.parametrize("mpp", [0.5, 0.25, 0.3])
def test_the_label_is_the_mask_and_16_um(tmp_path, mpp):
    slide = ArraySlide([np.full((800, 800, 3), 90, np.uint8)])
    write(tmp_path / "a.zarr", slide, (64, 80, 96, 120), slide_mpp=(0.25, 0.25), mpp=mpp)
    tissue, tissue_px = open_store(tmp_path / "a.zarr").tissue
    cells = np.argwhere(tissue)
    found_um = np.array([cells.min(0), cells.max(0) + 1]) * tissue_px * mpp
    atol = 8.2 if mpp == 0.3 else 1e-9
    np.testing.assert_allclose(found_um, [[64, 48], [136, 112]], atol=atol)
    assert tissue_px == {0.5: 16, 0.25: 32, 0.3: 27}[mpp]


def test_shards_are_written_as_zarr_writes_them(tmp_path):
    """The files have the same bytes as those of zarr, which also leaves out white chunks."""
    slide = noise_slide(4500, 1300)
    slide.levels[0][:, 900:2600] = 255
    write(tmp_path / "a.zarr", slide, (0, 0, 2250, 650), slide_mpp=(0.5, 0.5), threads=2)
    before = files_of(tmp_path / "a.zarr")
    for level in range(3):
        array = zarr.open_array(str(tmp_path / f"a.zarr/{level}"), mode="r+")
        array[:] = array[:]
    assert files_of(tmp_path / "a.zarr") == before
    assert sum(name.startswith("0/c/") for name in before) == 2


def test_a_corrupt_region_costs_one_chunk_and_is_listed(tmp_path):
    slide = noise_slide(corrupt=[(1100, 100, 50, 50)])
    write(tmp_path / "a.zarr", slide, (0, 0, 725, 575), max_corrupt=0.5)
    store = open_store(tmp_path / "a.zarr")
    assert store.attributes["corrupt"] == [[512, 0, 512, 512]]
    assert store.attributes["corrupt_fraction"] == pytest.approx(
        512 * 512 / (1450 * 1152), rel=0.05
    )
    pixels = store.read((0, 0), (1450, 512))
    assert ((pixels == 255).all((0, 2)) == (np.arange(1450) // 512 == 1)).all()


def test_too_much_corruption_fails_the_slide_and_leaves_nothing(tmp_path):
    slide = noise_slide(corrupt=[(1100, 100, 50, 50)])
    with pytest.raises(SlideError, match="tissue cannot"):
        write(tmp_path / "a.zarr", slide, (0, 0, 725, 575), max_corrupt=0.01)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_store_is_reported(tmp_path):
    zarr.create_group(store=str(tmp_path / "other.zarr"), zarr_format=3)
    with pytest.raises(StoreError, match="complete store"):
        open_store(tmp_path / "other.zarr")


def test_a_damaged_chunk_is_reported(tmp_path):
    write(tmp_path / "a.zarr", noise_slide(600, 500), (0, 0, 100, 100))
    chunk = tmp_path / "a.zarr/0/c/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-40])
    with pytest.raises(StoreError, match="damaged"):
        open_store(tmp_path / "a.zarr").read((0, 0), (64, 64))


@pytest.mark.parametrize("content", [b"no Zstandard", Zstd().encode(np.ones(7, np.uint8))])
def test_a_damaged_label_of_tissue_is_reported(tmp_path, content):
    write(tmp_path / "a.zarr", noise_slide(600, 500), (0, 0, 100, 100))
    (tmp_path / "a.zarr/labels/tissue/0/c/0/0").write_bytes(content)
    store = open_store(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="`muse step tile` again"):
        store.tissue  # noqa: B018
    with pytest.raises(StoreError, match="its tissue is damaged"):
        store.in_tissue(np.array([[10.0, 10.0]]))


def test_a_lost_file_is_no_glass(tmp_path):
    """Chunks without a file are read as white, like most of a slide, so a lost file must be an
    error.
    """
    write(tmp_path / "a.zarr", noise_slide(600, 500), (0, 0, 100, 100))
    for name in ("0/c/0/0/0", "labels/tissue/0/c/0/0"):
        copy = shutil.copytree(tmp_path / "a.zarr", tmp_path / name.replace("/", "-"))
        (copy / name).unlink()
        with pytest.raises(
            StoreError,
            match=rf"1 of its 2 files are missing, .* {name}\); run `muse step tile` again",
        ):
            open_store(copy)


def test_a_damaged_store_of_ours_is_written_anew(tmp_path):
    slide = noise_slide(600, 500)
    write(tmp_path / "a.zarr", slide, (0, 0, 100, 100))
    (tmp_path / "a.zarr/zarr.json").write_text("{")
    write(tmp_path / "a.zarr", slide, (0, 0, 100, 100))
    assert open_store(tmp_path / "a.zarr").tissue[0].any()


def test_the_last_pixels_of_a_mask_cover_one_more():
    """Masks are made from levels truncated to whole pixels, so the slide and its nuclei may extend
    beyond the mask.
    """
    mask = np.zeros((40, 40), bool)
    mask[:, -1] = True
    tissue = TissueMask(mask, np.array([8.0, 8.0]), None, 0.1)
    label = tissue_on_lattice(tissue, 0.5, (656, 640))  # the label is 41 pixels wide
    assert label.shape == (40, 41) and label[:, 40].all()
    # as wide as one chunk
    for kept in (mask[:, :32], np.ones((40, 32), bool)):
        chunks = chunks_with_tissue(replace(tissue, mask=kept), 0.5, (520, 640), 0)
        assert (chunks[:, 1] == kept.any()).all()


def test_names():
    assert [store_name(mpp) for mpp in (0.5, 0.25, 0.1213)] == [
        "image-500nm.zarr",
        "image-250nm.zarr",
        "image-121nm.zarr",
    ]


def test_a_store_never_takes_the_position_of_something_else(tmp_path):
    slide = noise_slide(200, 200)
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides/a.svs").write_bytes(b"years of work")
    zarr.create_group(
        store=str(tmp_path / "another's.zarr"), zarr_format=3, attributes={"cells": 1}
    )
    before = files_of(tmp_path)
    for name in ("slides", "another's.zarr"):
        with pytest.raises(OutputError, match="did not create"):
            write(tmp_path / name, slide, (0, 0, 48, 48))
    assert files_of(tmp_path) == before
    write(tmp_path / "image-500nm.zarr", slide, (0, 0, 48, 48))
    before = files_of(tmp_path)
    write(tmp_path / "image-500nm.zarr", slide, (0, 0, 48, 48))
    assert files_of(tmp_path) == before
