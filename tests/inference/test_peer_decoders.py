"""Maps of third-party networks are decoded as the authors' own programs decode them; the files in
`peer_maps` have maps of drawn nuclei, and the nuclei that the authors' programs find in them
(`experiments/peer_decoders`).
"""

from pathlib import Path

import numpy as np
import pytest

from muse_pipeline.core.types import NucleusClass
from muse_pipeline.inference.card import ImportedCard
from muse_pipeline.inference.detect import detect_overlapping
from muse_pipeline.inference.families.instanseg import _join_similar, _paint
from muse_pipeline.inference.maps import nuclei_of_maps
from muse_pipeline.nuclei.masks import rings_to_labels
from muse_pipeline.nuclei.pairs import suppress_overlaps
from muse_pipeline.nuclei.rays import rays_to_rings
from muse_pipeline.tissue.stain import IDENTITY

DECODED = sorted(Path(__file__).with_name("peer_maps").glob("*.npz"))
WINDOW_PX, HALO_UM, BORDER_PX = 256, 12.0, 3


@pytest.mark.parametrize("path", DECODED, ids=lambda path: path.stem)
def test_the_same_nuclei_and_classes_as_the_authors_find(path):
    """The windows have seams within the picture, and at least a quarter of its nuclei touch another
    one; nuclei at the border of the picture are not compared.
    """
    reader, decoded = MapReader(path), np.load(path)
    (labels,), (types,) = decoded["labels"], decoded["types"]
    nuclei = detect_overlapping(reader, encode_positions(len(labels)), IDENTITY)
    mpp = reader.card.mpp
    rings = rays_to_rings(nuclei.xy, nuclei.rays, (mpp, mpp))
    iou, share = overlaps(rings, labels)
    frame = np.pad(
        np.zeros(np.subtract(labels.shape, 2 * BORDER_PX), bool),
        BORDER_PX,
        "constant",
        constant_values=True,
    )
    inner = np.setdiff1d(np.arange(1, labels.max() + 1), np.unique(labels[frame]))
    best = iou[:, inner].argmax(0)
    assert len(inner) >= 10 and iou[best, inner].min() >= 0.9
    assert (nuclei.label[best] + 1 == types[inner]).all()
    inside = share > 0.5
    assert inside[:, inner].sum(0).max() <= 1  # no nucleus is divided
    ranked = nuclei[np.argsort(-nuclei.score, kind="stable")]
    assert len(suppress_overlaps(ranked, mpp)) == len(ranked)  # none is found twice
    at_border = ((rings < BORDER_PX) | (rings > len(labels) - BORDER_PX)).any((1, 2))
    assert (inside[:, 1:].any(1) | at_border).all()  # none where the authors find none


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_pixel_that_two_seeds_claim_belongs_to_the_more_probable_one(order):
    prob = np.zeros((2, 4, 4))
    prob[0, :, :3], prob[1, :, 2:] = 0.9, 0.6
    pixels = tuple(np.indices((4, 4))[:, None].repeat(2, 1))
    labels, best = _paint(prob[order], pixels, (4, 4))
    assert (labels == np.add(order, 1)[[0, 0, 0, 1]]).all() and (best == [0.9, 0.9, 0.9, 0.6]).all()


@pytest.mark.parametrize("n_shared, n_nuclei", [(11, 1), (8, 2)])
def test_seeds_of_instanseg_are_joined_by_the_union_of_their_masks(n_shared, n_nuclei):
    """Two masks of 20 px: with 11 common px their IoU is 0.38, with 8 it is 0.25."""
    place = np.concatenate([np.arange(20), np.arange(20 - n_shared, 40 - n_shared)])
    nucleus = _join_similar(np.repeat([0, 1], 20), place, 2, 60)
    assert len(set(nucleus)) == n_nuclei


class MapReader:
    """Stands for a network: finds the position of a window in its pixels
    (``encode_positions``), and its maps there.
    """

    any_size = False

    def __init__(self, path):
        decoded, family = np.load(path), path.stem
        limits = {
            name.removeprefix("range of "): decoded[name] for name in decoded if "range" in name
        }
        self.maps = [restore(decoded[name][0], *of) for name, of in limits.items()]
        self.stride_px = len(decoded["labels"][0]) // self.maps[0].shape[1]
        mpp, n_classes = (0.5 if family == "instanseg" else 0.25), int(decoded["types"].max())
        self.card = ImportedCard(
            name=family,
            kind=family,
            maps=tuple(limits),
            scaling="none",
            mpp=mpp,
            input_px=WINDOW_PX,
            halo_px=round(HALO_UM / mpp),
            stride_px=self.stride_px,
            batch=1,
            capacity=WINDOW_PX**2 // 16,
            n_rays=32,
            readout="pixel",
            classes=tuple(NucleusClass(name, (0, 0, 0)) for name in "ABC"[:n_classes]),
            threshold=0.7 if family == "instanseg" else 0.5,
            classifier=tuple(
                tuple(decoded[name].tolist()) for name in sorted(decoded) if "classifier" in name
            ),
            licence="",
            training_data="",
        )

    def __call__(self, pixels, colour):
        every = slice(None, None, self.stride_px)
        low, other, high = np.moveaxis(pixels[:, every, every].astype(int), -1, 0)
        rows, columns = low + 256 * (high >> 4), other + 256 * (high & 15)
        at = rows // self.stride_px, columns // self.stride_px
        maps = [np.moveaxis(values[:, *at], 0, 1) for values in self.maps]
        return nuclei_of_maps(maps, self.card)


def restore(values, low, high):
    """The float32 map of one in 8 bits."""
    return values.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)


def encode_positions(side_px):
    """(h, w, 3) uint8: pixels that state their row and column."""
    rows, columns = np.mgrid[:side_px, :side_px]
    high = (rows >> 8) * 16 + (columns >> 8)
    return np.stack([rows & 255, columns & 255, high], -1).astype(np.uint8)


def overlaps(rings, labels):
    """(N, M + 1) IoU of outlines (N, R, 2) with each number of a label image, and the share of the
    outline in it; 0 for the background.
    """
    whole = np.bincount(labels.ravel())
    result = np.zeros((2, len(rings), len(whole)))
    for index, ring in enumerate(rings):
        own = rings_to_labels(ring[None], labels.shape) > 0
        shared = np.bincount(labels[own], minlength=len(whole))
        result[:, index] = shared / (own.sum() + whole - shared), shared / max(own.sum(), 1)
    result[..., 0] = 0
    return result
