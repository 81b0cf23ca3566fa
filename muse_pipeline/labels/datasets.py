"""Labelled pictures from open datasets, read by one layout per dataset.

Each layout is a class in a file of its own in ``labels.layouts``, registered under the label format that it reads.
Layouts follow the public documentation of the datasets (``docs/guide/open-data.md``) and are tested on synthetic files.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from muse_pipeline.core.errors import LabelError
from muse_pipeline.labels.formats import Annotations, class_index
from muse_pipeline.labels.layouts import LAYOUTS
from muse_pipeline.labels.pictures import AnnotatedPicture, LabelledImage, label_image
from muse_pipeline.labels.sources import LabelSource, read_split
from muse_pipeline.nuclei.class_names import resolve_all


@dataclass(frozen=True)
class Sample:
    """One picture of a dataset, before its pixels are read.

    Attributes:
        name: unique name, to which ``exclude`` and ``split`` refer; in most layouts it begins with the fold, split or
            organ.
        patient: patient of the picture; in a dataset that does not state patients, its fold, organ or own name.
        files: files that contain the picture and its labels.
        index: index of the picture in its files; 0 if they contain only this one.
    """

    name: str
    patient: str
    files: tuple[Path, ...]
    index: int = 0


class Layout(ABC):
    """Finds and reads the pictures of a dataset.

    Args:
        folder: folder of the unpacked dataset, or a folder that contains it.
    """

    title: ClassVar[str]

    def __init__(self, folder: Path):
        self.folder = folder

    @abstractmethod
    def samples(self) -> list[Sample]:
        """List every picture, sorted by path, without reading pixels.

        Raises:
            LabelError: the folder does not contain the dataset, or a file is missing.
        """

    @abstractmethod
    def read(self, sample: Sample, source: LabelSource, classes: tuple[str, ...], n_rays: int) -> AnnotatedPicture:
        """Read one picture with its nuclei (frame: window).

        Args:
            sample: picture listed by ``samples``.
            source: source with the class map and, if stated, the um per pixel.
            classes: names of the model's classes.
            n_rays: number of rays per nucleus.

        Raises:
            LabelError: a file is damaged or has an unexpected shape, a class is unknown, or the pixel size is unknown.
        """

    def find(self, pattern: str) -> list[Path]:
        """List the files that match ``pattern`` at any depth, sorted by path.

        Raises:
            LabelError: no file matches.
        """
        found = sorted(path for path in self.folder.rglob(pattern) if not path.name.startswith("."))
        if not found:
            raise LabelError(
                f"{self.folder}: contains no '{pattern}'; give the folder of the unpacked {self.title} dataset, laid "
                "out as in docs/guide/open-data.md"
            )
        return found

    def choose(self, candidates: Iterable[Path | None], missing: str) -> Path:
        """Return the first candidate that is a file; ``missing`` describes the file in the error message.

        Raises:
            LabelError: no candidate is a file.
        """
        found = next((path for path in candidates if path is not None and path.is_file()), None)
        if found is None:
            raise LabelError(f"{self.folder}: has no {missing}; unpack all files of {self.title} there")
        return found


def name_nuclei(
    annotations: Annotations, words: Sequence[str], source: LabelSource, classes: tuple[str, ...]
) -> Annotations:
    """Set the classes of the nuclei, in place, from one word per nucleus, and return the annotations.

    Raises:
        LabelError: as in ``class_index``.
    """
    labels = resolve_all(
        enumerate(words), lambda pair: class_index(pair[1], source, classes, annotations.where(pair[0]))
    )
    annotations.nuclei.label = np.array(labels, np.int32)
    return annotations


def read_dataset(source: LabelSource, classes: tuple[str, ...], mpp: float, n_rays: int) -> Iterator[LabelledImage]:
    """Yield the pictures that a source selects from its dataset, resampled to ``mpp``.

    Raises:
        LabelError: as in ``labels.read.read_labelled_images``.
    """
    layout = LAYOUTS[source.format](source.labels)
    for sample in choose_samples(source):
        picture = layout.read(sample, source, classes, n_rays)
        yield label_image(picture, sample.name, patient_of(sample, source), source, mpp, n_rays)


def patient_of(sample: Sample, source: LabelSource) -> str:
    """The patient of a picture: taken from its name if the source has a rule for that, or else from the dataset.

    Raises:
        LabelError: the name does not match the rule.
    """
    return sample.patient if source.patient is None else source.patient_of(sample.name)


def choose_samples(source: LabelSource) -> list[Sample]:
    """List the pictures of a dataset that are in the source's ``split`` but not in its ``exclude``.

    Raises:
        LabelError: the folder does not contain the dataset, or the split names a picture that is not in it.
    """
    samples = all_samples(source)
    if source.split is not None:
        by_name = {sample.name: sample for sample in samples}
        names = read_split(source)
        if missing := [name for name in names if name not in by_name]:
            raise LabelError(
                f"{source.split}: {len(missing)} of its pictures are not in {source.labels}, first {missing[0]}"
            )
        samples = [by_name[name] for name in names]
    return [sample for sample in samples if source.is_used(sample.name)]


def dataset_files(source: LabelSource) -> list[Path]:
    """List the files of the pictures that a source selects, sorted by path and without repetition.

    Raises:
        LabelError: as in ``choose_samples``.
    """
    return sorted({file for sample in choose_samples(source) for file in sample.files})


def all_samples(source: LabelSource) -> list[Sample]:
    """List every picture of the dataset, used or not.

    Raises:
        LabelError: the folder is missing, does not contain the dataset or contains two pictures of the same name.
    """
    source.require_labels()
    by_name: dict[str, Sample] = {}
    for sample in LAYOUTS[source.format](source.labels).samples():
        if sample.name in by_name:
            raise LabelError(
                f"{source.labels}: contains '{sample.name}' twice, in {by_name[sample.name].files[0]} and "
                f"{sample.files[0]}; remove one copy"
            )
        by_name[sample.name] = sample
    return [*by_name.values()]
