"""The interface of an output, and the outputs by name.

A new output is one module beside the others, or in a separate package with an entry point in the group
``muse_pipeline.outputs``. Its settings then are settings of a run: in a config, in ``config/README.md`` and on the
command line.
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

OUTPUTS: Registry[type[Output]] = Registry("output", "muse_pipeline.outputs", group="muse_pipeline.outputs")


@dataclass(frozen=True)
class FinishedSlide:
    """A slide with finished nuclei, as outputs read it.

    Attributes:
        files: results of the slide.
        settings: settings of the run, by name.
        patient: patient of the slide; None takes the one in the slide's name.
        embedder: network that gives every nucleus a vector of features; None if no output needs it.
        threads: number of threads; it changes no result.
    """

    files: SlideFiles
    settings: Mapping[str, Any]
    patient: str | None = None
    embedder: Embedder | None = None
    threads: int = 1

    @cached_property
    def store(self) -> Path:
        """The image in which the nuclei were found."""
        from muse_pipeline.nuclei.parquet import read_provenance

        return self.files.store(read_provenance(self.files.nuclei).model_mpp)

    @property
    def embeddings(self) -> Path | None:
        """The file of the nuclei's embeddings, if the run writes one."""
        return self.files.embeddings(self.embedder.card.name) if self.embedder else None


class Output:
    """Files that a run writes for every slide from its nuclei.

    Attributes:
        name: name by which the output is registered.
        files: names of the files in the folder of the slide, which are there when it is written; folders end with "/".
        patterns: patterns of further files.
        switch: setting that requests the output; None if every run writes it.
        settings: other settings of the output.
        also_reads: names of settings of other outputs that its files depend on.
        rank: position among the outputs; those with a smaller number are written first.
        step: step whose ledger records the output; its name by default.
        job: job of the workflow that writes it and reads its settings.
        by_stitch: True if it is written while the nuclei are joined, because a column of them depends on it.
        of_table: names of its settings that columns of the nuclei depend on.
        shows_proposals: True if it shows the nuclei that are found without labels too.
        features: set of features that it needs; "" if it needs none.
        needs_image: True if it needs the image of the slide after the run too.
        package: package that it needs besides the required ones; "" if it needs none.
        extra: extra of muse-pipeline that installs the package.
    """

    files: ClassVar[tuple[str, ...]] = ()
    patterns: ClassVar[tuple[str, ...]] = ()
    switch: ClassVar[Setting | None] = None
    settings: ClassVar[tuple[Setting, ...]] = ()
    also_reads: ClassVar[tuple[str, ...]] = ()
    rank: ClassVar[int] = 50
    step: ClassVar[str] = ""
    job: ClassVar[str] = "nuclei"
    by_stitch: ClassVar[bool] = False
    of_table: ClassVar[tuple[str, ...]] = ()
    shows_proposals: ClassVar[bool] = False
    features: ClassVar[str] = ""
    needs_image: ClassVar[bool] = False
    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    def __init__(self, name: str):
        self.name, self.step = name, self.step or name
        if self.switch:
            self.switch = replace(self.switch, job=self.job)
        self.settings = tuple(replace(each, job=self.job) for each in self.settings)

    def all_settings(self) -> tuple[Setting, ...]:
        """The switch and the other settings."""
        return (*([self.switch] if self.switch else []), *self.settings)

    def is_requested(self, settings: Mapping[str, Any]) -> bool:
        """True if a run with these settings writes the output."""
        return self.switch is None or bool(settings.get(self.switch.name, self.switch.default))

    def complete(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Settings that follow from those of a run that requests the output.

        Raises:
            ConfigError: the output cannot be written with these settings.
        """
        return {}

    def file_names(self, model: str) -> tuple[str, ...]:
        """Names of the files of a run with the model called ``model``."""
        return self.files

    def removed_patterns(self) -> tuple[str, ...]:
        """Patterns of the files that are removed when the nuclei change."""
        return (*(name.rstrip("/") for name in self.files), *self.patterns)

    def is_written(self, slide: FinishedSlide) -> bool:
        """True if the files exist; they are removed when the nuclei change."""
        return all((slide.files.folder / name).exists() for name in self.files)

    def write(self, slide: FinishedSlide) -> Sequence[str] | None:
        """Write the files; returns warnings about the slide, if there are any."""
        raise NotImplementedError


def list_outputs(settings: Mapping[str, Any] | None = None, job: str | None = None) -> list[Output]:
    """All outputs in the order in which they are written; those that ``settings`` request, those of one job."""
    outputs = sorted(map(_create, OUTPUTS.names()), key=lambda output: (output.rank, output.name))
    return [
        output
        for output in outputs
        if (settings is None or output.is_requested(settings)) and job in (None, output.job)
    ]


@cache
def _create(name: str) -> Output:
    return OUTPUTS[name](name)


def file_patterns(outputs: Iterable[Output] | None = None) -> list[str]:
    """Patterns of the files that are removed with the nuclei they were made from, of some outputs or of all."""
    return [pattern for output in outputs or list_outputs() for pattern in output.removed_patterns()]
