"""The settings that all label sources share, the choice of their pictures or slides, and the
labelling of pictures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import cv2
import numpy as np
import shapely
from numpy import ndarray

from muse_pipeline.cohort.patients import patient_in_name, require_patient_rule
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.config import Between, NotNegative, OneOf, Positive, Weights
from muse_pipeline.core.errors import LabelError, SlideError
from muse_pipeline.core.files import read_lines
from muse_pipeline.core.pictures import resize_picture
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.class_areas import ClassAreas, read_labelled_areas
from muse_pipeline.labels.labelled_image import LabelledImage, complete_outlines, require_order
from muse_pipeline.labels.nuclei_files import FileNuclei, ObjectRules, read_drawn, read_index_table
from muse_pipeline.nuclei.class_names import ClassWords
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES, IGNORED, REGION
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.mpp import PLAUSIBLE_RANGE_UM, is_square
from muse_pipeline.tissue.stain import fit_macenko

MPP_TOLERANCE = 0.05  # maximum relative difference of a stated mpp from that in the file
OF_SOURCE = "`mpp` of this source"


def read_picture(path: Path, mpp: float | None, origin: str = OF_SOURCE) -> tuple[ndarray, float]:
    """Read the pixels (h, w, 3) uint8 and the um per pixel of a plain picture.

    ``mpp``, if it is stated elsewhere, must agree with the file; ``origin`` describes it in
    messages.
    """
    try:
        with open_slide(path, "image") as picture:
            stated = next(iter(picture.properties.mpp_candidates), None)
            pixels = picture.read_level((0, 0), 0, picture.properties.level_sizes_px[0])
    except SlideError as error:
        raise LabelError(str(error)) from error
    if stated is not None and not is_square(stated.mpp):
        raise LabelError(
            f"{path}: its pixels are {stated.mpp[0]:.4g} um wide and {stated.mpp[1]:.4g} um high"
            f" ({stated.source}), but a labelled picture needs square pixels; resample it and its"
            " labels, or label it as a slide"
        )
    if mpp is not None and stated is not None:
        require_agreement(path, mpp, stated.mpp, stated.source, origin)
    if mpp is not None or stated is None:
        return pixels, require_picture_mpp(path, mpp, origin)
    return pixels, require_picture_mpp(
        path, float(stated.mpp[0]), f"the mpp in the file ({stated.source})"
    )


def require_picture_mpp(path: Path, mpp: float | None, origin: str = OF_SOURCE) -> float:
    """Return the ``mpp`` of a picture if it is known and plausible for nuclei; ``origin`` describes
    it in messages.
    """
    if mpp is None:
        raise LabelError(
            f"{path}: its pixel size is unknown; give `mpp`, um per pixel, in this source"
        )
    low, high = PLAUSIBLE_RANGE_UM
    if not low <= mpp <= high:
        raise LabelError(
            f"{path}: {mpp:.4g} um per pixel is outside the range for nuclei, {low:g} to {high:g};"
            f" correct {origin}"
        )
    return mpp


def require_agreement(
    path: Path | str,
    mpp: float,
    in_file: tuple[float, float],
    file_source: str,
    origin: str = OF_SOURCE,
) -> None:
    """Reject an mpp that differs by more than 5 % from the mpp in the file; ``origin`` describes it
    in the message.
    """
    if any(abs(mpp / side - 1) > MPP_TOLERANCE for side in in_file):
        raise LabelError(
            f"{path}: {origin} is {mpp:.4g} um/px, but the file states {in_file[0]:.4g} um/px"
            f" ({file_source}); correct or remove the former"
        )


class TargetModel(NamedTuple):
    """The model that labels are read for."""

    # names of its classes; if there are none, only the positions of nuclei are read
    classes: tuple[str, ...]
    mpp: float  # um per pixel of its input
    n_rays: int  # number of rays per nucleus
    # side of its largest training window, for which regions of slides have enough context
    context_px: int


@dataclass(frozen=True)
class Sample:
    """One picture or slide of a source, before its pixels are read."""

    # stem of the picture, id of the slide, or unique name in a dataset, which in most layouts
    # begins with the fold, split or organ
    name: str
    patient: str  # patient that a sheet or dataset states; "" to find it in the name
    files: tuple[Path, ...] = ()  # files that contain the picture, and in a dataset its labels
    index: int = 0  # index of a dataset's picture in its files; 0 if they contain only this one
    alias: str = ""  # second name to which ``exclude`` and ``split`` may refer
    row: SheetRow | None = None  # row of a slide in its sheet


class LabelledPicture(NamedTuple):
    """A picture with its labels, before resampling."""

    pixels: ndarray  # (h, w, 3) uint8
    mpp: float  # um per pixel
    labels: FileNuclei  # nuclei and annotated area, in px of the picture
    # (h, w) bool, the annotated pixels if they are drawn as a mask; None to use the area of
    # ``labels``
    region: ndarray | None = None


@dataclass(frozen=True)
class LabelSource(ABC):
    """Labels with their pictures or slides.

    Attributes:
        labels: folder of label files, whose names begin with the stem of their picture or the id of
            their slide; for an open dataset, its folder.
        format: "row column class" or "x y class" (text), "geojson", "areas" or, for pictures,
            "instances" or "masks" (``docs/guide/labels.md``); or an open dataset: "lizard",
            "nuinsseg", "ocelot", "pannuke" or "puma" (``docs/guide/open-data.md``).
        mpp: um per pixel; required if pictures or slides lack it, otherwise it must agree with
            theirs.
        class_map: class name of the model for each word in the label files, or null to leave such
            nuclei out; for "areas" also a list of possible classes. Class names of the model need
            no entry; any other missing word is an error.
        region_class: class or name of the annotations around the annotated area ("Region" for
            QuPath's "Region*").
        outside: "refuse": nuclei outside all regions are an error; "leave out": they are counted
            but not used.
        ignore: classes or names of GeoJSON annotations that are not nuclei.
        allow_empty: accept label files and regions without a nucleus.
        split: text file listing the pictures or slides to use, or a value of the sheet's split
            column; by default all.
        exclude: strings, such as patients or sites; pictures or slides whose name contains one of
            them are left out.
        grow_outlines: grow outlines on the haematoxylin for nuclei labelled as points; otherwise
            points train only positions and classes.
        weight: relative frequency at which pictures are sampled.
        patient: rule that finds the patient in a picture's name: a number of leading characters, or
            a regular expression whose first group (if none, the whole match) is the patient. By
            default the first 12 characters of TCGA names and the whole of other names; for an open
            dataset, the dataset's patient.
        licence: licence of the labels and pictures, for the model card.
    """

    labels: Path
    format: str
    _: KW_ONLY
    mpp: Positive | None = None
    class_map: dict[str, str | tuple[str, ...] | None] = field(default_factory=dict)
    region_class: str = REGION
    outside: Annotated[str, OneOf(("refuse", "leave out"))] = "refuse"
    ignore: tuple[str, ...] = IGNORED
    allow_empty: bool = False
    split: Path | None = None
    exclude: tuple[str, ...] = ()
    grow_outlines: bool = True
    weight: Positive = 1.0
    patient: str | int | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        require_patient_rule(self.patient, self.location)

    @property
    @abstractmethod
    def location(self) -> Path:
        """Folder of the pictures, folder or sheet of the slides, or folder of the open dataset."""

    @abstractmethod
    def list_all(self) -> list[Sample]:
        """List every picture or slide, used or not, without reading pixels."""

    @abstractmethod
    def read(self, model: TargetModel) -> Iterator[LabelledImage]:
        """Read the chosen pictures, or the annotated regions of the chosen slides, at the model's
        mpp.
        """

    @property
    def can_have_classes(self) -> bool:
        """True if the format of the labels can state classes."""
        return True

    def choose(self) -> list[Sample]:
        """The samples of ``list_all`` that are in the ``split`` but not in ``exclude``."""
        require_folder(self.labels, "labels")
        samples = self.in_split(self.list_all())
        return [
            sample
            for sample in samples
            if not any(word in sample.name or word in sample.alias for word in self.exclude)
        ]

    def in_split(self, samples: list[Sample]) -> list[Sample]:
        """The samples that the file ``split`` names."""
        if self.split is None:
            return samples
        names = read_split(self.split)
        if missing := set(names).difference(
            name for sample in samples for name in (sample.name, sample.alias)
        ):
            first = next(name for name in names if name in missing)
            raise LabelError(
                f"{self.split}: {len(missing)} of its names are not in {self.location}, first"
                f" {first}"
            )
        return [sample for sample in samples if {sample.name, sample.alias} & set(names)]

    def patient_of(self, sample: Sample) -> str:
        """The patient of a sample, stated or found in its name."""
        return sample.patient or patient_in_name(sample.name, self.patient, self.location)

    def words_for(self, model: TargetModel) -> ClassWords:
        """The classes of the model that the words in the label files refer to."""
        return ClassWords(model.classes, self.class_map, "correct it, or map it with `class_map`")

    def classify(self, labels: FileNuclei, model: TargetModel) -> FileNuclei:
        """The nuclei of a file with the classes of the model."""
        return labels.with_labels(labels.resolve(self.words_for(model).index, -1))

    def label_picture(
        self, sample: Sample, picture: LabelledPicture, model: TargetModel
    ) -> LabelledImage:
        """Resample a picture to the model's mpp; if ``grow_outlines``, grow the outlines that are
        not drawn.
        """
        pixels, mpp, labels, region = picture
        if region is not None:
            column, row = labels.nuclei.xy.astype(int).T
            inside = region[row, column]
        else:
            region = labels.fill_area(pixels.shape[1::-1])
            inside = self.find_inside(labels)
        nuclei = labels.nuclei[inside]
        stain = fit_macenko(pixels.reshape(-1, 3))
        if not len(nuclei) and not self.allow_empty:
            raise LabelError(
                f"{labels.path}: contains no nucleus in {sample.alias or sample.name}; exclude the"
                " picture, or set `allow_empty: true` if there is none in it"
            )
        resized = resize_picture(pixels, mpp / model.mpp)
        size_px = resized.shape[1::-1]
        nuclei = replace(nuclei, xy=nuclei.xy * (np.array(size_px) / pixels.shape[1::-1]))
        if region is not None:
            # INTER_NEAREST rounds positions down, which would shift the region by half a pixel.
            region = (
                cv2.resize(region.astype(np.uint8), size_px, interpolation=cv2.INTER_NEAREST_EXACT)
                > 0
            )
        if self.grow_outlines:
            is_point = ~np.isfinite(nuclei.rays).all(1)
            nuclei = complete_outlines(resized, nuclei, stain, model.mpp)
            require_order(labels.path, resized, nuclei[is_point], stain, model.mpp)
        return self.image(
            sample, resized, nuclei, stain=stain, region=region, n_left_out=int((~inside).sum())
        )

    def find_inside(self, labels: FileNuclei) -> ndarray:
        """(N,) bool: True for nuclei in the annotated area of their file; ``outside`` decides about
        all others.
        """
        if labels.area is None:
            return np.ones(len(labels.nuclei), bool)
        shapely.prepare(labels.area)
        inside = shapely.intersects_xy(labels.area, *labels.nuclei.xy.T)
        if self.outside == "refuse":
            remedy = "draw the region around it, delete it, or set `outside: leave out`"
            labels.reject(~inside, f"outside every '{self.region_class}' annotation", remedy)
        return inside

    def image(self, sample: Sample, pixels: ndarray, nuclei: Nuclei, **facts: Any) -> LabelledImage:
        """A labelled image of a sample; ``facts`` are other attributes of the image."""
        settings = {"weight": self.weight, "source": str(self.location), "stated_mpp": self.mpp}
        grows = self.grow_outlines and "areas" not in facts
        facts = {
            "name": sample.name,
            "patient": self.patient_of(sample),
            "organ": (sample.row and sample.row.organ) or "",
            "grow_outlines": grows,
            **settings,
            **facts,
        }
        return LabelledImage(pixels=pixels, nuclei=nuclei, **facts)


def require_folder(path: Path, setting: str) -> None:
    """Reject a path that is not a folder; ``setting`` names it in the message."""
    if not path.is_dir():
        raise LabelError(f"{path}: no such folder; correct `{setting}` in the config")


def read_split(path: Path) -> list[str]:
    """Read the names in a split file, one per line."""
    if not path.is_file():
        raise LabelError(f"{path}: no such split file; correct `split` in the config")
    names = [line.strip() for line in read_lines(path) if line.strip()]
    if not names:
        raise LabelError(f"{path}: is empty; name the pictures to use, one per line")
    return names


TEXT_SUFFIXES = (".txt", ".csv", ".tsv")
FORMATS = {  # suffixes of the label files of each format
    "row column class": TEXT_SUFFIXES,
    "x y class": TEXT_SUFFIXES,
    "geojson": GEOJSON_SUFFIXES,
    "areas": GEOJSON_SUFFIXES,
}


class Canvas(NamedTuple):
    """The picture or slide to which labels belong."""

    title: str  # its name in messages
    frame: Frame  # frame of the positions of nuclei
    size_px: tuple[int, int]  # (width, height)
    mpp: tuple[float, float]  # (x, y) um per pixel
    offset_px: tuple[int, int] = (0, 0)  # (x, y) offset added to positions in GeoJSON


@dataclass(frozen=True, kw_only=True)
class FolderSource(LabelSource):
    """Labels with a file per picture or slide.

    Attributes:
        regions: folder of GeoJSON files with the annotations around annotated areas, if the files
            in ``labels`` lack them.
        margin_um: width of a border inside every area, um, in which nuclei are not labelled.
        purity: expected fraction of the nuclei in an area that have its class or one of its
            classes.
        detector: model that finds the nuclei in areas: an .onnx file, or the name of a built-in
            model.
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
                f"{self.location}: labels cannot have the format '{self.format}'; use"
                f" {', '.join(others)} or {last}"
            )

    def find_files(self) -> dict[str, LabelFiles]:
        """The label files of all pictures or slides, by the setting that names their folder."""
        names = [sample.name for sample in self.list_all()]
        files = {"labels": LabelFiles(self.labels, names, self.formats[self.format], "labels")}
        if self.regions is not None and self.format != "areas":
            files["regions"] = LabelFiles(self.regions, names, GEOJSON_SUFFIXES, "regions")
        return files

    def read_labels(self, files: dict[str, Path], canvas: Canvas, model: TargetModel) -> FileNuclei:
        """Read and check the nuclei of a picture or slide, and its annotated area from a file of
        its own, if any.
        """
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
        return self.classify(
            read_index_table(files["labels"], self.format, canvas.frame, model.n_rays), model
        )

    def read_drawn(self, path: Path, canvas: Canvas, model: TargetModel) -> FileNuclei:
        """Read nuclei and regions of GeoJSON, without looking up classes."""
        rules = ObjectRules(self.region_class, self.ignore, repairs_regions=False)
        return read_drawn(path, canvas.mpp, model.n_rays, canvas.frame, canvas.offset_px, rules)

    def require_area(self, labels: FileNuclei) -> None:
        """Reject a file without an annotated region."""
        if labels.area is None:
            raise LabelError(
                f"{labels.path}: has no annotation '{self.region_class}*' around the labels;"
                " draw one"
            )

    def read_class_areas(self, path: Path, canvas: Canvas, model: TargetModel) -> ClassAreas:
        """Read the areas of a label file that have classes of the model."""
        left_out = (self.region_class, *self.ignore)
        return read_labelled_areas(
            path, self.words_for(model), canvas.size_px, canvas.offset_px, left_out
        )

    def require_nuclei_in(self, areas: ClassAreas, counts: ndarray) -> None:
        """Reject an area whose number of nuclei in ``counts`` (A,) is 0, unless ``allow_empty``."""
        if not self.allow_empty and not counts.all():
            raise LabelError(
                f"{areas.where(counts.argmin())}: `{self.detector.name}` finds no nucleus at least"
                f" {self.margin_um:g} um inside this area; correct the area or `mpp`, choose a"
                " different `detector`, or set `allow_empty: true`"
            )


