"""Immunohistochemistry: brown nuclei are found as well as blue nuclei, and each is positive or
negative.
"""

import re

import cv2
import numpy as np
import pytest
import tifffile
from drawn_ihc import draw_ihc, store_ihc
from PIL import Image
from scipy.spatial import cKDTree

from muse_pipeline.core.files import read_tsv
from muse_pipeline.core.provenance import OTHER_STAIN, Verdict
from muse_pipeline.inference.detect import ModelFinder, detect_shard
from muse_pipeline.inference.doubts import BROWN_NUCLEI
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.inference.stains import (
    DARKEST,
    POSITIVE_OD,
    colour_of_fit,
    recolour_brown,
    split_stains,
)
from muse_pipeline.inference.stitch import stitch_shards
from muse_pipeline.nuclei.parquet import iterate_rows, read_nuclei, read_provenance
from muse_pipeline.tissue.stain import IDENTITY

IHC = Verdict(OTHER_STAIN, (BROWN_NUCLEI,))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return store_ihc(tmp_path_factory.mktemp("ihc"), (1200, 75))


@pytest.fixture(scope="module")
def predictor():
    return Predictor(find_model("compact"))


def find_nuclei(stored, predictor, folder, verdict):
    store, info, tissue, *_ = stored
    folder.mkdir()
    finder = ModelFinder(predictor, colour_of_fit(predictor.card.colour, None), verdict)
    detect_shard(store, finder, folder / "1-of-1.parquet")
    stitch_shards([folder / "1-of-1.parquet"], info, tissue.kept, folder / "nuclei.parquet")
    return folder / "nuclei.parquet"


def positive_of(table):
    return np.array(next(iterate_rows(table, 10**6, ["positive"]))["positive"].to_pylist())


def test_slides_of_haematoxylin_and_eosin_have_no_such_columns(stored, predictor, tmp_path):
    table = find_nuclei(stored, predictor, tmp_path / "a", Verdict("ok"))
    assert not {"dab_od", "positive"} & set(next(iterate_rows(table, 1)).column_names)
    assert not {"positive_od", "n_positive"} & read_provenance(table).to_dict().keys()
    assert read_nuclei(table).dab_od.shape == (len(read_nuclei(table)), 0)


def test_blue_nuclei_stay_as_they_are_found_without_brown(stored, predictor, tmp_path):
    *_, centres, brown = stored
    plain, ihc = (
        read_nuclei(find_nuclei(stored, predictor, tmp_path / v.verdict, v))
        for v in (Verdict("ok"), IHC)
    )
    is_blue = ~brown[cKDTree(centres).query(plain.xy)[1]]
    distance, same = cKDTree(ihc.xy).query(plain.xy[is_blue])
    assert distance.max() == 0 and np.array_equal(ihc.rays[same], plain.rays[is_blue])
    assert len(plain) < len(ihc) == len(centres)


def test_recoloured_pixels_are_not_normalised_to_the_model_s_stains_again(predictor):
    side_um = predictor.card.input_px * predictor.card.mpp
    pixels = draw_ihc(predictor.card.mpp, (side_um, side_um))[0][None].repeat(
        predictor.card.batch, 0
    )
    windows = [
        ModelFinder(predictor, colour, IHC)(pixels, None)[0]
        for colour in (IDENTITY, 0.5 * IDENTITY)
    ]
    plain, pale = (
        sorted(nuclei.xy[nuclei.dab_od[:, 0] >= POSITIVE_OD].tolist()) for nuclei in windows
    )
    assert plain == pale and len(plain) > 20


def test_outlines_do_not_grow_over_a_brown_membrane(predictor):
    """Every third nucleus has a brown ring of 1.5 um around it."""
    side_um = predictor.card.input_px * predictor.card.mpp
    pixels, centres, has_ring = draw_ihc(
        predictor.card.mpp, (side_um, side_um), 0.33, is_membrane=True
    )
    finder = ModelFinder(predictor, IDENTITY, IHC)
    nuclei = finder(pixels[None].repeat(predictor.card.batch, 0), None)[0]
    distance, nearest = cKDTree(centres).query(nuclei.xy)
    radius = nuclei.rays.mean(1)
    assert len(nuclei) > 0.9 * len(centres) and distance.max() < 4
    assert nuclei.dab_od.max() < POSITIVE_OD
    assert radius[has_ring[nearest]].mean() < 1.05 * radius[~has_ring[nearest]].mean()


def test_membranes_are_scored_and_nuclei_are_not_positive(muse, tmp_path):
    pixels, _, has_ring = draw_ihc(0.5, (400, 400), 0.33, is_membrane=True)
    Image.fromarray(pixels).save(tmp_path / "her2.png")
    run = f"run {tmp_path / 'her2.png'} --mpp 0.5 --no-viewer --stain".split()
    muse.ok(*run, "HER2", "--cells", "-o", tmp_path / "cells")
    row = scores_of(tmp_path / "cells")["her2"]
    assert float(row["percent_positive"]) < 1
    assert abs(float(row["membrane_percent_positive"]) - 100 * has_ring.mean()) < 5
    muse.ok(*run, "PD-L1", "-o", tmp_path / "nuclei")
    assert (
        "run with `cells: true` (--cells) to score them"
        in scores_of(tmp_path / "nuclei")["her2"]["warnings"]
    )


