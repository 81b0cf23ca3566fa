"""A stage of PSM: its folder is whole or absent and says what it was made from; its training is watched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import complete_file, read_json, require_own_folder, write_json

STAGES = ("activation", "masks", "mask_network", "labels", "detector", "self_training")
MADE_FROM = "made-from.json"
Say, Progress = Callable[[str], None], Callable[[int, dict[str, float]], None]
Watch = Callable[[int], AbstractContextManager[tuple[Say, Progress]]]


@contextmanager
def unwatched(steps: int) -> Iterator[tuple[Say, Progress]]:
    """Nobody looks."""
    yield lambda sentence: None, lambda done, losses: None


def is_made(folder: Path, made_from: dict[str, Any], start_over: bool) -> bool:
    """Whether a stage is done.

    Args:
        folder: of the stage.
        made_from: all that decides what the stage gives.
        start_over: make it again where it was made from something else, in place of refusing.

    Raises:
        CheckpointError: it was made from something else; that is named.
        OutputError: it is a folder of somebody's own.
    """
    if not folder.is_dir():
        return False
    require_own_folder(folder, (folder / MADE_FROM).is_file())
    try:
        found = read_json(folder / MADE_FROM)
    except (OSError, ValueError):
        found = {}
    given = _plain(made_from)
    if found == given:
        return True
    if start_over:
        return False
    changed = sorted(name for name in found.keys() | given if found.get(name) != given.get(name))
    raise CheckpointError(
        f"{folder}: was made from something else ({', '.join(changed)} changed); choose another run folder, delete it, "
        "or give --start-over"
    )


@contextmanager
def stage_folder(folder: Path, made_from: dict[str, Any]) -> Iterator[Path]:
    """Give an empty folder to write the stage into; it gets its name when the block ends well."""
    with complete_file(folder) as partial:
        partial.mkdir()
        yield partial
        write_json(partial / MADE_FROM, _plain(made_from))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values))
