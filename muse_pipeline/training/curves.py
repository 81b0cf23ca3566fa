"""The losses and scores of a run as a picture."""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.core.files import complete_file
from muse_pipeline.training.metrics import Row


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
