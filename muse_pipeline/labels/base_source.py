"""The settings that all label sources share, the choice of their pictures or slides, and the labelling of pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
import shapely

from muse_pipeline.cohort.patients import patient_in_name, require_patient_rule
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.config import OneOf, Positive
from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.files import read_lines
from muse_pipeline.core.pictures import resize_picture
from muse_pipeline.labels.labelled_image import LabelledImage, complete_outlines, require_order
from muse_pipeline.labels.nuclei_files import FileNuclei
from muse_pipeline.nuclei.class_names import ClassWords
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.objects import IGNORED, REGION
from muse_pipeline.tissue.stain import fit_macenko


class TargetModel(NamedTuple):
    """The model that labels are read for.

    Attributes:
        classes: names of its classes; if there are none, only the positions of nuclei are read.
        mpp: um per pixel of its input.
        n_rays: number of rays per nucleus.
        context_px: side of its largest training window, for which regions of slides have enough context.
    """

    classes: tuple[str, ...]
    mpp: float
    n_rays: int
    context_px: int


@dataclass(frozen=True)
class Sample:
    """One picture or slide of a source, before its pixels are read.

    Attributes:
        name: stem of the picture, id of the slide, or unique name in a dataset, which in most layouts begins with the
            fold, split or organ.
        patient: patient that a sheet or dataset states; "" to find it in the name.
        files: files that contain the picture, and in a dataset its labels.
        index: index of a dataset's picture in its files; 0 if they contain only this one.
        alias: second name to which ``exclude`` and ``split`` may refer.
        row: row of a slide in its sheet.
    """

    name: str
    patient: str
    files: tuple[Path, ...] = ()
    index: int = 0
    alias: str = ""
    row: SheetRow | None = None

    def has_in_name(self, word: str) -> bool:
        """True if the name or the alias contains a word."""
        return word in self.name or word in self.alias


class LabelledPicture(NamedTuple):
    """A picture with its labels, before resampling.

    Attributes:
        pixels: (h, w, 3) uint8.
        mpp: um per pixel.
        labels: nuclei and annotated area, in px of the picture.
        region: (h, w) bool, the annotated pixels if they are drawn as a mask; None to use the area of ``labels``.
    """

    pixels: np.ndarray
    mpp: float
    labels: FileNuclei
    region: np.ndarray | None = None


@dataclass(frozen=True)
class LabelSource(ABC):
    """Labels with their pictures or slides.

    Attributes:
        labels: folder of label files, whose names begin with the stem of their picture or the id of their slide; for an
            open dataset, its folder.
        format: "row column class" or "x y class" (text), "geojson", "areas" or, for pictures, "instances" or "masks"
            (``docs/guide/labels.md``); or an open dataset: "lizard", "nuinsseg", "ocelot", "pannuke" or "puma"
            (``docs/guide/open-data.md``).
        mpp: um per pixel; required if pictures or slides lack it, otherwise it must agree with theirs.
        class_map: class name of the model for each word in the label files, or null to leave such nuclei out; for
            "areas" also a list of possible classes. A missing word is an error. By default, the words are the class
            names.
        region_class: class or name of the annotations around the annotated area ("Region" for QuPath's "Region*").
        outside: "refuse": nuclei outside all regions are an error; "leave out": they are counted but not used.
        ignore: classes or names of GeoJSON annotations that are not nuclei.
        allow_empty: accept label files and regions without a nucleus.
        split: text file listing the pictures or slides to use, or a value of the sheet's split column; by default all.
        exclude: strings, such as patients or sites; pictures or slides whose name contains one of them are left out.
        grow_outlines: grow outlines on the haematoxylin for nuclei labelled as points; otherwise points train only
            positions and classes.
        weight: relative frequency at which pictures are sampled.
        patient: rule that finds the patient in a picture's name: a number of leading characters, or a regular
            expression whose first group (if none, the whole match) is the patient. By default the first 12 characters
            of TCGA names and the whole of other names; for an open dataset, the dataset's patient.
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
        if empty := [word for word, names in self.class_map.items() if names is not None and not names]:
            raise LabelError(
                f"{self.labels}: class_map maps '{empty[0]}' to an empty list; name a class, or null to leave such "
                "nuclei out"
            )
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
        """Read the chosen pictures, or the annotated regions of the chosen slides, at the model's mpp."""

    @property
    def can_have_classes(self) -> bool:
        """True if the format of the labels can state classes."""
        return True

    def choose(self) -> list[Sample]:
        """The samples of ``list_all`` that are in the ``split`` but not in ``exclude``."""
        require_folder(self.labels, "labels")
        samples = self.in_split(self.list_all())
        return [sample for sample in samples if not any(map(sample.has_in_name, self.exclude))]

    def in_split(self, samples: list[Sample]) -> list[Sample]:
        """The samples that the file ``split`` names."""
        if self.split is None:
            return samples
        names = read_split(self.split)
        if missing := set(names).difference(name for sample in samples for name in (sample.name, sample.alias)):
            first = next(name for name in names if name in missing)
            raise LabelError(f"{self.split}: {len(missing)} of its names are not in {self.location}, first {first}")
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

    def label_picture(self, sample: Sample, picture: LabelledPicture, model: TargetModel) -> LabelledImage:
        """Resample a picture to the model's mpp; if ``grow_outlines``, grow the outlines that are not drawn."""
        pixels, mpp, labels, region = picture
        if region is not None:
            column, row = labels.nuclei.xy.astype(int).T
            inside = region[row, column]
        else:
            region, inside = labels.fill_area(pixels.shape[1::-1]), self.find_inside(labels)
        nuclei, stain = labels.nuclei[inside], fit_macenko(pixels.reshape(-1, 3))
        if not len(nuclei) and not self.allow_empty:
            raise LabelError(
                f"{labels.path}: contains no nucleus in {sample.alias or sample.name}; exclude the picture, or set "
                "`allow_empty: true` if there is none in it"
            )
        resized = resize_picture(pixels, mpp / model.mpp)
        size_px = resized.shape[1::-1]
        nuclei = replace(nuclei, xy=nuclei.xy * (np.array(size_px) / pixels.shape[1::-1]))
        if region is not None:
            # INTER_NEAREST rounds positions down, which would shift the region by half a pixel.
            region = cv2.resize(region.astype(np.uint8), size_px, interpolation=cv2.INTER_NEAREST_EXACT) > 0
        if self.grow_outlines:
            is_point = ~np.isfinite(nuclei.rays).all(1)
            nuclei = complete_outlines(resized, nuclei, stain, model.mpp)
            require_order(labels.path, resized, nuclei[is_point], stain, model.mpp)
        return self.image(sample, resized, nuclei, stain=stain, region=region, n_left_out=int((~inside).sum()))

    def find_inside(self, labels: FileNuclei) -> np.ndarray:
        """(N,) bool: True for nuclei in the annotated area of their file; ``outside`` decides about all others."""
        if labels.area is None:
            return np.ones(len(labels.nuclei), bool)
        shapely.prepare(labels.area)
        inside = shapely.intersects_xy(labels.area, *labels.nuclei.xy.T)
        if self.outside == "refuse":
            remedy = "draw the region around it, delete it, or set `outside: leave out`"
            labels.reject(~inside, f"outside every '{self.region_class}' annotation", remedy)
        return inside

    def image(self, sample: Sample, pixels: np.ndarray, nuclei: Nuclei, **facts: Any) -> LabelledImage:
        """A labelled image of a sample; ``facts`` are other attributes of the image."""
        settings = {"weight": self.weight, "source": str(self.location), "stated_mpp": self.mpp}
        grows = self.grow_outlines and "areas" not in facts
        facts = {"name": sample.name, "patient": self.patient_of(sample), "grow_outlines": grows, **settings, **facts}
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
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise LabelError(f"{path}: names {twice} twice; keep one")
    return names
