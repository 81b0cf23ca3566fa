"""What one label file says, whatever its format: nuclei, each with its place in the file, and regions."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import shapely

from muse_pipeline.data.label_source import LabelSource
from muse_pipeline.errors import LabelError
from muse_pipeline.nuclei.class_names import find_class
from muse_pipeline.nuclei.table import Nuclei


@dataclass(frozen=True, eq=False)
class Annotations:
    """The nuclei of one label file.

    Attributes:
        path: the file.
        nuclei: with rays (N, R) in um, NaN where only a point is known.
        places: (N,) int, the line, feature or instance that each nucleus is.
        unit: what is counted so: "line", "feature" or "instance".
        regions: (M,) shapely polygons that bound what was annotated, in the frame of the nuclei; none: all of it.
    """

    path: Path
    nuclei: Nuclei
    places: np.ndarray
    unit: str
    regions: np.ndarray

    def where(self, index: int) -> str:
        """The place of a nucleus, to begin a sentence with."""
        return f"{self.path}, {self.unit} {self.places[index]}"

    def require_within(self, size_px: tuple[int, int], what: str) -> None:
        """Refuse nuclei outside a picture or slide of ``size_px`` = (width, height).

        Raises:
            LabelError: there is one; its place is named.
        """
        outside = np.flatnonzero(((self.nuclei.xy < 0) | (self.nuclei.xy > size_px)).any(1))
        if len(outside):
            x, y = self.nuclei.xy[outside[0]]
            raise LabelError(
                f"{self.where(outside[0])}: ({x:g}, {y:g}) lies outside {what} of {size_px[0]} x {size_px[1]} px"
                f"{_others(outside)}; correct it, or the order of coordinates in `format`"
            )

    def require_regions(self, source: LabelSource, what: str) -> None:
        """Refuse a file that was to say what of a picture or slide was annotated, and does not.

        Raises:
            LabelError: it holds no region.
        """
        if not len(self.regions):
            raise LabelError(
                f"{self.path}: no annotation '{source.region_class}' says what of {what} was annotated; draw one "
                "around it"
            )

    def in_regions(self, source: LabelSource) -> np.ndarray:
        """(N,) bool: which nuclei lie in a region; where there is no region, all.

        Raises:
            LabelError: one lies outside and the source does not say to leave such nuclei out.
        """
        if not len(self.regions):
            return np.ones(len(self.nuclei), bool)
        area = shapely.union_all(self.regions)
        shapely.prepare(area)
        inside = shapely.intersects_xy(area, *self.nuclei.xy.T)
        outside = np.flatnonzero(~inside)
        if len(outside) and source.outside == "refuse":
            raise LabelError(
                f"{self.where(outside[0])}: lies outside every '{source.region_class}' annotation{_others(outside)}; "
                "draw the region around it, delete it, or set `outside: leave out`"
            )
        return inside


def class_index(word: str, source: LabelSource, classes: tuple[str, ...], where: str) -> int:
    """The model's class that a word of a label file means; -1 for a nucleus whose class is not used.

    A class map decides alone; without one the word is a class name or a synonym (``nuclei.class_names``). Where
    ``classes`` is empty only positions are wanted, and every word gives -1.

    Raises:
        LabelError: the word is not in the class map, or means no class of the model.
    """
    if not classes:
        return -1
    if not source.class_map:
        return find_class(word, classes, where, "correct it, or map it with `class_map`")
    if word not in source.class_map:
        near = get_close_matches(word, source.class_map, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        known = ", ".join(source.class_map)
        raise LabelError(
            f"{where}: class '{word}' is not in class_map ({known}); {hint}add it to class_map or correct it"
        )
    name = source.class_map[word]
    if name is None:
        return -1
    if name not in classes:
        raise LabelError(
            f"{where}: class_map sends '{word}' to '{name}', which is not a class of the model ({', '.join(classes)})"
        )
    return classes.index(name)


def _others(found: np.ndarray) -> str:
    return f" (so do {len(found) - 1} more)" if len(found) > 1 else ""
