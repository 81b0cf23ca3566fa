"""Probe a backbone: how well its frozen features separate classes, at given points or of whole patches.

    muse probe config.yaml --checkpoint vit_s_16-224.pth --backbone muse_vit_s_16_224
    muse probe config.yaml --checkpoint runs/mine/checkpoint.pt --finetune
    muse probe NCT-CRC-HE-100K --test CRC-VAL-HE-7K --checkpoint runs/mine/checkpoint.pt --few 10 100

A config is that of a training run: the classifiers are trained on its sources, k and epochs are chosen on its
validation. Scores are reported for the sources of --test; without it, for each half of the validation's patients with
the values chosen on the other half.

A folder has a subfolder of patches per class, or all patches and --table; scores are reported for --test. See
docs/guide/evaluation.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muse_pipeline.cli.arguments import (
    add_compute_arguments,
    add_config_arguments,
    add_probe_arguments,
    at_least_one,
    share_of_cores,
)
from muse_pipeline.cli.output import add_json_argument, show_result

if TYPE_CHECKING:
    from muse_pipeline.training.run import Options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse probe``."""
    parser.add_argument("config", type=Path, metavar="CONFIG|FOLDER", help="YAML, see config/train/; or patches")
    parser.add_argument("--test", type=Path, metavar="PATH", help="what is reported on: a config, or patches")
    patches = parser.add_argument_group("of patches")
    patches.add_argument("--table", type=Path, metavar="TSV", help="columns image and label of the patches in FOLDER")
    patches.add_argument("--test-table", type=Path, metavar="TSV", help="likewise of those in --test")
    patches.add_argument(
        "--few", type=at_least_one, nargs="+", default=[], metavar="N", help="also with N labels per class"
    )
    patches.add_argument("--patient", metavar="RULE", help="regular expression that finds the patient in a file's name")
    parser.add_argument("--backbone", help="registered name, in place of the config's or the checkpoint's")
    parser.add_argument("--checkpoint", type=Path, help="ours or the authors', in place of the config's")
    add_probe_arguments(parser)
    add_compute_arguments(parser)
    add_config_arguments(parser, "mpp=0.25")
    add_json_argument(parser, "all accuracies")


def run(args: argparse.Namespace) -> None:
    """Read the features, train the classifiers, print."""
    import sys

    from muse_pipeline.training.run import Options

    def say(sentence: str) -> None:
        print(sentence, file=sys.stderr)

    options = Options(accelerator=args.accelerator, threads=share_of_cores(args.threads), say=say)
    text, result = probe_patches(args, options) if args.config.is_dir() else probe_points(args, options)
    show_result(text, result, args.json)


def probe_points(args: argparse.Namespace, options: Options) -> tuple[str, dict[str, Any]]:
    """Probe the classes at the points of a config."""
    import dataclasses

    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.methods.detector.config import require_known_names
    from muse_pipeline.methods.detector.run import load_detector_config
    from muse_pipeline.probing.probe import ProbeSettings, probe, render_probe

    if args.table or args.test_table or args.few or args.patient:
        raise ConfigError(f"{args.config}: --table, --test-table, --few and --patient need a folder of patches")
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
    result = probe(config, test, settings, options)
    return render_probe(result), result


def probe_patches(args: argparse.Namespace, options: Options) -> tuple[str, dict[str, Any]]:
    """Probe the classes of patches."""
    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.probing import patches
    from muse_pipeline.probing.network import backbone_name, open_network

    if args.test is None or args.finetune:
        raise ConfigError(
            f"{args.config}: patches are reported on others (--test FOLDER), by a frozen backbone (no --finetune)"
        )
    name = args.backbone or (backbone_name(args.checkpoint) if args.checkpoint else None)
    if name is None:
        raise ConfigError("the backbone is not known: give --checkpoint, or --backbone for random weights")
    settings = patches.PatchProbe(
        patches.PatchFolder(args.config, args.table, args.patient),
        patches.PatchFolder(args.test, args.test_table, args.patient),
        few=tuple(args.few),
        window_px=args.window_px,
        shared_patients=args.allow_shared_patients,
        repeats=args.repeats,
    )
    result = patches.probe_patches(open_network(name, args.checkpoint), settings, options)
    return patches.render_patches(result), result
