"""A folder of masks: it is the same for the same seed, readable as labels, and can be fitted to
detected nuclei.
"""

import numpy as np
import pytest

from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.pictures import read_rgb, write_png
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.methods.unit.synthesis_folder import (
    read_mask_folder,
    write_mask_folder,
)
from muse_pipeline.methods.unit.synthesis_masks import KINDS, TissueSettings, synthesise_mask

SMALL = ["--n", "7", "--seed", "5", "--mpp", "0.5", "--size-px", "96"]


def test_the_bytes_depend_on_the_seed_and_not_on_threads(muse, tmp_path):
    folders = [tmp_path / name for name in ("one", "three", "other")]
    for folder, more in zip(folders, ((), ("--threads", "3"), ("--seed", "6")), strict=True):
        muse.ok(f"synthesize masks -o {folder}", *SMALL, *more)
    one, three, other = (
        {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.*"))}
        for folder in folders
    )
    assert one == three and one.keys() == other.keys() and one != other
    assert len(one) == 2 * 7 + 2
    assert read_rgb(folders[0] / "page.png").shape == (2 * 102 + 6, 6 * 102 + 6, 3)


def test_masks_are_read_back_and_are_a_source_of_labels(tmp_path):
    folder = tmp_path / "masks"
    write_mask_folder(folder, 3, TissueSettings(), seed=5, mpp=0.5, size_px=96)
    masks, mpp = read_mask_folder(folder)
    assert mpp == 0.5
    for index, mask in enumerate(masks):
        drawn = synthesise_mask(index, 5, 96, 0.5, TissueSettings())
        assert (mask.instances == drawn.instances).all() and (mask.kinds == drawn.kinds).all()
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        write_png(tmp_path / f"pictures/mask-{index:06}.png", np.full((96, 96, 3), 200, np.uint8))
    source = PictureSource(
        folder / "instances",
        "instances",
        images=tmp_path / "pictures",
        points=folder / "points",
        mpp=0.5,
    )
    images = read_labelled_images([source], KINDS, 0.5, 8)
    for image, mask in zip(images, masks, strict=True):
        assert len(image.nuclei) == len(mask.kinds)
        assert (
            image.nuclei.label == mask.kinds
        ).mean() > 0.95  # a few centroids are nearer to a neighbour's point


def test_an_earlier_set_is_replaced_and_another_folder_is_not(muse, tmp_path):
    folder = tmp_path / "masks"
    for n in (3, 2):
        muse.ok(f"synthesize masks -o {folder}", *SMALL[2:], "--n", n)
    assert len(list((folder / "instances").iterdir())) == 2
    (tmp_path / "own").mkdir()
    (tmp_path / "own/thesis.txt").write_text("")
    assert "is a folder that this command did not create" in muse.fails(
        f"synthesize masks -o {tmp_path / 'own'}", *SMALL
    )
    with pytest.raises(LabelError, match="contains no masks"):
        read_mask_folder(tmp_path / "own")
