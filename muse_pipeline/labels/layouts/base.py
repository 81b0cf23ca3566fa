"""Base of the layouts of open datasets.

A layout is one file in this folder: a class registered under the label format that it reads. Layouts are written from
the public documentation of the datasets (``docs/guide/open-data.md``) and tested on drawn files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from muse_pipeline.core.errors import LabelError
from muse_pipeline.labels.formats import Annotations, class_index
from muse_pipeline.labels.pictures import AnnotatedPicture
from muse_pipeline.labels.sources import LabelSource


@dataclass(frozen=True)
class Sample:
    """One picture of a dataset, not read yet.

    Attributes:
        name: begins with the fold, the split or the organ, by which ``exclude`` and ``split`` can choose.
        patient: whose it is; where a dataset does not state patients, the smallest group that it keeps apart.
        files: that hold the picture and its labels.
        index: of the picture in files that hold many.
    """

    name: str
    patient: str
    files: tuple[Path, ...]
    index: int = 0


class Layout(ABC):
    """Finds and reads the pictures of a dataset.

    Args:
        folder: of the dataset as it was unpacked, or a folder that holds it.
    """

    title: ClassVar[str]

    def __init__(self, folder: Path):
        self.folder = folder

    @abstractmethod
    def samples(self) -> list[Sample]:
        """Every picture, by path; no pixel is read.

        Raises:
            LabelError: the folder does not hold the dataset, or a file is missing.
        """

    @abstractmethod
    def read(self, sample: Sample, source: LabelSource, classes: tuple[str, ...], n_rays: int) -> AnnotatedPicture:
        """One picture with its nuclei (frame: window).

        Args:
            sample: one of ``samples``.
            source: gives the class map and the um per pixel.
            classes: of the model.
            n_rays: rays per nucleus.

        Raises:
            LabelError: a file is damaged or of another shape, a class is unknown, or there are no um per pixel.
        """

    def find(self, pattern: str) -> list[Path]:
        """The files that match ``pattern`` at any depth, by path.

        Raises:
            LabelError: there is none.
        """
        found = sorted(path for path in self.folder.rglob(pattern) if not path.name.startswith("."))
        if not found:
            raise LabelError(
                f"{self.folder}: holds no '{pattern}'; give the folder of the unpacked {self.title} dataset, laid out "
                "as in docs/guide/open-data.md"
            )
        return found

    def choose(self, candidates: Iterable[Path | None], missing: str) -> Path:
        """The first candidate that is a file; ``missing`` names what is missing if there is none.

        Raises:
            LabelError: there is none.
        """
        found = next((path for path in candidates if path is not None and path.is_file()), None)
        if found is None:
            raise LabelError(f"{self.folder}: has no {missing}; unpack all files of {self.title} there")
        return found


def name_nuclei(
    annotations: Annotations, words: Sequence[str], source: LabelSource, classes: tuple[str, ...]
) -> Annotations:
    """The same nuclei with the classes that ``words`` mean, one a nucleus.

    Raises:
        LabelError: a word is not in the class map, or means no class of the model.
    """
    labels = [class_index(word, source, classes, annotations.where(index)) for index, word in enumerate(words)]
    annotations.nuclei.label = np.array(labels, np.int32)
    return annotations
