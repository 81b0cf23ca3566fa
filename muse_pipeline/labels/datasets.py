"""Labelled pictures of open datasets, each read by its layout (``labels.layouts``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from muse_pipeline.core.errors import LabelError
from muse_pipeline.labels.layouts import LAYOUTS
from muse_pipeline.labels.layouts.base import Sample
from muse_pipeline.labels.pictures import LabelledImage, label_image
from muse_pipeline.labels.sources import LabelSource, check_source, read_split


def read_dataset(source: LabelSource, classes: tuple[str, ...], mpp: float, n_rays: int) -> Iterator[LabelledImage]:
    """The pictures that a source chooses from its dataset, one by one, resampled to ``mpp``.

    Raises:
        LabelError: as in ``labels.read.read_labelled_images``.
    """
    layout = LAYOUTS[source.format](source.labels)
    for sample in choose_samples(source):
        picture = layout.read(sample, source, classes, n_rays)
        yield label_image(picture, sample.name, patient_of(sample, source), source, mpp, n_rays)


def patient_of(sample: Sample, source: LabelSource) -> str:
    """The patient by the rule of the source, else by the dataset.

    Raises:
        LabelError: the rule does not suit the name.
    """
    return sample.patient if source.patient is None else source.patient_of(sample.name)


def choose_samples(source: LabelSource) -> list[Sample]:
    """The pictures left after ``split`` and ``exclude``.

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
    """The files of the pictures that the source chooses, each once, by path.

    Raises:
        LabelError: as in ``choose_samples``.
    """
    return sorted({file for sample in choose_samples(source) for file in sample.files})


def all_samples(source: LabelSource) -> list[Sample]:
    """Every picture of the dataset, used or not.

    Raises:
        LabelError: the folder does not contain the dataset or contains a picture twice, or the settings of the source
            are inconsistent.
    """
    check_source(source)
    by_name: dict[str, Sample] = {}
    for sample in LAYOUTS[source.format](source.labels).samples():
        if sample.name in by_name:
            raise LabelError(
                f"{source.labels}: holds '{sample.name}' twice, in {by_name[sample.name].files[0]} and "
                f"{sample.files[0]}; remove one copy"
            )
        by_name[sample.name] = sample
    return [*by_name.values()]
