"""Reliability as a picture: how often nuclei are of the class that they are given, over how sure the model was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from muse_pipeline.files import complete_file


def draw_reliability(panels: dict[str, dict[str, Any]], output: Path) -> None:
    """Draw a panel per entry of ``panels``, each as ``CalibrationCounts.describe`` gives it, as PNG.

    The area of a dot is its share of the nuclei; on the diagonal probabilities mean what they say.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot, whose state is the whole process's

    figure = Figure(figsize=(3.2 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (title, panel) in enumerate(panels.items(), 1):
        axis = figure.add_subplot(1, len(panels), index)
        bins = [one for one in panel["bins"] if one["n"]]
        x, y = ([one[name] for one in bins] for name in ("confidence", "accuracy"))
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
        axis.plot(x, y, color="tab:blue", linewidth=1)
        axis.scatter(x, y, [600 * one["n"] / panel["n"] for one in bins], color="tab:blue", alpha=0.5, linewidths=0)
        error = "-" if panel["error"] is None else f"{100 * panel['error']:.1f} %"
        axis.set(title=f"{title}\n{panel['n']:,} nuclei, error {error}", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.set(xlabel="probability given", ylabel="share right" if index == 1 else "")
    with complete_file(output) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})
