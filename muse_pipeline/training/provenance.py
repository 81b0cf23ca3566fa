"""Where a run comes from: versions, revision, command, and checksums of its settings and labels."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from muse_pipeline import __version__
from muse_pipeline.core.environment import find_versions
from muse_pipeline.core.files import sha256_of
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.slides.signature import fingerprint_file
from muse_pipeline.training.inputs import source_files

PACKAGES = ("torch", "lightning-fabric", "numpy", "scipy", "opencv-python-headless", "onnx", "onnxruntime")


def describe_run(
    settings: dict[str, Any],
    sources: tuple[LabelSource, ...],
    checkpoint: Path | None = None,
    teachers: Sequence[Path] = (),
) -> dict[str, Any]:
    """Facts that hold on any machine: no host, no user, no folder outside the run.

    Args:
        settings: see ``run_folder.plain_settings``, portable.
        sources: of labels and pictures.
        checkpoint: that the run begins with.
        teachers: checkpoints that teach it.
    """
    return {
        "muse-pipeline": __version__,
        "revision": find_revision(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "packages": find_versions(PACKAGES),
        "command": ["muse", *(_name_of(word) for word in sys.argv[1:])],
        "config_sha256": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "labels": dict(item for number, source in enumerate(sources) for item in _checksums(number, source)),
        "checkpoint": fingerprint_file(checkpoint) if checkpoint and checkpoint.is_file() else None,
        "teachers": sorted(fingerprint_file(teacher) for teacher in teachers),  # their mean knows no order
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


def _checksums(number: int, source: LabelSource) -> Iterator[tuple[str, str]]:
    """(number of the source/setting/file, checksum) of every file; pictures, slides and proposals are large."""
    for setting, file in source_files(source):
        large = setting in {"images", "slides", "proposals"}
        checksum = fingerprint_file(file) if large else sha256_of(file)
        yield f"{number}/{setting}/{file.name}", checksum
