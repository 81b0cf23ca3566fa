"""Where a run comes from: versions, revision, command, and checksums of its settings and labels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from muse_pipeline import __version__
from muse_pipeline.surroundings import find_versions

PACKAGES = ("torch", "lightning-fabric", "numpy", "scipy", "opencv-python-headless", "onnx", "onnxruntime")


def describe_run(settings: dict[str, Any], sources: tuple[Any, ...]) -> dict[str, Any]:
    """Facts that hold on any machine: no host, no user, no folder outside the run.

    Args:
        settings: see ``run_folder.plain_settings``, portable.
        sources: of labels; every path of theirs that does not lead to pixels is read.
    """
    return {
        "muse-pipeline": __version__,
        "revision": find_revision(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "packages": find_versions(PACKAGES),
        "command": ["muse", *(_name_of(word) for word in sys.argv[1:])],
        "config_sha256": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "labels": dict(item for number, source in enumerate(sources) for item in _checksums(number, source)),
    }


def find_revision(folder: Path) -> str | None:
    """The git revision of a checkout, with "-dirty" where files differ from it; None where ``folder`` is none."""
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _name_of(word: str) -> str:
    return Path(word).name if Path(word).is_absolute() else word


def _checksums(number: int, source: Any) -> Iterator[tuple[str, str]]:
    """(number of the source/setting/file, SHA-256) of its label files."""
    for field in dataclasses.fields(source):
        path = getattr(source, field.name)
        if not isinstance(path, Path) or field.name in {"images", "slides"}:
            continue
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.is_file():
                yield f"{number}/{field.name}/{file.name}", hashlib.sha256(file.read_bytes()).hexdigest()
