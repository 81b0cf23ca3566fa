"""Show the settings of a proposer, which finds nuclei without labels.

Prints all its settings, with defaults for those that are not given. The workflow calls this before
it reads a slide, so that mistakes are found early.
"""

import argparse
from pathlib import Path

from muse_pipeline.cli.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument("method", help="name of a proposer")
    parser.add_argument(
        "--settings", default="{}", metavar="YAML", help="settings, such as '{min_distance_um: 4}'"
    )
    parser.add_path("--resolved", "JSON", "write the description as JSON")


def run(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from muse_pipeline.core.config import parse_yaml
    from muse_pipeline.core.files import write_json
    from muse_pipeline.proposals.base import parse_settings

    try:
        settings = asdict(parse_settings(args.method, parse_yaml(args.settings, "--settings")))
        settings = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in settings.items()
        }
        text = ", ".join(f"{name} {value}" for name, value in settings.items())
    except (
        ModuleNotFoundError
    ) as error:  # the jobs of a workflow may run in a different environment
        settings, text = None, f"not checked, as the package '{error.name}' is not installed here"
    if args.resolved:
        write_json(args.resolved, {"method": args.method, "settings": settings})
    print(f"{args.method}: {text}")
