"""The folder of a run: what lies where, and whether a second start means the same run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muse_pipeline.core.config import load_config
from muse_pipeline.core.errors import CheckpointError, OutputError
from muse_pipeline.core.files import complete_file, read_json, write_json
from muse_pipeline.core.text import some_of
from muse_pipeline.training.running import Running


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run.

    Attributes:
        path: of the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings; ``muse finetune`` reads them again."""
        return self.path / "config.yaml"

    @property
    def provenance(self) -> Path:
        """Versions, command and checksums, see ``provenance``."""
        return self.path / "provenance.json"

    @property
    def metrics(self) -> Path:
        """See ``metrics.MetricsLog``."""
        return self.path / "metrics.jsonl"

    @property
    def curves(self) -> Path:
        """The metrics drawn."""
        return self.path / "curves.png"

    @property
    def pictures(self) -> Path:
        """A few pieces of what was trained on, see ``kept_pictures``."""
        return self.path / "pictures"

    @property
    def resume(self) -> Path:
        """See ``resume``."""
        return self.path / "resume.pt"

    @property
    def best(self) -> Path:
        """The checkpoint of the best validation so far."""
        return self.path / "best.pt"

    @property
    def checkpoint(self) -> Path:
        """What leaves the run: the best of the validations, or the end of a run without any."""
        return self.path / "checkpoint.pt"

    def require_same_run(self, config: Any, provenance: dict[str, Any], free: tuple[str, ...]) -> None:
        """A run goes on under the settings and the labels that it began with; where data lie does not matter.

        Args:
            config: the dataclass of settings given now.
            provenance: as ``provenance.describe_run`` gives it now.
            free: settings that train nothing and may change, with all below them; ``a.b`` is setting b of a.

        Raises:
            CheckpointError: something else changed; it is named.
        """
        if not self.resume.is_file():
            return
        try:
            begun = plain_settings(load_config(self.config, type(config)), portable=True)
            said = read_json(self.provenance)
            labels, weights, teachers = said["labels"], said["checkpoint"], said.get("teachers", [])
        except (ValueError, OSError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.path}: holds a run whose settings cannot be read ({error}); choose another run folder"
            ) from error
        given = plain_settings(config, portable=True)
        bound = [name for name in _differences(begun, given) if name not in free and name.split(".")[0] not in free]
        changed = [f"setting '{name}'" for name in sorted(bound)]
        found = provenance["labels"]
        changed += [f"labels {name}" for name in sorted(labels.keys() | found) if labels.get(name) != found.get(name)]
        changed += ["weights of the checkpoint"] if weights != provenance["checkpoint"] else []
        changed += ["weights of the teachers"] if teachers != provenance["teachers"] else []
        if changed:
            raise CheckpointError(
                f"{self.path}: holds a run of another configuration ({some_of(changed)} changed); choose another run "
                "folder, delete it, or give --start-over"
            )

    def begin(self, config: Any, provenance: dict[str, Any], free: tuple[str, ...], running: Running) -> None:
        """Go on with the same run; give up another one where ``running.start_over`` says so, and say it.

        Raises:
            CheckpointError: see ``require_same_run``.
            OutputError: the folder holds files of somebody's own where the run's would be.
        """
        self.require_own()
        try:
            self.require_same_run(config, provenance, free)
        except CheckpointError:
            if not running.start_over:
                raise
            running.say(
                f"{self.path}: holds a run of another configuration, which is given up; training from the start"
            )
            self.forget()

    def require_own(self) -> None:
        """Spare a folder of pictures or a config that no run wrote, as where a user's own lie.

        Raises:
            OutputError: there is one where the run's would be.
        """
        theirs = [path.name for path in (self.config, self.pictures, self.checkpoint) if path.exists()]
        if theirs and not self.provenance.is_file():
            raise OutputError(
                f"{self.path}: holds {some_of(theirs)} of something else, which the run would write over; name another "
                "folder"
            )

    def forget(self) -> None:
        """Remove what a run would go on from."""
        for path in (self.resume, self.best):
            path.unlink(missing_ok=True)

    def describe(self, config: Any, provenance: dict[str, Any]) -> None:
        """Write the provenance, which says that this is a run's folder, and the resolved settings."""
        import yaml

        write_json(self.provenance, provenance)
        with complete_file(self.config) as partial:
            text = yaml.safe_dump(plain_settings(config), sort_keys=False, allow_unicode=True)
            partial.write_text(text, encoding="utf-8")


def _differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of the settings in which two mappings differ."""
    for name in one.keys() | other.keys():
        first, second = one.get(name), other.get(name)
        if isinstance(first, dict) and isinstance(second, dict):
            yield from _differences(first, second, f"{prefix}{name}.")
        elif first != second:
            yield prefix + name


def plain_settings(config: Any, portable: bool = False) -> dict[str, Any]:
    """A dataclass of settings as JSON has it; ``portable`` leaves the last name of each path, for other machines."""
    return json.loads(
        json.dumps(dataclasses.asdict(config), default=lambda value: value.name if portable else str(value))
    )
