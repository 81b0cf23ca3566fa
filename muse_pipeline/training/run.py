"""The folder of a run, the options of its computation, and its provenance: versions, command,
checksums.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline import __version__
from muse_pipeline.core.config import parse_config, read_settings
from muse_pipeline.core.environment import find_versions
from muse_pipeline.core.errors import CheckpointError, OutputError
from muse_pipeline.core.files import complete_file, find_json, sha256_of, write_json, write_text
from muse_pipeline.core.pictures import write_png
from muse_pipeline.core.text import some_of
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.model import find_checkpoint, find_model, list_checkpoints
from muse_pipeline.labels.dataset_source import DatasetSource
from muse_pipeline.slides.signature import fingerprint_file
from muse_pipeline.training.checkpoint import load_checkpoint, steps_done

Log = Callable[[str], None]
Progress = Callable[[int, int, dict[str, float]], None]
PICTURE_PX = 1024
PACKAGES = (
    "torch",
    "lightning-fabric",
    "numpy",
    "scipy",
    "opencv-python-headless",
    "onnx",
    "onnxruntime",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run that are given on the command line, not in the config.

    Attributes:
        accelerator: one of ``core.types.ACCELERATORS``.
        threads: number of threads of each process on a CPU.
        devices: number of GPUs, or of processes on a CPU, of each node; each has its own batches.
        nodes: number of machines, each of which runs the same command.
        loaders: number of threads, or of processes for stages with ``on_cpu``, that prepare batches
            in advance; 0 to prepare each batch when it is needed; None to use ``threads`` of them
            with a GPU, and 0 without a GPU.
        compares_threads: True to use one thread instead of ``threads`` where a measurement shows
            that it is faster.
        start_over: True to train from the start, instead of raising an error, if the folder
            contains a run with different settings, data or weights.
        log: callback that receives each line for the user.
        progress: callback that receives (steps done, all steps, losses), in the first process at
            every logged step.
    """

    accelerator: str = "auto"
    threads: int = 1
    devices: int = 1
    nodes: int = 1
    loaders: int | None = None
    compares_threads: bool = False
    start_over: bool = False
    log: Log = lambda line: None
    progress: Progress = lambda done, steps, losses: None


