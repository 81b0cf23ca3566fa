"""Score the detection, classes and outlines of nuclei against true nuclei, for one slide or a
cohort.

    muse evaluate results/a/nuclei.parquet --truth a.csv
    muse evaluate results --truth truths  truths/<slide>.csv, .tsv, .geojson, .png ...
    muse evaluate results --sheet slides.tsv  columns slide_id, truth; patient and region if known

The truth is a table of points (x, y in level-0 pixels, class), GeoJSON points or polygons, or an
instance mask of the whole slide. Nuclei are matched one to one within 3 um by descending score, as
in papers on point detection; counts are summed over slides. See docs/guide/evaluation.md.
"""

import argparse

from muse_pipeline.cli.arguments import Parser, at_least_one, fraction, positive, show_result
from muse_pipeline.core.errors import ConfigError, LabelError, NucleiError
from muse_pipeline.core.types import GEOJSON_FRAMES


def add_arguments(parser: Parser) -> None:
    parser.add_results(
        "nuclei", "RESULT", "nuclei.parquet, the folder of a slide, or that of all slides"
    )
    parser.add_path("--truth", "PATH", "true nuclei, or a folder of <slide>.<suffix>")
    parser.add_path("--sheet", "TSV", "table of slides: slide_id, patient, truth, region")
    parser.add_path(
        "--region", "PATH", "area with complete truth: GeoJSON, mask picture, or a folder"
    )
    parser.add_argument(
        "--patient", metavar="PATTERN", help="regular expression for the patient in a slide's name"
    )
    parser.add_argument(
        "--radius-um", type=positive, default=3.0, help="largest distance of a match"
    )
    parser.add_argument(
        "--score", type=fraction, help="lowest score of a nucleus (default: the model's threshold)"
    )
    parser.add_argument(
        "--class-map",
        nargs="+",
        metavar="WORD=CLASS",
        help=(
            "the model's class for each class of the truth, such as Tumour=Epithelial;"
            " Immune=Lymphocyte,Stroma if either is right; Debris=null if the class does not count"
        ),
    )
    parser.add_argument(
        "--frame",
        choices=GEOJSON_FRAMES,
        default=GEOJSON_FRAMES[0],
        help="origin of positions in GeoJSON: the corner of the scanner's bounds or of level 0",
    )
    parser.add_argument(
        "--repeats", type=at_least_one, default=1000, help="number of bootstrap samples"
    )
    parser.add_json("all scores and counts")


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.evaluation.score import Rules, score_slide
    from muse_pipeline.evaluation.summary import render_summary, summarise_scores
    from muse_pipeline.nuclei.class_names import resolve_all

    pairing = _pair(args)
    rules = Rules(args.radius_um, args.score, args.frame, _class_map(args.class_map))
    scores = resolve_all(pairing.pairs, lambda pair: score_slide(pair, rules))
    if not any(
        score.n_true or score.outside_region or len(score.outside_slide) for score in scores
    ):
        raise LabelError(
            f"{pairing.pairs[0].truth}: holds no nucleus, so nothing can be scored; export all"
            " objects, not only the annotated region, or give a different file"
        )
    if args.region and (
        whole := [score.pair.slide_id for score in scores if score.region_mm2 is None]
    ):
        raise LabelError(
            f"{args.region}: has no region of slide '{whole[0]}', nor does its truth; add a region"
            " with that name, or score fully annotated slides separately, without --region"
        )
    summary = summarise_scores(scores, pairing, rules, args.repeats)
    show_result(render_summary(summary), summary, args.json)


def _class_map(words: list[str] | None) -> dict[str, list[str] | None] | None:
    if words is None:
        return None
    pairs = [word.rpartition("=") for word in words]
    if wrong := [word for word, (name, _, _) in zip(words, pairs, strict=True) if not name]:
        raise ConfigError(f"--class-map {wrong[0]}: give WORD=CLASS, such as Tumour=Epithelial")
    return {
        name: None if classes in {"", "null"} else classes.split(",") for name, _, classes in pairs
    }


def _pair(args: argparse.Namespace):
    from muse_pipeline.cohort.layout import SlideFiles
    from muse_pipeline.evaluation.truth import pair_folder, pair_one
    from muse_pipeline.nuclei.parquet import read_provenance
    from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES

    if (table := SlideFiles(args.nuclei).nuclei).is_file():
        args.nuclei = table
    if args.nuclei.is_dir():
        if args.truth is None and args.sheet is None:
            raise ConfigError("give --truth FOLDER, or --sheet with a column 'truth'")
        return pair_folder(args.nuclei, args.truth, args.sheet, args.region, args.patient)
    if args.nuclei.name.lower().endswith(GEOJSON_SUFFIXES):
        raise NucleiError(
            f"{args.nuclei}: is GeoJSON, but results are scored from nuclei.parquet; give that"
            " file, which is in the slide's folder of results, or give the folder of all results"
        )
    for option in ("sheet", "patient"):
        if getattr(args, option) is not None:
            raise ConfigError(
                f"--{option} distinguishes slides of a folder, but {args.nuclei} is one table;"
                " leave it out"
            )
    if args.truth is None:
        raise ConfigError(f"give --truth FILE, the true nuclei of {args.nuclei}")
    return pair_one(args.nuclei, args.truth, read_provenance(args.nuclei).slide_id, args.region)