class LabelFiles:
    """The label files in a folder, looked up by the stem of their picture or the id of their slide.

    A file belongs to the longest stem that its name begins with, provided that the rest of the name
    begins with a dot or an underscore.
    """

    def __init__(self, folder: Path, stems: Iterable[str], suffixes: Collection[str], setting: str):
        require_folder(folder, setting)
        self.folder = folder
        self.suffixes = suffixes
        stems = set(stems)
        self._files = defaultdict(list)
        for path in sorted(folder.iterdir()):
            suffix = next(
                (suffix for suffix in suffixes if path.name.lower().endswith(suffix)), None
            )
            if suffix is None or path.name.startswith("."):
                continue
            name = path.name[: -len(suffix)]
            ends = [len(name), *(i for i in range(len(name) - 1, 0, -1) if name[i] in "._")]
            self._files[next((name[:end] for end in ends if name[:end] in stems), None)].append(
                path
            )

    def of(self, stem: str) -> Path:
        """The only label file of the picture or slide ``stem``."""
        paths = self._files.get(stem, [])
        if len(paths) > 1:
            raise LabelError(
                f"{paths[0]}: this file and {paths[1].name} both belong to '{stem}'; keep one of"
                " them there, or add the picture that the other one is named after"
            )
        if not paths:
            suffixes = ", ".join(sorted(self.suffixes))
            raise LabelError(
                f"{self.folder}: no label file for '{stem}' ({suffixes}); add it or exclude the"
                " picture"
            )
        return paths[0]