class RunFolder:
    """The folder of one training."""

    def __init__(self, path: Path):
        self.path = path
        # the resolved settings, which the same command can read again
        self.config = path / "config.yaml"
        # versions, command and checksums (``describe_run``)
        self.provenance = path / "provenance.json"
        self.metrics = path / "metrics.jsonl"  # the log of metrics (``loop.MetricsLog``)
        self.curves = path / "curves.png"  # a plot of the metrics
        # crops of the training pictures, on which an export is checked
        self.pictures = path / "pictures"
        self.resume = path / "resume.pt"  # the resume point (``checkpoint.save_resume_point``)
        self.best = path / "best.pt"  # the checkpoint with the best validation score so far
        # the best validated weights or, without validation, the last
        self.checkpoint = path / "checkpoint.pt"
        self.scores = path / "scores.txt"  # the sentences that a finished run prints

    def begin(
        self, config: Any, provenance: dict[str, Any], free: tuple[str, ...], start_over: bool
    ) -> str:
        """Check that the folder is new or belongs to this run; return a message for the user, "" if
        there is none.

        The settings ``free`` may change; ``a.b`` is the setting ``b`` of ``a``. With
        ``start_over``, a run with a different configuration is discarded.
        """
        self.require_own()
        try:
            self._require_same_run(config, provenance, free)
        except CheckpointError:
            if not start_over:
                raise
            # The log of metrics is not deleted here; the loop drops its rows.
            for path in (self.resume, self.best, self.checkpoint):
                path.unlink(missing_ok=True)
            return (
                f"{self.path}: the run with a different configuration is discarded; training starts"
                " over"
            )
        return ""

    def is_finished(self, config: Any) -> bool:
        """True if the folder contains the checkpoint of a finished run with exactly these
        settings.
        """
        if not self.checkpoint.is_file() or steps_done(self.resume) != config.schedule.steps:
            return False
        return self._begun_settings(type(config)) == plain_settings(config, portable=True)

    def describe(self, config: Any, provenance: dict[str, Any]) -> None:
        """Write the resolved settings and ``provenance.json``, which marks the folder as that of a
        run.
        """
        import yaml

        write_json(self.provenance, provenance)
        text = yaml.safe_dump(plain_settings(config), sort_keys=False, allow_unicode=True)
        write_text(self.config, text)

    def require_own(self) -> None:
        """Reject a folder with files that no run wrote."""
        others = [
            path.name for path in (self.config, self.pictures, self.checkpoint) if path.exists()
        ]
        if others and not self.provenance.is_file():
            raise OutputError(
                f"{self.path}: contains {some_of(others)} that no run wrote and this one would"
                " replace; choose another folder"
            )

    def keep_pictures(self, pictures: Mapping[str, np.ndarray]) -> None:
        """Write crops (h, w, 3) uint8 of the training pictures by name, at most ``PICTURE_PX`` wide
        and high.
        """
        with complete_file(self.pictures) as partial:
            partial.mkdir()
            for name, pixels in pictures.items():
                write_png(partial / f"{name}.png", pixels[:PICTURE_PX, :PICTURE_PX])

    def _require_same_run(
        self, config: Any, provenance: dict[str, Any], free: tuple[str, ...]
    ) -> None:
        """Require the same settings and inputs to resume a run; the data may have moved."""
        if not self.resume.is_file():
            return
        begun = self._begun_settings(type(config))
        given = plain_settings(config, portable=True)
        fixed = [
            name
            for name in _differences(begun, given)
            if name not in free and name.split(".")[0] not in free
        ]
        changed = [f"setting '{name}'" for name in sorted(fixed)]
        before = (find_json(self.provenance) or {}).get("inputs", {})
        now = provenance["inputs"]
        changed += [
            name for name in sorted(before.keys() | now) if before.get(name) != now.get(name)
        ]
        if changed:
            raise CheckpointError(
                f"{self.path}: contains a run with a different configuration ({some_of(changed)}"
                " changed); choose another run folder, delete this one, or give --start-over"
            )

    def _begun_settings(self, kind: type) -> dict[str, Any]:
        try:
            return plain_settings(
                parse_config(read_settings(self.config), kind, str(self.config)), portable=True
            )
        except ValueError as error:
            raise CheckpointError(
                f"{self.path}: contains a run whose settings cannot be read ({error}); choose"
                " another run folder"
            ) from error


