"""True nuclei of a slide, as points with classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from muse_pipeline.errors import LabelError
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.types import Frame


def read_truth(path: Path, classes: list[str]) -> Nuclei:
    """Nuclei (frame: level0) of a CSV with columns x, y and class.

    Raises:
        LabelError: the file is missing, a column is missing, a position is no number or a class is not the model's.
    """
    try:
        table = pd.read_csv(path)
    except FileNotFoundError as error:
        raise LabelError(f"{path}: no such file; give a CSV with columns x, y, class") from error
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise LabelError(f"{path}: not readable as CSV ({reason}); give columns x, y, class") from error
    missing = {"x", "y", "class"} - set(table.columns)
    if missing:
        raise LabelError(f"{path}: lacks the columns {', '.join(sorted(missing))}; needed are x, y, class")
    unknown = sorted(set(table["class"].astype(str)) - set(classes))
    if unknown:
        raise LabelError(f"{path}: class '{unknown[0]}' is not one of the model's ({', '.join(classes)}); rename it")
    xy = table[["x", "y"]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isfinite(xy).all():
        raise LabelError(
            f"{path}, line {int((~np.isfinite(xy)).any(1).argmax()) + 2}: x or y is not a number; correct it"
        )
    return Nuclei(xy, Frame.LEVEL0, label=table["class"].map(classes.index).to_numpy(np.int32))