def test_brown_becomes_blue_and_nothing_else_changes():
    pixels, centres, brown = draw_ihc(0.5, (250, 250))
    recoloured = recolour_brown(pixels, split_stains(pixels))
    haematoxylin, dab = np.moveaxis(split_stains(recoloured), -1, 0)
    x, y = centres.astype(int).T
    assert dab[y, x].max() < 0.1 and np.allclose(haematoxylin[y, x][brown], DARKEST, atol=0.1)
    assert np.array_equal(recoloured[y, x][~brown], pixels[y, x][~brown])


@pytest.mark.parametrize(
    "model, options",
    [("compact", []), pytest.param("label_free", ["--no-quality"], marks=pytest.mark.slow)],
)
def test_a_real_ki67_slide(shared_data, muse, tmp_path, model, options):
    """By eye, a fifth of the nuclei of OS-2 are brown.

    Slides with this stain are not searched for artefacts.
    """
    slide = shared_data / "wsi-openslide-crops/OS-2-ndpi.ome.tif"
    muse.ok(f"run {slide} -o {tmp_path} --model {model}", *options)
    table = tmp_path / "OS-2-ndpi/nuclei.parquet"
    provenance, nuclei = read_provenance(table), read_nuclei(table)
    assert provenance.n_nuclei > 950
    (row,) = read_tsv(tmp_path / "cohort.tsv")
    assert (
        int(row["nuclei"]) == provenance.n_nuclei == int(row["n_positive"]) + int(row["n_negative"])
    )
    assert ("no artefacts were sought" in row["warnings"]) is (not options)
    assert 0.18 < provenance.n_positive / provenance.n_nuclei < 0.26
    # At the centres of positive nuclei, the median absorption of blue is larger than that of red.
    with tifffile.TiffFile(slide) as file:
        pixels = file.series[0].levels[0].asarray()
    x, y = nuclei.xy.astype(int).clip(0, np.array(pixels.shape[1::-1]) - 1).T
    red, _, blue = pixels[y, x].astype(int).T
    positive = positive_of(table)
    assert (np.median((blue - red)[~positive]) > 30) and (np.median((red - blue)[positive]) > 0)


def scores_of(results):
    return {row["slide_id"]: row for row in read_tsv(results / "cohort.tsv")}


def test_a_stated_stain_is_scored_with_few_or_no_positive_nuclei_too(muse, tmp_path):
    """Without the statement, a slide without brown nuclei is H&E, and one with 10 % is
    recognised.
    """
    for name, share in (("none", 0.0), ("tenth", 0.1)):
        pixels, *_ = draw_ihc(0.5, (260, 260), share, background=0.25)
        on_glass = np.pad(pixels, ((80, 80), (80, 80), (0, 0)), constant_values=245)
        cv2.imwrite(str(tmp_path / f"{name}.png"), on_glass[..., ::-1])
    pictures = [tmp_path / "none.png", tmp_path / "tenth.png"]
    status, shown, _ = muse(
        "run", *pictures, "--mpp", 0.5, "-o", tmp_path / "stated", "--stain", "Ki-67"
    )
    rows = scores_of(tmp_path / "stated")
    assert status == 0 and {row["stain"] for row in rows.values()} == {"IHC"}
    assert (rows["none"]["percent_positive"], rows["none"]["h_score"]) == ("0.0", "0.0")
    assert 5 < float(rows["tenth"]["percent_positive"]) < 15
    n = sum(int(row["nuclei"]) for row in rows.values())
    percent = 100 * sum(int(row["n_positive"]) for row in rows.values()) / n
    assert f"{percent:.1f} % positive among {n} nuclei of 2 slides of immunohistochemistry" in shown
    assert re.search(r"^none: \d+ nuclei, 0\.0 % positive, .* s \(1 of 2\)$", shown, re.M)
    assert "check the stain" not in shown and "organ" not in shown
    status, shown, _ = muse(
        "run", *pictures, "--mpp", 0.5, "-o", tmp_path / "unstated", "--organ", "mamma"
    )
    rows = scores_of(tmp_path / "unstated")
    assert (rows["none"]["stain"], rows["tenth"]["stain"]) == ("H&E", "IHC")
    assert status == 0 and "check stain (1 slide; state the stain):" in shown
    status, *_ = muse(f"run {pictures[1]} --mpp 0.5 -o {tmp_path / 'other'} --stain he")
    assert status == 0 and scores_of(tmp_path / "other")["tenth"]["stain"] == "H&E"


def test_dab_over_haematoxylin_is_scored(trials, muse, tmp_path):
    """Of 271 nuclei drawn, 75 % are positive, with an H-score of 149; outlines are wider than the
    nuclei.
    """
    slide = trials / "1-ihc-taken-for-he/dab.png"
    muse.ok(f"run {slide} --mpp 0.499 -o {tmp_path}")
    (row,) = scores_of(tmp_path).values()
    assert abs(int(row["nuclei"]) - 271) < 10 and row["stain"] == "IHC"
    assert float(row["percent_positive"]) == pytest.approx(75, abs=2)
    assert float(row["h_score"]) == pytest.approx(149, abs=15)


def test_a_part_of_a_ki67_slide_with_few_positive_nuclei(shared_data, muse, tmp_path):
    """Of the stained area of this part of OS-2, 0.15 % is brown."""
    with tifffile.TiffFile(shared_data / "wsi-openslide-crops/OS-2-ndpi.ome.tif") as file:
        pixels = file.series[0].levels[0].asarray()
    cv2.imwrite(str(tmp_path / "part.png"), pixels[:600, 1400:2000, ::-1])
    muse.ok(f"run {tmp_path / 'part.png'} --mpp 0.227 -o {tmp_path / 'out'}")
    (row,) = scores_of(tmp_path / "out").values()
    assert row["stain"] == "IHC" and 5 < float(row["percent_positive"]) < 20
