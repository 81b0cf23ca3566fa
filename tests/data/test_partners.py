"""Partners: what is drawn, what is covered, and the geometry that a pair shares."""

import numpy as np
import pytest
import torch
from paired import draw_paired_slide
from scipy import sparse

from muse_pipeline.core.errors import NucleiError
from muse_pipeline.data.augment import Augmentation
from muse_pipeline.data.nucleus_images import NucleusIndex, NucleusPicture
from muse_pipeline.data.pairs import PairBatches
from muse_pipeline.data.partners import (
    DrawnNuclei,
    PartnerPicture,
    PartnerStore,
    PicturePartner,
)
from muse_pipeline.data.spots import SpotVectors, read_spots
from muse_pipeline.data.views import View, ViewBatches, ViewSettings
from muse_pipeline.store.store import open_store

SIDE = 200


def make_picture(seed: int = 0) -> NucleusPicture:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(100, 250, (SIDE, SIDE, 3), np.uint8)
    index = NucleusIndex.build(generator.uniform(0, SIDE, (60, 2)), (SIDE, SIDE), 0.5)
    return NucleusPicture(f"P{seed}", f"P{seed}", 0.5, (SIDE, SIDE), None, 1.0, pixels, index)


def make_batches(images, partners, n_columns=0, **settings) -> PairBatches:
    still = Augmentation(stain_gain=0, stain_mix=0, shift=0, blur=0, noise=0)
    views = ViewBatches(
        images,
        np.tile(np.eye(3, 4), (len(images), 1, 1)),
        np.eye(3)[:2],
        settings=ViewSettings(**{"global_px": 48, "n_local": 0, "mpp": (0.5, 1.0), "min_matches": 1, **settings}),
        batch=8,
        augmentation=still,
        seed=3,
    )
    return PairBatches(views, images, partners, n_columns)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_positions_go_to_a_view_and_back(mirror, turns):
    view = View((30, 40), 96, 48, mirror, turns, 0.5)
    xy = np.random.default_rng(0).uniform(30, 126, (20, 2))
    np.testing.assert_allclose(view.source_xy(view.view_xy(xy)), xy)


def test_a_picture_has_the_geometry_of_the_first_view():
    """The partner is the H&E picture itself, so that both views must be equal pixel by pixel."""
    image = make_picture()
    batch = make_batches([image], [PartnerPicture(image.pixels)])(0)
    he = batch.views.global_views.pixels[:8]
    assert batch.partner.image_known.all() and torch.equal(batch.partner.image, he)
    assert not torch.equal(batch.partner.image, batch.views.global_views.pixels[8:])
    assert torch.equal(batch.partner.nuclei_known, batch.views.shared[0])


def test_a_number_gives_one_batch_and_images_may_have_no_partner():
    images = [make_picture(seed) for seed in range(3)]
    batches = make_batches(images, [PartnerPicture(images[0].pixels), None, None])
    one, again = batches(4), batches(4)
    assert torch.equal(one.partner.image, again.partner.image)
    assert 0 < one.partner.image_known.sum() < 8 and len(one.partner.image) == one.partner.image_known.sum()
    assert not one.partner.nuclei_known[~one.partner.image_known].any()


class LeftHalf(PicturePartner):
    def read(self, xy, size):
        return np.zeros((size[1], size[0], 3), np.uint8)

    def covers(self, xy):
        return xy[:, 0] < SIDE / 2


def test_views_beyond_the_partner_have_none():
    image = make_picture()
    batches = make_batches([image], [LeftHalf()])
    known = torch.cat([batches(number).partner.image_known for number in range(6)])
    assert 0 < known.sum() < len(known)
    for number in range(6):
        batch, sets = batches(number), batches.views.draw(number)[1]
        right = torch.tensor([one.views[0].corner[0] + one.views[0].side_px for one in sets])
        assert not batch.partner.image_known[right > 1.2 * SIDE / 2].any()


def test_vectors_are_those_at_the_same_nucleus():
    """The vector of a spot is its position, which must be the position of the nucleus in the image."""
    image = make_picture()
    positions = image.nuclei.xy.astype(float)
    left = positions[:, 0] < SIDE / 2
    partner = SpotVectors(positions[left], positions[left].astype(np.float32), ("x", "y"), 1.0)
    batches = make_batches([image], [partner], 2)
    batch, sets = batches(0), batches.views.draw(0)[1]
    assert batch.partner.nuclei_known.any() and not batch.partner.nuclei_known.all()
    for number, one in enumerate(sets):
        has = batch.partner.nuclei_known[number].numpy()
        xy = one.views[0].source_xy(batch.views.teacher_xy[0, number].numpy())
        np.testing.assert_allclose(batch.partner.nuclei[number].numpy()[has], xy[has], atol=1e-3)
        assert (has == (batch.views.shared[0, number].numpy() & (xy[:, 0] < SIDE / 2))).all()
    assert len(batch.partner.image) == batch.partner.image_known.sum() < 8


