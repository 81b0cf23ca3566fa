"""``metrics.jsonl``: one line for every logged step and every validation, in the order of the steps."""

from __future__ import annotations

import json
from pathlib import Path

from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import complete_file

Row = dict[str, float]


class MetricsLog:
    """Appends rows; a run that goes on from a resume point first forgets what it will do again."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, step: int, values: Row) -> None:
        """Add the row of ``step``."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def read(self) -> list[Row]:
        """Every complete row; a last line that was cut off by a kill is none.

        Raises:
            CheckpointError: another line is no row; it is named.
        """
        if not self.path.is_file():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        return [self._parse(line, number) for number, line in enumerate(lines[:-1], 1)]

    def _parse(self, line: str, number: int) -> Row:
        try:
            row = json.loads(line)
            return {"step": int(row["step"]), **row}
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{self.path}, line {number}: damaged; delete that line, or the run folder to train from the start"
            ) from error

    def forget_from(self, step: int) -> None:
        """Drop the rows of ``step`` and later."""
        if self.path.is_file():
            kept = [row for row in self.read() if row["step"] < step]
            with complete_file(self.path) as partial:
                partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
