"""``metrics.jsonl``, one line per logged step, and its picture."""

from __future__ import annotations

import json
from pathlib import Path

from muse_pipeline.core.errors import CheckpointError
from muse_pipeline.core.files import complete_file

Row = dict[str, float]


class MetricsLog:
    """Log of metrics; a run that goes on from a resume point first drops the rows that it will write again."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, step: int, values: Row) -> None:
        """Add the row of ``step``."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def read(self) -> list[Row]:
        """Read every complete row; a last line that was cut off by a kill is left out.

        Raises:
            CheckpointError: another line is not a row; the message has its number.
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


def draw_curves(rows: list[Row], output: Path) -> None:
    """Draw every column of ``rows`` over the steps at which it is given."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot, whose state is the whole process's

    names = list(dict.fromkeys(name for row in rows for name in row if name != "step"))
    n_columns = min(len(names), 5)
    n_rows = -(-len(names) // max(n_columns, 1))
    figure = Figure(figsize=(3 * max(n_columns, 1), 2.6 * max(n_rows, 1)))
    FigureCanvasAgg(figure)
    for index, name in enumerate(names, 1):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axis = figure.add_subplot(n_rows, n_columns, index)
        axis.plot(*zip(*points, strict=True), linewidth=0.8, marker="." if len(points) < 20 else None)
        axis.set(title=name.replace("_", " "), xlabel="step", ylim=(0, None))
    figure.subplots_adjust(left=0.05, right=0.98, bottom=0.2 / n_rows, top=1 - 0.12 / n_rows, wspace=0.3, hspace=0.6)
    with complete_file(output) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})
