"""Describe a model: a built-in model by its name, an .onnx file, or a training run that makes a
model.

Prints the model's name, mpp and classes. `--resolved` writes what the workflow needs before it
starts: the model's file and checksum, or all files that the training run reads, and the provider,
for which `auto` is resolved here.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", help="built-in name, .onnx file or training config (YAML)")
    parser.add_provider()
    parser.add_flag("--here", "fail if the provider does not start on this machine")
    parser.add_config("schedule.steps=100")
    parser.add_path("--resolved", "JSON", "write the description as JSON")


def run(args: argparse.Namespace) -> None:
    from muse_pipeline.core.files import write_json
    from muse_pipeline.inference.model import choose_provider, describe_model, require_start

    provider = choose_provider(args.provider)
    if args.here:
        require_start(provider)
    if args.model.endswith((".yaml", ".yml")):
        from muse_pipeline.training.recipe import load_run

        recipe, config = load_run(Path(args.model), args.data, args.set, default="detector")
        facts = recipe.describe(config)
    else:
        facts = describe_model(args.model, provider)
    facts["provider"] = provider
    if args.resolved:
        write_json(args.resolved, facts)
    print(
        f"{facts.get('model', facts['name'])}: {facts['mpp']:g} um/px;"
        f" {', '.join(facts['classes'])}"
    )
