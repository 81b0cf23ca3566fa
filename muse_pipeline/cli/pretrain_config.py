"""Write the config for pretraining on the slides of a cohort with `muse pretrain`.

    muse step pretrain-config config/train/muse_pretrain.yaml --sheet slides.tsv --results \
        results -o run.yaml

Its sources are those of the given config, if it has any, and the sheet's slides: for each slide the
store at the finest mpp of the views, with the slide's proposals. Slides with the `split` "test" are
held back. The workflow does this for its setting `pretrain`.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "config", type=Path, help="config of the run (YAML), with or without `sources`"
    )
    parser.add_argument(
        "--sheet", "--slides", type=Path, required=True, metavar="TSV", help="sheet of the slides"
    )
    parser.add_path("--results", "FOLDER", "folder with a folder per slide", required=True)
    parser.add_output("YAML", "config of the run")
    parser.add_config("schedule.steps=100")
    parser.add_argument(
        "--exclude",
        nargs="+",
        action="extend",
        default=[],
        metavar="WORD",
        help="leave out slides whose slide_id contains this text",
    )
    parser.add_argument(
        "--held-splits",
        nargs="*",
        action="extend",
        metavar="SPLIT",
        help="values of the column `split` whose slides and patients are held back (default: test)",
    )
    parser.add_path(
        "--judged-by",
        ("YAML", "FOLDER"),
        "training config whose validation patients are held back too, and the folder for its"
        " relative paths",
        nargs="+",
        action="append",
        default=[],
    )
    parser.add_path("--resolved", "JSON", "also write the plan of the run as JSON")


def run(args: argparse.Namespace) -> None:
    import yaml

    from muse_pipeline.cohort.settings import write_if_changed
    from muse_pipeline.cohort.sheet import read_sheet
    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.core.files import write_json
    from muse_pipeline.methods.muse.cohort import Cohort, plan_cohort_run, settings_of

    if any(len(judge) > 2 for judge in args.judged_by):
        raise ConfigError(
            "--judged-by takes one config and one folder; repeat it for another config"
        )
    held_splits = None if args.held_splits is None else tuple(args.held_splits)
    cohort = Cohort(read_sheet(args.sheet), args.results, tuple(args.exclude), held_splits)
    planned = plan_cohort_run(args.config, cohort, args.data, args.judged_by, args.set)
    config, facts = (
        planned.config,
        planned.facts(),
    )  # may raise an error, so it precedes all writing
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(settings_of(config), Dumper=dumper, sort_keys=False, allow_unicode=True)
    write_if_changed(args.output, text)  # a file with the same content keeps its modification time
    if args.resolved:
        write_json(args.resolved, facts)
    n_others = len(config.sources) - len(planned.slides)
    others = f" and {n_others} source{'s' if n_others > 1 else ''} of its own" if n_others else ""
    held = f"; {len(planned.held)} held back" if planned.held else ""
    print(
        f"{config.name}: {facts['backbone']} on {len(planned.slides)} of {len(cohort.rows)}"
        f" slides{others}{held}"
    )
