"""Label sources of a training config: their settings, and the labelled images that they yield."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from muse_pipeline.core.config import ParsedBy, parse_config
from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.labels.base_source import LabelSource, TargetModel
from muse_pipeline.labels.dataset_source import DatasetSource
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.labels.layouts import LAYOUTS
from muse_pipeline.labels.picture_source import PictureSource
from muse_pipeline.labels.slide_source import SlideSource

CONTEXT_PX = 1024  # side of the largest training window
KINDS = {"images": PictureSource, "slides": SlideSource}  # by the setting that only they have


def parse_source(values: Any, where: str) -> LabelSource:
    """Convert the settings of a label source to the class of its kind: pictures, slides, or an open
    dataset.
    """
    if not isinstance(values, dict):
        return parse_config(values, PictureSource, where)
    given = [name for name, value in values.items() if value is not None]
    kinds = [name for name in KINDS if name in given]
    is_dataset = values.get("format") in LAYOUTS.names()
    if len(kinds) != 1 and not is_dataset:
        datasets = ", ".join(LAYOUTS.names())
        raise ConfigError(
            f"{where}: give either `images` or `slides`, or the format of an open dataset"
            f" ({datasets})"
        )
    kind = DatasetSource if is_dataset else KINDS[kinds[0]]
    return parse_config({name: values[name] for name in given}, kind, where)


ParsedSource = Annotated[LabelSource, ParsedBy(parse_source)]


def read_labelled_images(
    sources: Sequence[LabelSource],
    classes: tuple[str, ...],
    mpp: float,
    n_rays: int,
    context_px: int = CONTEXT_PX,
) -> list[LabelledImage]:
    """Read every picture of every source, and every annotated region of every slide, at ``mpp``.

    Regions of slides are read with enough context for a training window of ``context_px``, and
    pictures are read whole.
    """
    model, images = TargetModel(classes, mpp, n_rays, context_px), []
    for source in sources:
        of_source = list(source.read(model))
        if not of_source:
            raise LabelError(
                f"{source.location}: yields no image; correct its path, `split` or `exclude`"
            )
        images += of_source
    return images


def require_words(sources: Sequence[LabelSource]) -> None:
    """Require that the files of all sources of a run exist, and that every word of ``exclude``
    occurs in a name.
    """
    for source in sources:
        source.choose()
    location_of = {word: source.location for source in sources for word in source.exclude}
    samples = [sample for source in sources if location_of for sample in source.list_all()]
    require_in_names(
        location_of, [name for sample in samples for name in (sample.name, sample.alias)]
    )


def require_in_names(location_of: Mapping[str, Path], names: Collection[str]) -> None:
    """Require that every word of ``exclude`` occurs in a name, because a misspelt word would
    exclude nothing.

    ``location_of`` maps each word to the location of the source that excludes it.
    """
    for word, location in location_of.items():
        if not any(word in name for name in names):
            raise LabelError(
                f"{location}: exclude: no picture or slide has '{word}' in its name; correct the"
                " word"
            )