def test_nuclei_are_drawn_where_they_lie(tmp_path):
    xy, rays = np.array([[50.0, 60], [150, 60], [-5, 3]]), np.full((3, 16), 5.0)
    rays[1] = np.nan
    DrawnNuclei.save(tmp_path / "drawn", xy, rays, (SIDE, SIDE), 0.5)
    drawn = DrawnNuclei(tmp_path / "drawn", (SIDE, SIDE), 0.5)
    canvas = drawn.read((0, 0), (SIDE, SIDE))
    inside = (canvas != 255).any(2)
    rows, columns = np.nonzero(inside[:, :100])
    assert columns.mean() + 0.5 == pytest.approx(50, abs=0.3) and rows.mean() + 0.5 == pytest.approx(60, abs=0.3)
    assert inside[:, :100].sum() == pytest.approx(np.pi * 10**2, rel=0.15)
    assert inside[:, 100:].sum() == pytest.approx(np.pi * 6**2, rel=0.25)
    np.testing.assert_array_equal(drawn.read((40, 50), (30, 30)), canvas[50:80, 40:70])


def test_a_store_covers_its_tissue(tmp_path):
    draw_paired_slide(tmp_path / "S1")
    partner = PartnerStore(open_store(tmp_path / "S1" / "partner.zarr"))
    mask, side = partner.store.tissue
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    xy = (np.stack([columns, rows], -1).reshape(-1, 2) + 0.5) * side
    np.testing.assert_array_equal(partner.covers(xy), mask.ravel())
    assert not partner.covers(np.array([[-1.0, 5], [1e6, 5]])).any()


def test_a_table_is_read_by_columns(tmp_path):
    (tmp_path / "t.csv").write_text("b,x,y,a\n1,2,3,4\n5,6,7,8\n")
    xy, names, values = read_spots(tmp_path / "t.csv")
    assert names == ("b", "a") and xy.tolist() == [[2, 3], [6, 7]] and values.tolist() == [[1, 4], [5, 8]]
    assert read_spots(tmp_path / "t.csv", ["a"])[2].tolist() == [[4], [8]]
    with pytest.raises(NucleiError, match="not readable as CSV or Parquet"):
        read_spots(tmp_path / "none.csv")


def write_h5ad(path, xy, values, names, kind=""):
    """AnnData as its package writes it: ``X`` dense or sparse, names as an index of ``var``."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(path, "w") as file:
        file["obsm/spatial"] = xy
        file["var/gene_id"] = np.array(names, h5py.string_dtype())
        file["var"].attrs["_index"] = "gene_id"
        if not kind:
            file["X"] = values
            return
        matrix = {"csr_matrix": sparse.csr_matrix, "csc_matrix": sparse.csc_matrix}[kind](values)
        for name in ("data", "indices", "indptr"):
            file[f"X/{name}"] = getattr(matrix, name)
        file["X"].attrs.update({"encoding-type": kind, "shape": matrix.shape})


@pytest.mark.parametrize("kind", ["", "csr_matrix", "csc_matrix"])
def test_anndata_is_read_as_a_table_is(kind, tmp_path):
    values = np.array([[1, 0, 2], [0, 0, 3]], np.float32)
    write_h5ad(tmp_path / "a.h5ad", [[9.5, 8], [7, 6]], values, ["CD3", "KRT8", "ACTB"], kind)
    xy, names, read = read_spots(tmp_path / "a.h5ad")
    assert xy.tolist() == [[9.5, 8], [7, 6]] and names == ("CD3", "KRT8", "ACTB")
    np.testing.assert_array_equal(read, values)
    np.testing.assert_array_equal(read_spots(tmp_path / "a.h5ad", ["ACTB", "CD3"])[2], values[:, [2, 0]])
    with pytest.raises(NucleiError, match="has no column 'CD8'; it has CD3, KRT8, ACTB"):
        read_spots(tmp_path / "a.h5ad", ["CD8"])


def test_anndata_that_cannot_be_used_is_rejected(tmp_path):
    path = tmp_path / "a.h5ad"
    write_h5ad(path, [[1, 2], [3, 4]], np.array([[1.0], [np.nan]]), ["CD3"])
    with pytest.raises(NucleiError, match="1 of 2 values in column 'CD3' are missing or not finite"):
        read_spots(path)
    write_h5ad(path, [[1, 2]], np.ones((2, 1)), ["CD3"])
    with pytest.raises(NucleiError, match=r"has 1 positions and X is \(2, 1\)"):
        read_spots(path)
    path.write_bytes(b"no HDF5")
    with pytest.raises(NucleiError, match="not readable as AnnData with positions in obsm"):
        read_spots(path)
