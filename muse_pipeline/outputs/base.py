"""The interface of an output, and the registry of all outputs.

A new output is one module next to the others, or belongs to a separate package with an entry point
in the group ``muse_pipeline.outputs``. Its settings become settings of a run: in a config, in
``config/README.md`` and on the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.registry import Registry
from muse_pipeline.core.setting import Setting

if TYPE_CHECKING:
    from muse_pipeline.inference.embed import Embedder

OUTPUTS: Registry[type[Output]] = Registry("output", "muse_pipeline.outputs")


@dataclass(frozen=True)
class FinishedSlide:
    """A slide with finished nuclei, from which outputs are written.

    Attributes:
        files: results of the slide.
        settings: settings of the run, keyed by name.
        patient: patient of the slide; None to derive it from the slide's name.
        embedder: network that computes a vector of features for every nucleus; None if no output
            needs it.
        threads: number of threads; it does not change results.
    """

    files: SlideFiles
    settings: Mapping[str, Any]
    patient: str | None = None
    embedder: Embedder | None = None
    threads: int = 1

    @cached_property
    def store(self) -> Path:
        """Path of the image in which the nuclei were found."""
        from muse_pipeline.nuclei.parquet import read_provenance

        return self.files.store(read_provenance(self.files.nuclei).model_mpp)

    @property
    def embeddings(self) -> Path | None:
        """Path of the nuclei's embeddings; None if the run writes none."""
        return self.files.embeddings(self.embedder.card.name) if self.embedder else None


class Output:
    """Files that a run writes for every slide from its nuclei.

    Attributes:
        name: name under which the output is registered.
        files: names of files in the slide's folder that exist once the output is written; folders
            end with "/".
        patterns: glob patterns of further files, which may be missing.
        switch: setting that requests the output; None if every run writes it.
        settings: other settings of the output.
        rank: position among the outputs, which are written in ascending order of their ranks.
        step: step whose ledger records the output, by default the output's name. Outputs of the
            step `stitch` are written with the table of nuclei.
        columns: columns of the sheet that the output depends on.
        requires: package that it needs in addition to those of every installation, and the extra of
            muse-pipeline that installs it; None if it needs none.
    """

    files: ClassVar[tuple[str, ...]] = ()
    patterns: ClassVar[tuple[str, ...]] = ()
    switch: ClassVar[Setting | None] = None
    settings: ClassVar[tuple[Setting, ...]] = ()
    rank: ClassVar[int] = 50
    step: ClassVar[str] = ""
    columns: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, str] | None] = None

    def __init__(self, name: str):
        self.name, self.step = name, self.step or name
        if self.switch:
            self.switch = replace(self.switch, job="nuclei")
        self.settings = tuple(replace(setting, job="nuclei") for setting in self.settings)

    def all_settings(self) -> tuple[Setting, ...]:
        """The switch and the other settings."""
        return (*([self.switch] if self.switch else []), *self.settings)

    def is_requested(self, settings: Mapping[str, Any]) -> bool:
        """True if a run with these settings writes the output."""
        return self.switch is None or bool(settings.get(self.switch.name, self.switch.default))

    def complete(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Changes to the settings of a run that requests the output, such as values that the output
        implies.

        Raises:
            ConfigError: the output cannot be written with these settings.
        """
        return {}

    def file_names(self, model: str) -> tuple[str, ...]:
        """Names of the files that a run with the model called ``model`` writes."""
        return self.files

    def removed_patterns(self) -> tuple[str, ...]:
        """Glob patterns of the files that are removed when the nuclei change."""
        return (*(name.rstrip("/") for name in self.files), *self.patterns)

    def write(self, slide: FinishedSlide) -> Sequence[str] | None:
        """Write the files, and return warnings about the slide, if there are any."""
        raise NotImplementedError


def list_outputs(settings: Mapping[str, Any] | None = None) -> list[Output]:
    """Outputs that ``settings`` request (all by default), in the order in which they are
    written.
    """
    outputs = sorted(map(_create, OUTPUTS.names()), key=lambda output: (output.rank, output.name))
    return [output for output in outputs if settings is None or output.is_requested(settings)]


@cache
def _create(name: str) -> Output:
    return OUTPUTS[name](name)


def file_patterns(outputs: Iterable[Output] | None = None) -> list[str]:
    """Glob patterns of the files of ``outputs`` (by default all) that are removed when the nuclei
    change.
    """
    return [
        pattern for output in outputs or list_outputs() for pattern in output.removed_patterns()
    ]
