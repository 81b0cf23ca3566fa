"""Score the detection, classes and outlines of nuclei against true nuclei, for one slide or a
cohort.

    muse evaluate results/a/nuclei.parquet --truth a.csv
    muse evaluate results --truth truths  truths/<slide>.csv, .tsv, .geojson, .png ...
    muse evaluate results --sheet slides.tsv  columns slide_id, truth; patient and region if known

The truth is a table of points (x, y in level-0 pixels, class), GeoJSON points or polygons, or an
instance mask of the whole slide. Nuclei are matched one to one within 3 um by descending score, as
in papers on point detection; counts are summed over slides. See docs/guide/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from muse_pipeline.cli.arguments import show_result
from muse_pipeline.cli.signature import AtLeastOne, Fraction, Positive, Results
from muse_pipeline.core.errors import ConfigError, LabelError, NucleiError
from muse_pipeline.core.types import GEOJSON_FRAMES, Written

if TYPE_CHECKING:
    from muse_pipeline.evaluation.truth import Pairing


def run(
    nuclei: Results,
    truth: Path | None = None,
    sheet: Path | None = None,
    region: Path | None = None,
    patient: str | None = None,
    radius_um: Positive = 3.0,
    score: Fraction | None = None,
    class_map: Sequence[str] | None = None,
    frame: str = GEOJSON_FRAMES[0],
    repeats: AtLeastOne = 1000,
    json: Written | None = None,
) -> None:
    """Score the nuclei.

    Args:
        nuclei: nuclei.parquet, the folder of a slide, or that of all slides
        truth: true nuclei, or a folder of <slide>.<suffix>
        sheet: table of slides: slide_id, patient, truth, region
        region: area with complete truth: GeoJSON, mask picture, or a folder
        patient: regular expression for the patient in a slide's name
        radius_um: largest distance of a match
        score: lowest score of a nucleus (default: the model's threshold)
        class_map: the model's class for each class of the truth (WORD=CLASS), such as
            Tumour=Epithelial; Immune=Lymphocyte,Stroma if either is right; Debris=null if the class
            does not count
        frame: origin of positions in GeoJSON: the corner of the scanner's bounds or of level 0
        repeats: number of bootstrap samples
        json: all scores and counts as JSON, in FILE; without FILE, printed instead of the text
    """
    from muse_pipeline.evaluation.score import Rules, score_slide
    from muse_pipeline.evaluation.summary import render_summary, summarise_scores
    from muse_pipeline.nuclei.class_names import resolve_all

    pairing = _pair(nuclei, truth, sheet, region, patient)
    rules = Rules(radius_um, score, frame, _class_map(class_map))
    scores = resolve_all(pairing.pairs, lambda pair: score_slide(pair, rules))
    if not any(one.n_true or one.outside_region or len(one.outside_slide) for one in scores):
        raise LabelError(
            f"{pairing.pairs[0].truth}: holds no nucleus, so nothing can be scored; export all"
            " objects, not only the annotated region, or give a different file"
        )
    if region and (whole := [one.pair.slide_id for one in scores if one.region_mm2 is None]):
        raise LabelError(
            f"{region}: has no region of slide '{whole[0]}', nor does its truth; add a region"
            " with that name, or score fully annotated slides separately, without --region"
        )
    summary = summarise_scores(scores, pairing, rules, repeats)
    show_result(render_summary(summary), summary, json)


def _class_map(words: Sequence[str] | None) -> dict[str, list[str] | None] | None:
    if words is None:
        return None
    pairs = [word.rpartition("=") for word in words]
    if wrong := [word for word, (name, _, _) in zip(words, pairs, strict=True) if not name]:
        raise ConfigError(f"--class-map {wrong[0]}: give WORD=CLASS, such as Tumour=Epithelial")
    return {
        name: None if classes in {"", "null"} else classes.split(",") for name, _, classes in pairs
    }


def _pair(
    nuclei: Path, truth: Path | None, sheet: Path | None, region: Path | None, patient: str | None
) -> Pairing:
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.evaluation.truth import pair_folder, pair_one
    from muse_pipeline.nuclei.parquet import read_provenance
    from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES

    if (table := SlideFiles(nuclei).nuclei).is_file():
        nuclei = table
    if nuclei.is_dir():
        if truth is None and sheet is None:
            raise ConfigError("give --truth FOLDER, or --sheet with a column 'truth'")
        return pair_folder(nuclei, truth, sheet, region, patient)
    if nuclei.name.lower().endswith(GEOJSON_SUFFIXES):
        raise NucleiError(
            f"{nuclei}: is GeoJSON, but results are scored from nuclei.parquet; give that file,"
            " which is in the slide's folder of results, or give the folder of all results"
        )
    for option, value in (("sheet", sheet), ("patient", patient)):
        if value is not None:
            raise ConfigError(
                f"--{option} distinguishes slides of a folder, but {nuclei} is one table; leave it"
                " out"
            )
    if truth is None:
        raise ConfigError(f"give --truth FILE, the true nuclei of {nuclei}")
    return pair_one(nuclei, truth, read_provenance(nuclei).slide_id, region)
