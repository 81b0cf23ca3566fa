"""A forked process becomes Snakemake. The module is imported in every such process, and so imports little."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path


def become_snakemake(arguments: list[str], folder: str, environment: dict[str, str], output: str) -> None:
    """Run Snakemake in this process as ``python -m snakemake`` would."""
    import preloaded_snakemake  # noqa: F401 - an error in it is raised here, and nowhere else
    from snakemake.cli import main

    with Path(output).open("wb") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["snakemake", *arguments]
    atexit._clear()  # what the process that was forked has registered
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out; the workflow prints its last lines there
