"""A training config on points becomes one on instances."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import yaml

from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.files import complete_file, require_own_folder
from muse_pipeline.labels.sources import LabelSource
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.proposals.outlined_source import OutlineTask, is_outlined, mask_finder, outline_source
from muse_pipeline.training.run import plain_settings


def outline_config(
    path: Path,
    folder: Path,
    mask: str,
    data: Path | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Path:
    """Write one instance for every point of a config's sources, and a config that trains on them.

    Args:
        path: of the config.
        folder: of the result; absent or whole, and not there yet.
        mask: what finds the foreground that points share, see ``point_instances.mask_finder``.
        data: where the config's paths start; its folder when not given.
        say: called with a sentence about every source.

    Returns:
        The file of the new config.

    Raises:
        ConfigError: the config is wrong.
        LabelError: no source consists of points on pictures; or see ``outlined_source.outline_source``.
        ModelError: see ``point_instances.mask_finder``.
        OutputError: the folder holds something, or cannot be written.
    """
    require_own_folder(folder)
    config = load_detector_config(path, data)
    if not any(map(is_outlined, config.sources)):
        raise LabelError(f"{path}: no source holds points on pictures; there is nothing to outline")
    task = OutlineTask(config.class_names, config.mpp, config.n_rays, mask_finder(mask))
    folder, sources = folder.resolve(), []
    with complete_file(folder) as partial:
        for number, source in enumerate(config.sources):
            if not is_outlined(source):
                sources.append(source)
                continue
            outlined, kinds = outline_source(source, task, partial / f"source-{number}")
            sources.append(_moved(outlined, partial, folder))
            counts = ", ".join(f"{n:,} by {kind}" for kind, n in kinds.items())
            say(f"{source.labels}: {sum(kinds.values()):,} points: {counts}")
        changed = dataclasses.replace(config, sources=tuple(sources))
        text = yaml.safe_dump(plain_settings(changed), sort_keys=False, allow_unicode=True)
        (partial / "config.yaml").write_text(text, encoding="utf-8")
    return folder / "config.yaml"


def _moved(source: LabelSource, here: Path, there: Path) -> LabelSource:
    """The source with its folders where they will lie."""
    names = ("labels", "images", "points")
    return dataclasses.replace(source, **{name: there / getattr(source, name).relative_to(here) for name in names})
