"""`muse step propose` on a synthetic slide: proposals lie on nuclei, and the number of
shards does not matter.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from muse_pipeline.cli.main import main
from muse_pipeline.core.errors import StoreError
from muse_pipeline.core.files import read_json
from muse_pipeline.evaluation.truth import read_truth
from muse_pipeline.inference.stitch import gather_shards
from muse_pipeline.nuclei.parquet import read_nuclei, read_provenance
from muse_pipeline.slides.inspect import read_info


def propose(slide: Path, output: Path, *arguments: str) -> int:
    about = f"--colour {slide / 'colour.json'} --info {slide / 'slide.json'}".split()
    return main(
        [
            "step",
            "propose",
            str(slide / "image-500nm.zarr"),
            *about,
            "--output",
            str(output),
            *arguments,
        ]
    )


def stitch(slide: Path, shards: list[Path], output: Path) -> Path:
    about = f"--info {slide / 'slide.json'} --tissue {slide / 'tissue.npz'}".split()
    assert main(["step", "stitch", *map(str, shards), *about, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def whole(coarse_slide, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert (
        propose(coarse_slide, folder / "1-of-1.parquet", "--ledger", str(folder / "propose.json"))
        == 0
    )
    return stitch(coarse_slide, [folder / "1-of-1.parquet"], folder / "proposals.parquet")


def test_any_number_of_shards_and_threads_gives_the_same_bytes(coarse_slide, whole, tmp_path):
    shards = [tmp_path / f"{i}-of-3.parquet" for i in range(1, 4)]
    for shard in shards:
        assert propose(coarse_slide, shard, "--shard", shard.stem, "--threads", "2") == 0
    assert (
        stitch(coarse_slide, shards, tmp_path / "proposals.parquet").read_bytes()
        == whole.read_bytes()
    )


def test_proposals_are_nuclei_of_one_class_with_their_provenance(coarse_slide, whole):
    nuclei, printed = read_nuclei(whole), read_provenance(whole)
    assert printed.n_by_class == {"Nucleus": len(nuclei)}
    assert nuclei.rays.shape == (len(nuclei), 32)
    assert (nuclei.rays > 0).all()
    assert ((nuclei.score > 0) & (nuclei.score <= 1)).all()
    assert printed.proposer["method"] == "haematoxylin"
    assert np.shape(printed.proposer["fitted"]["stains"]) == (2, 3)
    assert printed.warnings == ()


def test_most_drawn_nuclei_are_proposed(coarse_slide, whole):
    truth = read_truth(
        coarse_slide / "truth.csv", ["Lymphocyte", "Epithelial", "Stroma"], (0.25, 0.25)
    ).nuclei
    distance, _ = cKDTree(read_nuclei(whole).xy).query(truth.xy)
    assert (distance * 0.5 < 3).mean() > 0.6


def test_points_that_others_found_all_come_through_however_near(coarse_slide, tmp_path):
    """Duplicate outlines of a model are removed, but users' points are all kept, although their
    circles overlap.
    """
    x, y = np.meshgrid(
        np.arange(10) * 14.0, np.arange(10) * 14.0
    )  # 3.5 um apart, with circles of 4 um
    corner = read_truth(
        coarse_slide / "truth.csv", ["Lymphocyte", "Epithelial", "Stroma"], (0.25, 0.25)
    ).nuclei.xy[0]
    points = np.c_[x.ravel(), y.ravel()] + corner
    (tmp_path / "points.csv").write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in points))
    settings = f"{{file: {tmp_path / 'points.csv'}}}"
    shard = tmp_path / "1-of-1.parquet"
    assert propose(coarse_slide, shard, "--method", "imported", "--settings", settings) == 0
    assert len(read_nuclei(stitch(coarse_slide, [shard], tmp_path / "proposals.parquet"))) == len(
        points
    )


def test_a_shard_of_another_slide_sends_back_to_propose(coarse_slide, whole):
    info = replace(read_info(coarse_slide / "slide.json"), fingerprint="another")
    with pytest.raises(StoreError, match="run `muse step propose`"):
        gather_shards([whole.parent / "1-of-1.parquet"], info)


def test_the_ledger_states_that_nothing_was_sought_in_ink(whole):
    ledger = read_json(whole.parent / "propose.json")
    assert ledger["status"] == "ok"
    assert ledger["warnings"] == ["2 of 16 windows skipped (ink): nothing is proposed there"]
