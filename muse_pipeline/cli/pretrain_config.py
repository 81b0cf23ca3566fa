"""Write the config of a pretraining run on the slides of a cohort, for `muse pretrain`.

    muse pretrain-config config/train/muse_pretrain_slides.yaml --slides slides.tsv --results results -o run.yaml

Its sources are those of the given config, if it has any, and the sheet's slides: of each the store at the finest mpp of
the views, with its proposals. Slides whose `split` is "test" are held back. The workflow does this for its setting
`pretrain`.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse pretrain-config``."""
    parser.add_argument("config", type=Path, help="YAML, see config/train/; it need not have `sources`")
    parser.add_argument("--slides", type=Path, required=True, metavar="SHEET", help="the slides, TSV or CSV")
    parser.add_argument("--results", type=Path, required=True, metavar="FOLDER", help="folder with a folder per slide")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="YAML", help="config of the run")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="what the config's paths are relative to")
    parser.add_argument(
        "--exclude", nargs="+", default=[], metavar="WORD", help="leave out slides whose slide_id contains it"
    )
    parser.add_argument(
        "--held-splits",
        nargs="*",
        metavar="SPLIT",
        help="of the sheet's column, held back with their patients (default: test)",
    )
    parser.add_argument("--judged-by", type=Path, metavar="YAML", help="training config, whose validation is held back")
    parser.add_argument("--judged-data", type=Path, metavar="FOLDER", help="what its paths are relative to")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="change settings, as in schedule.steps=100"
    )
    parser.add_argument("--resolved", type=Path, metavar="JSON", help="also write what the workflow must know")


def run(args: argparse.Namespace) -> None:
    """Choose the slides, write one config."""
    import yaml

    from muse_pipeline.files import complete_file, write_json
    from muse_pipeline.slides.sheet import read_sheet
    from muse_pipeline.training.cohort_pretraining import (
        Cohort,
        files_of_pretraining,
        plan_cohort_run,
        settings_of,
    )

    held_splits = None if args.held_splits is None else tuple(args.held_splits)
    cohort = Cohort(read_sheet(args.slides), args.results, tuple(args.exclude), held_splits)
    judged_by = [(args.judged_by, args.judged_data)] if args.judged_by else []
    planned = plan_cohort_run(args.config, cohort, args.data, judged_by, args.set)
    config, read = planned.config, files_of_pretraining(planned.config)
    text = yaml.dump(
        settings_of(config), Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False, allow_unicode=True
    )
    if not args.output.is_file() or args.output.read_text(encoding="utf-8") != text:  # else it keeps its time
        with complete_file(args.output) as partial:
            partial.write_text(text, encoding="utf-8")
    if args.resolved:
        facts = {"name": config.name, "backbone": config.backbone, "mpp": config.views.mpp[0]}
        begins_with = str(config.checkpoint) if config.checkpoint else None
        write_json(
            args.resolved,
            {**facts, "checkpoint": begins_with, "slides": planned.slides, "inputs": [str(file) for file in read]},
        )
    n_others = len(config.sources) - len(planned.slides)
    others = f" and {n_others} source{'s' if n_others > 1 else ''} of its own" if n_others else ""
    print(f"{config.name}: {config.backbone} on {len(planned.slides)} of {len(cohort.rows)} slides{others}")
