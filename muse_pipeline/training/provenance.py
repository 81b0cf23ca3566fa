"""Provenance of a run: versions, revision, command, and checksums of its settings and labels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muse_pipeline import __version__
from muse_pipeline.core.environment import find_versions
from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.inference.model import find_model, list_checkpoints
from muse_pipeline.labels.datasets import dataset_files
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.slides.signature import fingerprint_file
from muse_pipeline.training.checkpoint import load_checkpoint

PACKAGES = ("torch", "lightning-fabric", "numpy", "scipy", "opencv-python-headless", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Inputs:
    """Files that decide the result of a training.

    Attributes:
        sources: dataclasses of settings whose paths are files or folders: labels, pictures, tissue.
        checkpoint: checkpoint that the run begins with.
        teachers: checkpoints of the run's teachers.
        previous: checkpoint of the stage before; its weights count, not the settings of its card.
        checksums: checksums of everything else, by name.
    """

    sources: tuple[Any, ...] = ()
    checkpoint: Path | None = None
    teachers: tuple[Path, ...] = ()
    previous: Path | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)

    @property
    def checkpoints(self) -> list[Path]:
        """Checkpoints whose weights the run uses."""
        return [*([self.checkpoint] if self.checkpoint is not None else []), *self.teachers]

    def require_checkpoints(self) -> None:
        """Reject a missing file before anything is computed.

        Raises:
            CheckpointError: a file is missing; the message has its name.
        """
        for path in self.checkpoints:
            if not path.is_file():
                built_in = ", ".join(list_checkpoints())
                hint = f"correct `checkpoint` or `teachers` in the config (built in: {built_in})"
                raise CheckpointError(f"{path}: no such checkpoint; {hint}")

    def describe(self) -> dict[str, str]:
        """Checksums of the inputs by name; the names hold on any machine."""
        found = dict(item for number, source in enumerate(self.sources) for item in _checksums(number, source))
        if self.checkpoint is not None:
            found["weights of the checkpoint"] = fingerprint_file(self.checkpoint)
        if self.previous is not None:
            found["weights of the stage before"] = load_checkpoint(self.previous).weights_sha256()
        if self.teachers:  # their mean does not depend on their order
            found["weights of the teachers"] = " ".join(sorted(map(fingerprint_file, self.teachers)))
        return {**found, **self.checksums}


def describe_run(settings: dict[str, Any], inputs: Inputs) -> dict[str, Any]:
    """Facts that hold on any machine: no host, no user, no folder outside the run.

    Args:
        settings: portable settings from ``run.plain_settings``.
        inputs: inputs of the run.
    """
    return {
        "muse-pipeline": __version__,
        "revision": find_revision(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "packages": find_versions(PACKAGES),
        "command": ["muse", *(_name_of(word) for word in sys.argv[1:])],
        "config_sha256": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "inputs": inputs.describe(),
    }


def find_revision(folder: Path) -> str | None:
    """The git revision of a checkout, with "-dirty" where files differ from it; None if ``folder`` is not one."""
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
    """(name, checksum) of every file of a source; large files have a fingerprint, the others SHA-256."""
    for setting, file in source_files(source):
        large = setting in {"images", "slides", "proposals"} or is_dataset(source)
        checksum = fingerprint_file(file) if large else sha256_of(file)
        folder = getattr(source, setting)
        name = file.relative_to(folder).as_posix() if folder.is_dir() else file.name
        yield f"source {number}: {setting}/{name}", checksum


def source_files(source: Any) -> Iterator[tuple[str, Path]]:
    """(setting, file) for each file that a setting of the source names, or that lies in a folder that it names.

    Pictures that the source leaves out are not read.
    """
    for setting in (one.name for one in dataclasses.fields(source)):
        path = getattr(source, setting)
        if setting == "labels" and is_dataset(source):
            yield from ((setting, file) for file in dataset_files(source))
        elif setting == "detector":
            yield from [(setting, find_model(str(path)))] * (getattr(source, "format", "") == "areas")
        elif isinstance(path, Path):
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            unused = getattr(source, "exclude", ()) if setting == "images" else ()
            files = (file for file in inside if file.is_file())
            yield from ((setting, file) for file in files if not any(word in file.name for word in unused))


def is_dataset(source: Any) -> bool:
    """True if a source has labels in the layout of an open dataset."""
    return isinstance(source, LabelSource) and source.is_dataset
