"""Labelled pictures from open datasets, read by one layout per dataset.

Each layout is a class in a file of its own in ``labels.layouts``, registered under the label format
that it reads. Layouts follow the public documentation of the datasets (``docs/guide/open-data.md``)
and are tested on synthetic files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from muse_pipeline.core.errors import LabelError, MuseError
from muse_pipeline.core.text import one_line
from muse_pipeline.labels.base_source import (
    LabelledPicture,
    LabelSource,
    Sample,
    TargetModel,
    require_folder,
)
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.labels.layouts import LAYOUTS


class DatasetLayout(ABC):
    """Finds and reads the pictures of the unpacked dataset in, or below, the folder
    ``source.labels``.
    """

    title: ClassVar[str]

    def __init__(self, source: DatasetSource):
        self.source, self.folder = source, source.labels

    @abstractmethod
    def samples(self) -> list[Sample]:
        """List every picture, sorted by path, without reading pixels."""

    @abstractmethod
    def read(self, sample: Sample, n_rays: int) -> LabelledPicture:
        """Read one picture with its nuclei (frame: window), ``n_rays`` rays each, and the words for
        their classes.
        """

    def find(self, pattern: str) -> list[Path]:
        """The files that match a pattern at any depth, sorted; at least one must exist."""
        paths = sorted(path for path in self.folder.rglob(pattern) if not path.name.startswith("."))
        if not paths:
            raise LabelError(
                f"{self.folder}: contains no '{pattern}'; give the folder of the unpacked"
                f" {self.title} dataset, laid out as in docs/guide/open-data.md"
            )
        return paths

    def choose(self, candidates: Iterable[Path | None], missing: str) -> Path:
        """The first candidate that is a file; ``missing`` describes the file in the error
        message.
        """
        path = next((path for path in candidates if path is not None and path.is_file()), None)
        if path is None:
            raise LabelError(
                f"{self.folder}: has no {missing}; unpack all files of {self.title} there"
            )
        return path


@contextmanager
def as_published(path: Path) -> Iterator[None]:
    """Report any exception in the block as damage to ``path``: decoders may raise any exception on
    foreign bytes.
    """
    try:
        yield
    except MuseError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise LabelError(
            f"{path}: not the file as published ({reason}); download it again"
        ) from error


@dataclass(frozen=True, kw_only=True)
class DatasetSource(LabelSource):
    """Pictures of an open dataset, whose ``format`` is its name."""

    @property
    def location(self) -> Path:
        """Folder of the dataset."""
        return self.labels

    @property
    def layout(self) -> DatasetLayout:
        """The layout of the dataset."""
        return LAYOUTS[self.format](self)

    def list_all(self) -> list[Sample]:
        """List every picture of the dataset, used or not; no two may have the same name."""
        require_folder(self.labels, "labels")
        by_name = {}
        for sample in self.layout.samples():
            other = by_name.setdefault(sample.name, sample)
            if other is not sample:
                raise LabelError(
                    f"{self.labels}: contains '{sample.name}' twice, in {other.files[0]} and"
                    f" {sample.files[0]}; remove one copy"
                )
        return [*by_name.values()]

    def patient_of(self, sample: Sample) -> str:
        """The patient of a picture: that of the dataset, unless there is a rule for names."""
        return super().patient_of(sample if self.patient is None else replace(sample, patient=""))

    def files(self) -> list[Path]:
        """The files of the chosen pictures, sorted by path and without repetition."""
        return sorted({file for sample in self.choose() for file in sample.files})

    def read(self, model: TargetModel) -> Iterator[LabelledImage]:
        """Read the chosen pictures, resampled to the model's mpp."""
        layout = self.layout
        for sample in self.choose():
            picture = layout.read(sample, model.n_rays)
            labels = self.classify(picture.labels, model).within(
                picture.pixels.shape[1::-1], "the picture"
            )
            yield self.label_picture(sample, picture._replace(labels=labels), model)
