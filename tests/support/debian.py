"""Packages of Debian for tests."""

from __future__ import annotations

import os
import shutil
import subprocess


def install(*packages: str) -> str:
    """Install packages if tests run as root; returns the reason why that failed, "" otherwise."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"as root: apt-get install {' '.join(packages)}"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in ("update", f"install -y --no-install-recommends {' '.join(packages)}"):
        command = ["apt-get", *words.split()]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if run.returncode:
            return f"apt-get {words}: {(run.stderr or run.stdout).strip()[-300:]}"
    return ""
