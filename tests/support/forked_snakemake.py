"""Turn a forked process into Snakemake.

Every forked process imports this module, so its own imports are few.
"""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path


def become_snakemake(
    arguments: list[str], folder: str, environment: dict[str, str], output: str
) -> None:
    """Run Snakemake in this process as ``python -m snakemake`` would."""
    import preloaded_snakemake  # noqa: F401 - its import errors are only raised here
    from snakemake.cli import main

    with Path(output).open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["snakemake", *arguments]
    atexit._clear()  # drop what the parent process has registered
    try:
        main()
    finally:
        # skipped by multiprocessing, but one prints the workflow's last lines
        atexit._run_exitfuncs()