def _differences(begun: dict[str, Any], given: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the settings in which two mappings differ."""
    for name in begun.keys() | given.keys():
        first, second = begun.get(name), given.get(name)
        if isinstance(first, dict) and isinstance(second, dict):
            yield from _differences(first, second, f"{prefix}{name}.")
        elif first != second:
            yield prefix + name


def plain_settings(config: Any, portable: bool = False) -> dict[str, Any]:
    """A dataclass of settings as JSON values; ``portable`` keeps only the last part of each
    path.
    """
    return json.loads(
        json.dumps(
            dataclasses.asdict(config), default=lambda value: value.name if portable else str(value)
        )
    )


@dataclass(frozen=True)
class Inputs:
    """Files that determine the result of a training run."""

    # dataclasses of settings whose paths are files or folders: labels, pictures, tissue
    sources: tuple[Any, ...] = ()
    checkpoint: Path | None = None  # initial checkpoint of the run
    teachers: tuple[Path, ...] = ()  # checkpoints of the run's teachers
    # checkpoint of the previous stage; only its weights are compared, not its settings for the card
    previous: Path | None = None
    # checksums of all other inputs, by name
    checksums: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Any, **checksums: str) -> Inputs:
        """The sources and weights that settings name; ``checksums`` are those of other inputs."""
        sources = (*config.sources, *getattr(config, "validation", ()))
        start = getattr(config, "checkpoint", None)
        teachers = getattr(getattr(config, "distillation", None), "teachers", ())
        return cls(
            tuple(getattr(source, "labelled", None) or source for source in sources),
            start and find_checkpoint(start),
            tuple(map(find_checkpoint, teachers)),
            getattr(config, "previous", None),
            checksums,
        )

    @property
    def checkpoints(self) -> list[Path]:
        """The initial checkpoint and the checkpoints of the teachers."""
        return [*([self.checkpoint] if self.checkpoint is not None else []), *self.teachers]

    def require_checkpoints(self) -> None:
        """Require that all ``checkpoints`` exist, before anything is computed."""
        for path in self.checkpoints:
            if not path.is_file():
                built_in = ", ".join(list_checkpoints())
                hint = f"correct `checkpoint` or `teachers` in the config (built in: {built_in})"
                raise CheckpointError(f"{path}: no such checkpoint; {hint}")

    def files(self) -> list[Path]:
        """The checkpoints, which must exist, and the files of the sources."""
        self.require_checkpoints()
        files = {file for source in self.sources for _, file in source_files(source)}
        return [*self.checkpoints, *sorted(files)]

    def describe(self) -> dict[str, str]:
        """Checksums of the inputs by names that do not depend on the machine."""
        checksums = dict(
            item
            for number, source in enumerate(self.sources)
            for item in _checksums(number, source)
        )
        if self.checkpoint is not None:
            checksums["weights of the checkpoint"] = fingerprint_file(self.checkpoint)
        if self.previous is not None:
            checksums["weights of the stage before"] = load_checkpoint(
                self.previous
            ).weights_sha256()
        if self.teachers:  # sorted, as the mean of teachers does not depend on their order
            checksums["weights of the teachers"] = " ".join(
                sorted(map(fingerprint_file, self.teachers))
            )
        return {**checksums, **self.checksums}


def describe_backbone(
    config: Any, window_px: int, mpp: float, reference: ColourReference | None
) -> dict[str, Any]:
    """Entries in a checkpoint's meta about a backbone that was trained with ``config``."""
    return {
        "backbone": config.backbone,
        "window_px": window_px,
        "mpp": mpp,
        "resample_positions": False,  # positional embeddings are used as trained
        "config": plain_settings(config, portable=True),
        "colour": reference and dataclasses.asdict(reference),
    }


def describe_run(settings: dict[str, Any], inputs: Inputs) -> dict[str, Any]:
    """Provenance of a run with portable ``settings``, without names of hosts, users or folders
    outside the run.
    """
    return {
        "muse-pipeline": __version__,
        "revision": find_revision(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "packages": find_versions(PACKAGES),
        "command": [
            "muse",
            *(Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]),
        ],
        "config_sha256": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "inputs": inputs.describe(),
    }


def find_revision(folder: Path) -> str | None:
    """The git revision of a checkout, with "-dirty" if files differ from it; None if ``folder`` is
    not a checkout.
    """
    if not (folder / ".git").exists():
        return None
    # All tags are excluded, so that git prints the commit and not a version.
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _checksums(number: int, source: Any) -> Iterator[tuple[str, str]]:
    """Yield (name, checksum) of every file of a source: a fingerprint for large files, SHA-256 for
    others.
    """
    for setting, file in source_files(source):
        large = setting in {"folders", "images", "slides", "proposals"} or isinstance(
            source, DatasetSource
        )
        checksum = fingerprint_file(file) if large else sha256_of(file)
        folder = getattr(source, setting)
        name = file.relative_to(folder).as_posix() if folder.is_dir() else file.name
        yield f"source {number}: {setting}/{name}", checksum


def source_files(source: Any) -> Iterator[tuple[str, Path]]:
    """Yield (setting, file) for each file that a setting of the source names, directly or by its
    folder.

    Pictures that the source excludes are omitted.
    """
    for setting in [setting.name for setting in dataclasses.fields(source)]:
        path = getattr(source, setting)
        if setting == "labels" and isinstance(source, DatasetSource):
            yield from ((setting, file) for file in source.files())
        elif setting == "detector":
            yield from [(setting, find_model(str(path)))] * (
                getattr(source, "format", "") == "areas"
            )
        elif isinstance(path, Path):
            everything = path.rglob("*") if setting in {"folders", "masks"} else path.glob("*")
            inside = sorted(everything) if path.is_dir() else [path]
            unused = getattr(source, "exclude", ()) if setting == "images" else ()
            files = (file for file in inside if file.is_file())
            yield from (
                (setting, file) for file in files if not any(word in file.name for word in unused)
            )
