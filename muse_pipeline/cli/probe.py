"""Probe a backbone: how well its features tell classes at given points, by the MUSE authors' protocols.

    muse probe config.yaml --checkpoint vit_s_16-224.pth --backbone muse_vit_s_16_224
    muse probe config.yaml --checkpoint runs/mine/checkpoint.pt --finetune

The config is that of a training run: its sources are learnt from, its validation chooses k and epochs. What is reported
are the sources of --test; without it, each half of the validation's patients is reported with what the other chose. See
docs/guide/evaluation.md.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import (
    add_compute_arguments,
    add_config_arguments,
    at_least_one,
    positive,
    share_of_cores,
)
from muse_pipeline.cli.output import add_json_argument, show_result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse probe``."""
    parser.add_argument("config", type=Path, help="YAML, see config/train/")
    parser.add_argument("--test", type=Path, metavar="YAML", help="a config whose sources are reported on")
    parser.add_argument("--backbone", help="registered name, in place of the config's")
    parser.add_argument("--checkpoint", type=Path, help="ours or the authors', in place of the config's")
    parser.add_argument("--window-px", type=at_least_one, default=224, help="around points (default: %(default)s)")
    parser.add_argument("--finetune", action="store_true", help="also train the whole network, for ten epochs")
    parser.add_argument(
        "--finetune-rate",
        type=positive,
        default=1e-5,
        help="(default: %(default)g; for ResNet-50 the authors take 4e-5)",
    )
    parser.add_argument(
        "--allow-shared-patients", action="store_true", help="official splits may have patients on both sides: say so"
    )
    parser.add_argument(
        "--repeats", type=at_least_one, default=1000, help="draws of the bootstrap (default: %(default)s)"
    )
    add_compute_arguments(parser)
    add_config_arguments(parser, "mpp=0.25")
    add_json_argument(parser, "all accuracies")


def run(args: argparse.Namespace) -> None:
    """Read features, train what is trained on them, print."""
    import dataclasses
    import sys

    from muse_pipeline.methods.detector.config import require_known_names
    from muse_pipeline.methods.detector.run import load_detector_config
    from muse_pipeline.probing.probe import ProbeSettings, probe, render_probe
    from muse_pipeline.training.run import Options

    config = load_detector_config(args.config, args.data, args.set)
    given = {"backbone": args.backbone, "checkpoint": args.checkpoint}
    config = dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})
    require_known_names(config)
    test = load_detector_config(args.test, args.data).sources if args.test else ()
    settings = ProbeSettings(
        window_px=args.window_px,
        finetune=args.finetune,
        finetune_rate=args.finetune_rate,
        shared_patients=args.allow_shared_patients,
        repeats=args.repeats,
    )

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr)

    options = Options(accelerator=args.accelerator, threads=share_of_cores(args.threads), say=say)
    result = probe(config, test, settings, options)
    show_result(render_probe(result), result, args.json)
