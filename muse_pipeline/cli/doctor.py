"""Show what is installed and usable here: readers, model runtime and its providers, GPU, training,
workflow, cores.
"""

from __future__ import annotations

from muse_pipeline.cli.arguments import show_result
from muse_pipeline.core.types import Written


def run(json: Written | None = None) -> None:
    """Print what was found.

    Args:
        json: the same as JSON, in FILE; without FILE, printed instead of the text
    """
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
    result = {"version": __version__, "findings": [asdict(finding) for finding in findings]}
    show_result(text, result, json)
