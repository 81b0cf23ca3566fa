"""The files that a training run reads: when one changes, what was trained is out of date."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.labels.slides import choose_slides, list_slides
from muse_pipeline.labels.sources import LabelSource, all_pictures, check_source, read_split
from muse_pipeline.training.finetune_config import FinetuneConfig
from muse_pipeline.training.start import find_teachers


def files_read(config: FinetuneConfig) -> list[Path]:
    """The checkpoints that a run begins with or learns from, and every file of its label sources, pictures included.

    Raises:
        CheckpointError: a checkpoint is not there.
        LabelError: the settings of a source do not go together, or one names a folder or a file that is not there.
        SheetError: a sheet of slides is wrong.
    """
    checkpoints = [find_checkpoint(config.checkpoint)] if config.checkpoint else []
    checkpoints += find_teachers(config)
    for path in checkpoints:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such checkpoint; correct `checkpoint` or `teachers` in the config")
    files = set()
    for source in (*config.sources, *config.validation):
        _require_there(source)
        files |= {file for _, file in source_files(source)}
    return [*checkpoints, *sorted(files)]


def _require_there(source: LabelSource) -> None:
    check_source(source)
    if source.images is None:
        choose_slides(list_slides(source), source)
        return
    all_pictures(source)
    if source.split is not None:
        read_split(source)


def source_files(source: LabelSource) -> Iterator[tuple[str, Path]]:
    """(setting, file) for each file that a setting of the source names, or that lies in a folder that it names.

    Pictures that the source leaves out are not read.
    """
    for field in dataclasses.fields(source):
        path = getattr(source, field.name)
        if isinstance(path, Path):
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            unused = getattr(source, "exclude", ()) if field.name == "images" else ()
            files = (file for file in inside if file.is_file())
            yield from ((field.name, file) for file in files if not any(word in file.name for word in unused))
