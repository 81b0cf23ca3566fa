"""A folder of masks: it is the same for the same seed, readable as labels, and can be fitted to
detected nuclei.
"""

import numpy as np
import pytest
from nuclei_example import CLASSES, drawn_provenance

from muse_pipeline.core.errors import LabelError, NucleiError
from muse_pipeline.core.files import read_json
from muse_pipeline.core.pictures import read_rgb, write_png
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.label_sources import read_labelled_images
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.methods.unit.synthesis_folder import (
    fit_tissue,
    read_mask_folder,
    summarise_masks,
    write_mask_folder,
)
from muse_pipeline.methods.unit.synthesis_masks import KINDS, TissueSettings, synthesise_mask
from muse_pipeline.nuclei.parquet import NucleiWriter
from muse_pipeline.nuclei.rays import rays_to_rings, rings_to_polygons
from muse_pipeline.nuclei.shape import measure_shapes
from muse_pipeline.nuclei.table import Nuclei

SMALL = ("--n", "7", "--seed", "5", "--mpp", "0.5", "--size-px", "96")


def test_the_bytes_depend_on_the_seed_and_not_on_threads(muse, tmp_path):
    folders = [tmp_path / name for name in ("one", "three", "other")]
    for folder, more in zip(folders, ((), ("--threads", "3"), ("--seed", "6")), strict=True):
        assert muse("synthesize", "masks", "-o", folder, *SMALL, *more)[0] == 0
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
        write_png(
            tmp_path / "pictures" / f"mask-{index:06}.png", np.full((96, 96, 3), 200, np.uint8)
        )
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


def test_the_record_has_settings_and_statistics(tmp_path):
    facts = write_mask_folder(tmp_path / "masks", 4, TissueSettings(), seed=1, mpp=0.5, size_px=128)
    found = read_json(tmp_path / "masks" / "masks.json")
    assert found["statistics"] == facts["statistics"]
    assert (found["seed"], found["mpp"], found["size_px"], found["n"]) == (1, 0.5, 128, 4)
    assert found["tissue"]["placement"] == "structured"


def test_an_earlier_set_is_replaced_and_another_folder_is_not(muse, tmp_path):
    folder = tmp_path / "masks"
    for n in (3, 2):
        assert muse("synthesize", "masks", "-o", folder, *SMALL[2:], "--n", n)[0] == 0
    assert len(list((folder / "instances").iterdir())) == 2
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("")
    status, _, errors = muse("synthesize", "masks", "-o", tmp_path / "own", *SMALL)
    assert status == 2 and "is a folder that this command did not create" in errors
    with pytest.raises(LabelError, match="contains no masks"):
        read_mask_folder(tmp_path / "own")


def write_nuclei(path, n, axes_um, side_px):
    """Write a table of ellipses with axes of about ``axes_um`` at random positions, at 0.5
    um/px.
    """
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * np.arange(32) / 32 - rng.uniform(0, np.pi, (n, 1))
    a, b = (axes_um / 2 * np.exp(rng.normal(0, 0.1, (n, 1)))).T[..., None]
    rays = a * b / np.hypot(b * np.cos(angle), a * np.sin(angle))
    nuclei = Nuclei(
        xy=rng.uniform(0, side_px, (n, 2)),
        frame=Frame.LEVEL0,
        rays=rays,
        label=np.zeros(n, int),
        score=np.ones(n),
        prob=np.full((n, 3), 1 / 3),
    )
    mpp = (0.5, 0.5)
    with NucleiWriter(path, CLASSES, drawn_provenance(slide_mpp=list(mpp)), 32) as writer:
        rings = rays_to_rings(nuclei.xy, nuclei.rays, mpp)
        writer.write(nuclei, rings_to_polygons(rings)[0], measure_shapes(rings, mpp))
    return path


def test_masks_are_fitted_to_the_nuclei_of_a_slide(muse, tmp_path):
    """The slide has 3,000 nuclei per mm2 with axes of 10 and 8 um: larger, rounder and fewer than
    by default.
    """
    table = write_nuclei(tmp_path / "nuclei.parquet", 3000, np.array([10.0, 8.0]), 2000)
    tissue, wanted, reached = fit_tissue([table], TissueSettings())
    found = summarise_masks(
        [synthesise_mask(index, 0, 256, 0.5, tissue) for index in range(40)], 0.25
    )
    assert tissue.stroma.major_um == pytest.approx(10, rel=0.03)
    assert wanted == pytest.approx(3000, rel=0.1) and reached == pytest.approx(wanted, rel=0.05)
    for kind in KINDS:
        assert found[kind]["ratio"][2] == pytest.approx(0.8, abs=0.06)
    status, output, _ = muse(
        "synthesize", "masks", "-o", tmp_path / "masks", *SMALL, "--fit", table
    )
    record = read_json(tmp_path / "masks" / "masks.json")
    assert status == 0 and f"(tissue: {wanted:,})" in output
    assert record["tissue"]["stroma"]["major_um"] == tissue.stroma.major_um
    assert record["fit"] == {
        "files": [str(table)],
        "wanted_per_mm2": wanted,
        "reached_per_mm2": reached,
    }


def test_too_few_nuclei_to_fit_to(tmp_path):
    table = write_nuclei(tmp_path / "nuclei.parquet", 20, np.array([10.0, 8.0]), 2000)
    with pytest.raises(NucleiError, match="20 nuclei have outlines"):
        fit_tissue([table], TissueSettings())
