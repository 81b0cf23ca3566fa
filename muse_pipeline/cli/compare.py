"""Compare two backbones on the same nuclei, before and after pretraining, as paired differences.

    muse compare config.yaml --before untrained --after runs/pretrained/checkpoint.pt -o compared
    muse compare config.yaml --before vit_s_16-224.pth --after runs/pretrained/checkpoint.pt --finetune -o compared
    muse compare tissue.yaml --before untrained --after runs/pretrained/checkpoint.pt -o compared

With the config of a training run, as for `muse probe`, classes are compared: the features are trained on its sources,
settings are chosen on its validation, and scores are reported for the sources of --test, or for each half of the
validation's patients with the settings chosen on the other half. With a config of tissue, as for pretraining, or with
--unlabelled, nuclei without labels are compared: how well they are recognised at another mpp, rotated or restained.
FOLDER gets compare.html, compare.json and pictures. See docs/guide/pretraining.md, "Did it help".
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import (
    add_compute_arguments,
    add_config_arguments,
    add_output_argument,
    add_probe_arguments,
    at_least_one,
    share_of_cores,
)
from muse_pipeline.cli.output import add_json_argument, show_result

UNTRAINED = Path("untrained")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse compare``."""
    parser.add_argument("config", type=Path, help="YAML of a training run, or of tissue without labels")
    for side in ("before", "after"):
        parser.add_argument(
            f"--{side}", type=Path, required=True, metavar="CHECKPOINT", help="ours or the authors', or 'untrained'"
        )
    add_output_argument(parser, "FOLDER", "what the page goes into")
    parser.add_argument("--backbone", help="registered name, for a random network or a checkpoint without one")
    parser.add_argument("--test", type=Path, metavar="YAML", help="a config whose sources are reported on")
    parser.add_argument(
        "--unlabelled", type=Path, metavar="YAML", help="tissue to compare on beside the config's labels"
    )
    add_probe_arguments(parser)
    parser.add_argument(
        "--draws", type=at_least_one, default=3, help="of patients, where few are learnt from (default: %(default)s)"
    )
    add_compute_arguments(parser)
    add_config_arguments(parser, "mpp=0.25")
    add_json_argument(parser, "all figures")


def run(args: argparse.Namespace) -> None:
    """Read the features of both backbones, train the classifiers, write the page, print."""
    import sys

    from muse_pipeline.methods.detector.config import require_known_names
    from muse_pipeline.methods.detector.run import load_detector_config
    from muse_pipeline.probing.compare import CompareSettings, Comparison, open_networks, render_comparison
    from muse_pipeline.probing.compare_tissue import is_tissue_config, load_tissue_config
    from muse_pipeline.report.compare_page import write_compare_page
    from muse_pipeline.training.run import Options

    labelled, unlabelled, test = None, args.unlabelled, ()
    if is_tissue_config(args.config):
        _reject_what_needs_labels(args)
        unlabelled = args.config
    else:
        labelled = load_detector_config(args.config, args.data, args.set)
        require_known_names(labelled)
        test = load_detector_config(args.test, args.data).sources if args.test else ()
    tissue = load_tissue_config(unlabelled, args.data) if unlabelled else None
    networks = open_networks(
        *(None if path == UNTRAINED else path for path in (args.before, args.after)),
        args.backbone,
        labelled and labelled.backbone,
        bool(labelled and labelled.trust_pickle),
    )
    settings = CompareSettings(
        window_px=args.window_px,
        finetune=args.finetune,
        finetune_rate=args.finetune_rate,
        shared_patients=args.allow_shared_patients,
        repeats=args.repeats,
        draws=args.draws,
    )

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr)

    options = Options(accelerator=args.accelerator, threads=share_of_cores(args.threads), say=say)
    result = Comparison(networks, settings, args.output, options).run(labelled, test, tissue)
    write_compare_page(result, args.output)
    show_result(render_comparison(result), result, args.json)


def _reject_what_needs_labels(args: argparse.Namespace) -> None:
    from muse_pipeline.core.errors import ConfigError

    given = {"--test": args.test, "--unlabelled": args.unlabelled, "--finetune": args.finetune, "--set": args.set}
    if needless := [name for name, value in given.items() if value]:
        raise ConfigError(
            f"{args.config}: names no `classes`, so nothing is compared with labels and {needless[0]} means nothing; "
            "leave it out, or give the config of a training run"
        )
