"""Turn the points of a training config into instances, and write a config that trains on them.

Every point gets exactly one instance: its share of a foreground (`--mask`), else of a watershed on haematoxylin, else a
small disc; how many of each is said. Sources that are no points on pictures stay as they are.

    muse outline config/train/compact.yaml --data DATA -o outlined
    muse finetune outlined/config.yaml -o runs/outlined
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import add_output_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse outline``."""
    parser.add_argument("config", type=Path, help="training config (YAML) whose sources are points on pictures")
    add_output_argument(parser, "FOLDER", "folder of the result")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="what the config's paths are relative to")
    parser.add_argument(
        "--mask",
        default="watershed",
        help="foreground that points share: otsu, a built-in model (label_free) or an .onnx file; watershed needs none "
        "and was measured to be no worse (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Outline every source of points."""
    import dataclasses

    import yaml

    from muse_pipeline.errors import LabelError
    from muse_pipeline.files import complete_file
    from muse_pipeline.proposals.outlined_source import OutlineTask, is_outlined, outline_source
    from muse_pipeline.proposals.point_instances import mask_finder
    from muse_pipeline.training.finetune_config import load_finetune_config
    from muse_pipeline.training.run_folder import plain_settings

    config = load_finetune_config(args.config, args.data)
    if not any(map(is_outlined, config.sources)):
        raise LabelError(f"{args.config}: no source holds points on pictures; there is nothing to outline")
    task = OutlineTask(config.class_names, config.mpp, config.n_rays, mask_finder(args.mask))
    output, sources = args.output.resolve(), []
    with complete_file(output) as partial:
        for number, source in enumerate(config.sources):
            if not is_outlined(source):
                sources.append(source)
                continue
            name = f"source-{number}"
            outlined, kinds = outline_source(source, task, partial / name)
            sources.append(_moved(outlined, partial, output))
            counts = ", ".join(f"{n:,} by {kind}" for kind, n in kinds.items())
            print(f"{source.labels}: {sum(kinds.values()):,} points: {counts}")
        changed = dataclasses.replace(config, sources=tuple(sources))
        text = yaml.safe_dump(plain_settings(changed), sort_keys=False, allow_unicode=True)
        (partial / "config.yaml").write_text(text, encoding="utf-8")
    print(output / "config.yaml")


def _moved(source, here: Path, there: Path):
    """The source with its folders where they will lie."""
    import dataclasses

    names = ("labels", "images", "points")
    return dataclasses.replace(source, **{name: there / getattr(source, name).relative_to(here) for name in names})
