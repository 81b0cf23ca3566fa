"""Say what is installed and usable here: readers, model runtime and its providers, GPU, training, workflow, cores."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(args: argparse.Namespace) -> None:
    """Print every finding."""
    import json
    from dataclasses import asdict

    from muse_pipeline import __version__
    from muse_pipeline.inference.providers import examine_providers
    from muse_pipeline.surroundings import examine_surroundings

    findings = [*examine_surroundings(), *examine_providers()]
    if args.json:
        print(json.dumps({"version": __version__, "findings": [asdict(finding) for finding in findings]}, indent=1))
        return
    print(f"muse-pipeline {__version__}")
    for finding in findings:
        print(f"  {'ok' if finding.usable else '--'}  {finding.topic:18}{finding.found}")
