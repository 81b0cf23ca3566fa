"""Write a synthetic slide with known nuclei: tissue islands, glands, stroma, a fold and a pen mark.

Writes demo.svs (an Aperio-like pyramid), truth.csv (every nucleus), and slides.tsv and config.yaml
for `snakemake --configfile OUT_DIR/config.yaml`. The same seed gives the same tissue at every mpp.
"""

import argparse

from muse_pipeline.cli.arguments import Parser, positive


def add_arguments(parser: Parser) -> None:
    parser.add_path("folder", "OUT_DIR", "output folder")
    parser.add_number("--area-mm2", float, "A", "area of the tissue", default=7.0)
    parser.add_number("--mpp", positive, "M", "um per level-0 pixel", default=0.25)
    parser.add_argument("--seed", type=int, default=0, help="seed of the tissue")
    parser.add_flag(
        "--partner", "also write ihc.svs: the same tissue with brown lymphocytes, rotated"
    )
    parser.add_threads("blocks painted at the same time")


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.demo.write import write_demo

    n_nuclei = write_demo(
        args.folder, args.area_mm2, args.mpp, args.seed, args.threads, partner=args.partner
    )
    print(
        "a fold, partly out of focus, and a pen mark are drawn on purpose, for the search for"
        " artefacts"
    )
    print(
        f"{args.folder / 'demo.svs'}: synthetic; its {n_nuclei:,} nuclei are in"
        f" {args.folder / 'truth.csv'}"
    )
