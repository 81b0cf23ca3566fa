"""Show the settings of a proposer, which finds nuclei without labels.

Prints all its settings, with defaults for those that are not given. The workflow calls this before
it reads a slide, so that mistakes are found early.
"""

from __future__ import annotations

from muse_pipeline.core.types import Written


def run(method: str, settings: str = "{}", resolved: Written | None = None) -> None:
    """Show the settings.

    Args:
        method: name of a proposer
        settings: settings as YAML, such as '{min_distance_um: 4}'
        resolved: write the description as JSON
    """
    from dataclasses import asdict
    from pathlib import Path

    from muse_pipeline.core.config import parse_yaml
    from muse_pipeline.core.files import write_json
    from muse_pipeline.proposals.base import parse_settings

    try:
        parsed = asdict(parse_settings(method, parse_yaml(settings, "--settings")))
        values = {
            name: str(value) if isinstance(value, Path) else value for name, value in parsed.items()
        }
        text = ", ".join(f"{name} {value}" for name, value in values.items())
    except ModuleNotFoundError as error:  # the jobs of a workflow may run elsewhere
        values = None
        text = f"not checked, as the package '{error.name}' is not installed here"
    if resolved:
        write_json(resolved, {"method": method, "settings": values})
    print(f"{method}: {text}")
