"""The files that a training run reads: when one changes, what was trained is out of date."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from muse_pipeline.data.label_source import LabelSource
from muse_pipeline.training.finetune_config import FinetuneConfig
from muse_pipeline.training.start import find_checkpoint


def files_read(config: FinetuneConfig) -> list[Path]:
    """The checkpoint that a run begins with, and every file of its label sources, pictures and sheets included.

    Files that a source names and that are not there are left out: reading the labels says so.
    """
    begins_with = [find_checkpoint(config.checkpoint)] if config.checkpoint else []
    files = {file for source in (*config.sources, *config.validation) for _, file in source_files(source)}
    return [*filter(Path.is_file, begins_with), *sorted(files)]


def source_files(source: LabelSource) -> Iterator[tuple[str, Path]]:
    """(setting, file) for each file that a setting of the source names, or that lies in a folder that it names."""
    for field in dataclasses.fields(source):
        path = getattr(source, field.name)
        if isinstance(path, Path):
            inside = sorted(path.iterdir()) if path.is_dir() else [path]
            yield from ((field.name, file) for file in inside if file.is_file())
