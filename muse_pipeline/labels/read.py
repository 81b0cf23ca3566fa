"""Read labelled pictures and slides at the model's mpp, from all sources of a training config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from muse_pipeline.core.errors import LabelError
from muse_pipeline.labels.areas import AreaLabeller
from muse_pipeline.labels.datasets import all_samples, choose_samples, patient_of, read_dataset
from muse_pipeline.labels.pictures import LabelledImage, read_pictures
from muse_pipeline.labels.slides import choose_slides, list_slides, read_slides
from muse_pipeline.labels.sources import LabelSource, all_pictures, image_paths, read_split, require_in_names

CONTEXT_PX = 1024  # side of the largest training window


def read_labelled_images(
    sources: Sequence[LabelSource], classes: tuple[str, ...], mpp: float, n_rays: int, context_px: int = CONTEXT_PX
) -> list[LabelledImage]:
    """Read every picture of every source, and every annotated region of every slide, at ``mpp``.

    Args:
        sources: sources in the config.
        classes: names of the model's classes.
        mpp: um per pixel of the model.
        n_rays: number of rays per nucleus.
        context_px: side of the largest training window; regions of slides are read with enough context for it, and
            pictures are read whole.

    Raises:
        LabelError: a file is missing, is broken or contains many duplicates, a class is unknown, a nucleus is outside
            its picture or region, or a picture or region has no nucleus; the message has the file and the line or
            feature.
        MuseError: a sheet, a slide or the detector of a source cannot be read.
    """
    images: list[LabelledImage] = []
    for source in sources:
        if source.is_dataset:
            of_source = list(read_dataset(source, classes, mpp, n_rays))
        elif source.format == "areas":
            of_source = list(AreaLabeller(source, classes, mpp, n_rays).read(context_px))
        elif source.images is not None:
            of_source = list(read_pictures(source, classes, mpp, n_rays))
        else:
            of_source = list(read_slides(source, classes, mpp, n_rays, context_px))
        if not of_source:
            settings = "`split`" if source.is_dataset else "`images`, `slides`, `split`"
            raise LabelError(f"{source.location}: yields no image; correct {settings} or `exclude`")
        images += of_source
    return images


def require_words(sources: Sequence[LabelSource]) -> None:
    """Require that every word of ``exclude`` occurs in the name of a picture or slide in at least one source.

    Args:
        sources: all sources of a run, including those for validation.

    Raises:
        LabelError: a word occurs in no name (the message has the first such word), or a folder or file is missing.
    """
    for source in sources:
        require_readable(source)
    location_of = {word: source.location for source in sources for word in source.exclude}
    require_in_names(location_of, [name for source in sources if location_of for name in _names_in(source)])


def require_readable(source: LabelSource) -> None:
    """Check that the folders, sheets and lists of a source exist, without reading pictures.

    Raises:
        LabelError: a folder or file is missing, or the split names a slide or dataset picture that does not exist.
        SheetError: the sheet of slides is missing or invalid.
    """
    source.require_labels()
    if source.is_dataset:
        choose_samples(source)
        return
    if source.images is None:
        choose_slides(list_slides(source), source)
        return
    all_pictures(source)
    if source.split is not None:
        read_split(source)


def patients_in(source: LabelSource) -> list[str]:
    """The patient of each selected picture or slide of a source, found without reading pixels.

    Raises:
        LabelError: as in ``require_readable``, or a name does not match the rule for patients.
        SheetError: the sheet of slides is missing or invalid.
    """
    if source.is_dataset:
        return [patient_of(sample, source) for sample in choose_samples(source)]
    if source.images is not None:
        return [source.patient_of(path.stem) for path in image_paths(source)]
    rows = choose_slides(list_slides(source), source)
    return [row.patient or source.patient_of(row.slide_id) for row in rows]


def _names_in(source: LabelSource) -> list[str]:
    if source.is_dataset:
        return [sample.name for sample in all_samples(source)]
    if source.images is not None:
        return [path.name for path in all_pictures(source)]
    return [name for row in list_slides(source) for name in (row.slide_id, Path(row.path).name)]
