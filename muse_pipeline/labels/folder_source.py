"""Sources with a label file per picture or slide: the formats of these files, and how they are found and read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np

from muse_pipeline.core.config import Between, NotNegative, Weights
from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.base_source import LabelSource, TargetModel, require_folder
from muse_pipeline.labels.class_areas import ClassAreas, read_areas
from muse_pipeline.labels.nuclei_files import FileNuclei, ObjectRules, read_drawn, read_text
from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES

TEXT_SUFFIXES = (".txt", ".csv", ".tsv")
FORMATS = {  # suffixes of the label files of each format
    "row column class": TEXT_SUFFIXES,
    "x y class": TEXT_SUFFIXES,
    "geojson": GEOJSON_SUFFIXES,
    "areas": GEOJSON_SUFFIXES,
}


class Canvas(NamedTuple):
    """The picture or slide to which labels belong.

    Attributes:
        title: its name in messages.
        frame: frame of the positions of nuclei.
        size_px: (width, height).
        mpp: (x, y) um per pixel.
        offset_px: (x, y) offset added to positions in GeoJSON.
    """

    title: str
    frame: Frame
    size_px: tuple[int, int]
    mpp: tuple[float, float]
    offset_px: tuple[int, int] = (0, 0)


@dataclass(frozen=True, kw_only=True)
class FolderSource(LabelSource):
    """Labels with a file per picture or slide.

    Attributes:
        regions: folder of GeoJSON files with the annotations around annotated areas, if the files in ``labels`` lack
            them.
        margin_um: width of a border inside every area, um, in which nuclei are not labelled.
        purity: expected fraction of the nuclei in an area that have its class or one of its classes.
        detector: model that finds the nuclei in areas: an .onnx file, or the name of a built-in model.
    """

    regions: Path | None = None
    margin_um: NotNegative = 5.0
    purity: Annotated[float, Between(0.5, 1)] = 0.9
    detector: Weights = Path("compact")
    formats: ClassVar[dict[str, tuple[str, ...]]] = FORMATS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format not in self.formats:
            *others, last = map(repr, self.formats)
            raise LabelError(
                f"{self.location}: labels cannot have the format '{self.format}'; use {', '.join(others)} or {last}"
            )

    def find_files(self) -> dict[str, LabelFiles]:
        """The label files of all pictures or slides, by the setting that names their folder."""
        names = [sample.name for sample in self.list_all()]
        files = {"labels": LabelFiles(self.labels, names, self.formats[self.format], "labels")}
        if self.regions is not None and self.format != "areas":
            files["regions"] = LabelFiles(self.regions, names, GEOJSON_SUFFIXES, "regions")
        return files

    def read_labels(self, files: dict[str, Path], canvas: Canvas, model: TargetModel) -> FileNuclei:
        """Read and check the nuclei of a picture or slide, and its annotated area from a file of its own, if any."""
        labels = self.read_file(files, canvas, model).within(canvas.size_px, canvas.title)
        labels.require_distinct(canvas.mpp)
        if "regions" in files:
            drawn = self.read_drawn(files["regions"], canvas, model)
            self.require_area(drawn)
            labels = replace(labels, area=drawn.area)
        return labels

    def read_file(self, files: dict[str, Path], canvas: Canvas, model: TargetModel) -> FileNuclei:
        """Read the nuclei of a label file, with the classes of the model."""
        if self.format == "geojson":
            return self.classify(self.read_drawn(files["labels"], canvas, model), model)
        return self.classify(read_text(files["labels"], self.format, canvas.frame, model.n_rays), model)

    def read_drawn(self, path: Path, canvas: Canvas, model: TargetModel) -> FileNuclei:
        """Read nuclei and regions of GeoJSON, without looking up classes."""
        rules = ObjectRules(self.region_class, self.ignore, repairs_regions=False)
        return read_drawn(path, canvas.mpp, model.n_rays, canvas.frame, canvas.offset_px, rules)

    def require_area(self, labels: FileNuclei) -> None:
        """Reject a file without an annotated region."""
        if labels.area is None:
            raise LabelError(
                f"{labels.path}: has no annotation '{self.region_class}' around the annotated part; draw one"
            )

    def read_class_areas(self, path: Path, canvas: Canvas, model: TargetModel) -> ClassAreas:
        """Read the areas of a label file that have classes of the model."""
        left_out = (self.region_class, *self.ignore)
        return read_areas(path, self.words_for(model), canvas.size_px, canvas.offset_px, left_out)

    def require_nuclei_in(self, areas: ClassAreas, counts: np.ndarray) -> None:
        """Reject an area whose number of nuclei in ``counts`` (A,) is 0, unless ``allow_empty``."""
        if not self.allow_empty and not counts.all():
            raise LabelError(
                f"{areas.where(counts.argmin())}: `{self.detector.name}` finds no nucleus at least "
                f"{self.margin_um:g} um inside this area; correct the area or `mpp`, choose a different `detector`, "
                "or set `allow_empty: true`"
            )


class LabelFiles:
    """The label files in a folder, looked up by the stem of their picture or the id of their slide.

    A file belongs to the longest stem that its name begins with, provided that the rest of the name begins with a dot
    or an underscore.
    """

    def __init__(self, folder: Path, stems: Iterable[str], suffixes: Collection[str], setting: str):
        require_folder(folder, setting)
        self.folder, self.suffixes, stems = folder, suffixes, set(stems)
        self._files = defaultdict(list)
        for path in sorted(folder.iterdir()):
            suffix = next((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), None)
            if suffix is None or path.name.startswith("."):
                continue
            name = path.name[: -len(suffix)]
            ends = [len(name), *(i for i in range(len(name) - 1, 0, -1) if name[i] in "._")]
            self._files[next((name[:end] for end in ends if name[:end] in stems), None)].append(path)

    def of(self, stem: str) -> Path:
        """The only label file of the picture or slide ``stem``."""
        paths = self._files.get(stem, [])
        if len(paths) > 1:
            raise LabelError(
                f"{paths[0]}: this file and {paths[1].name} both belong to '{stem}'; keep one of them there, or add "
                "the picture that the other one is named after"
            )
        if not paths:
            suffixes = ", ".join(sorted(self.suffixes))
            raise LabelError(f"{self.folder}: no label file for '{stem}' ({suffixes}); add it or exclude the picture")
        return paths[0]
