"""Show what is installed and usable here: readers, model runtime and its providers, GPU, training,
workflow, cores.
"""

import argparse

from muse_pipeline.cli.arguments import Parser, show_result


def add_arguments(parser: Parser) -> None:
    parser.add_json("the same")


def run(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from muse_pipeline import __version__
    from muse_pipeline.core.environment import examine_environment
    from muse_pipeline.inference.model import examine_providers

    findings = [*examine_environment(), *examine_providers()]
    width = max(len(finding.topic) for finding in findings) + 1
    lines = [
        f"  {'ok' if finding.usable else '--'}  {finding.topic:{width}}{finding.found}"
        for finding in findings
    ]
    text = "\n".join([f"muse-pipeline {__version__}", *lines])
    show_result(
        text,
        {"version": __version__, "findings": [asdict(finding) for finding in findings]},
        args.json,
    )
