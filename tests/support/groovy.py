"""Groovy for the tests of QuPath's scripts, where Groovy and Java are installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

JAVA = shutil.which("java")
WITH_GROOVY = pytest.mark.skipif(
    not (shutil.which("groovy") and JAVA),
    reason="install groovy and Java (Debian: apt install groovy) for this test",
)


def run_groovy(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `groovy` with environment variables; Debian's looks for Java in a folder that may not
    exist.
    """
    environment = {"JAVA_HOME": str(Path(JAVA).resolve().parent.parent)} | os.environ | variables
    return subprocess.run(
        ["groovy", *arguments], capture_output=True, text=True, check=False, env=environment
    )
