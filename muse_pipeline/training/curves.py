"""The losses of a run as a picture."""

from __future__ import annotations

import json
from pathlib import Path

from muse_pipeline.files import complete_file


def draw_curves(metrics: Path, output: Path) -> None:
    """Draw every column of ``metrics.jsonl`` over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    names = [name for name in rows[0] if name != "step"]
    figure, axes = pyplot.subplots(1, len(names), figsize=(3 * len(names), 2.6), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=True):
        axis.plot([row["step"] for row in rows], [row[name] for row in rows], linewidth=0.8)
        axis.set(title=name.replace("_", " "), xlabel="step", ylim=(0, None))
    with complete_file(output) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)
