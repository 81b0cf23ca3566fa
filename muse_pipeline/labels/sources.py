"""Sources of labels in a training config: their settings, pictures and label files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from muse_pipeline.cohort.patients import patient_in_name, require_patient_rule
from muse_pipeline.core.config import Between, NotNegative, OneOf, Positive, Weights
from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.files import read_lines
from muse_pipeline.core.pictures import list_pictures
from muse_pipeline.labels.layouts import LAYOUTS
from muse_pipeline.qupath.objects import IGNORED, REGION
from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES

FORMATS = ("row column class", "x y class", "geojson", "instances", "masks", "areas")  # in addition to open datasets
BESIDE_LABELS = ("images", "slides", "points", "regions", "results")  # settings that an open dataset must not have


@dataclass(frozen=True)
class LabelSource:
    """A folder of labels with its pictures or slides (``docs/guide/labels.md``).

    Attributes:
        labels: folder of label files, whose names begin with the stem of their picture or the id of their slide; for an
            open dataset, its folder.
        format: "row column class" or "x y class" (text, one nucleus per line), "geojson" (points or polygons with
            classes as in QuPath), "instances" (PNG, TIFF or NPY with a number per nucleus; pictures only), "masks"
            (like "instances", but black and white) or "areas" (GeoJSON, or masks of classes, around nuclei that
            ``detector`` finds); or an open dataset: "lizard", "nuinsseg", "ocelot", "pannuke" or "puma"
            (``docs/guide/open-data.md``).
        images: folder of pictures.
        slides: sheet of slides (TSV or CSV) or folder of slides, instead of ``images``.
        mpp: um per pixel; required if pictures or slides lack it, otherwise it must agree with theirs.
        diameter_um: median diameter of the nuclei in every picture, instead of ``mpp``, for "instances" of unknown
            pixel size.
        class_map: class name of the model for each word in the label files, or null to leave such nuclei out; for
            "areas" also a list of possible classes. A missing word is an error. By default, the words are the class
            names.
        region_class: class or name of the annotations around the annotated area ("Region" for QuPath's "Region*").
        regions: folder of GeoJSON files with these annotations, if the files in ``labels`` lack them.
        outside: "refuse": nuclei outside all regions are an error; "leave out": they are counted but not used.
        ignore: classes or names of GeoJSON annotations that are not nuclei.
        allow_empty: accept label files and regions without a nucleus.
        points: folder of "x y class" text files with the classes of "instances" and "masks".
        split: text file listing the pictures or slides to use, or a value of the sheet's split column; by default all.
        exclude: strings, such as patients or sites; pictures or slides whose name contains one of them are left out.
        results: output folder of the run whose nuclei were corrected in the viewer; corrections of older nuclei are
            rejected.
        grow_outlines: grow outlines on the haematoxylin for nuclei labelled as points; otherwise points train only
            positions and classes.
        margin_um: width of a border inside every area, um, in which nuclei are not labelled.
        purity: expected fraction of the nuclei in an area that have its class or one of its classes.
        detector: model that finds the nuclei in areas: an .onnx file, or the name of a built-in model.
        weight: relative frequency at which pictures are sampled.
        patient: rule that finds the patient in a picture's name: a number of leading characters, or a regular
            expression whose first group (if none, the whole match) is the patient. By default the first 12 characters
            of TCGA names and the whole of other names; for an open dataset, the dataset's patient.
        licence: licence of the labels and pictures, for the model card.
    """

    labels: Path
    format: str
    images: Path | None = None
    slides: Path | None = None
    mpp: Positive | None = None
    diameter_um: Positive | None = None
    class_map: dict[str, str | tuple[str, ...] | None] = field(default_factory=dict)
    region_class: str = REGION
    regions: Path | None = None
    outside: Annotated[str, OneOf(("refuse", "leave out"))] = "refuse"
    ignore: tuple[str, ...] = IGNORED
    allow_empty: bool = False
    points: Path | None = None
    split: Path | None = None
    exclude: tuple[str, ...] = ()
    results: Path | None = None
    grow_outlines: bool = True
    margin_um: NotNegative = 5.0
    purity: Annotated[float, Between(0.5, 1)] = 0.9
    detector: Weights = Path("compact")
    weight: Positive = 1.0
    patient: str | int | None = None
    licence: str = ""

    def __post_init__(self) -> None:
        known = [*FORMATS, *LAYOUTS.names()]
        if self.format not in known:
            listed = f"{', '.join(map(repr, known[:-1]))} or '{known[-1]}'"
            raise LabelError(f"label format '{self.format}' is unknown; use {listed}")
        if not self.is_dataset and (self.images is None) == (self.slides is None):
            raise LabelError(f"{self.labels}: give either `images` or `slides` for these labels")
        if superfluous := [name for name in BESIDE_LABELS if self.is_dataset and getattr(self, name) is not None]:
            raise LabelError(
                f"{self.labels}: format '{self.format}' takes only `labels`, the folder of the dataset; remove "
                f"`{superfluous[0]}` from this source"
            )
        if empty := [word for word, names in self.class_map.items() if names is not None and not names]:
            raise LabelError(
                f"{self.labels}: class_map maps '{empty[0]}' to an empty list; name a class, or null to leave such "
                "nuclei out"
            )
        if self.diameter_um is not None and (self.format != "instances" or self.mpp is not None):
            raise LabelError(
                f"{self.location}: give either `mpp` or `diameter_um`, and `diameter_um` only for format 'instances', "
                "whose masks have the sizes of nuclei"
            )
        if self.format in MASK_FORMATS and self.images is None:
            raise LabelError(f"{self.slides}: label masks are read for pictures only; use geojson for slides")
        require_patient_rule(self.patient, self.location)

    @property
    def is_dataset(self) -> bool:
        """True if ``labels`` is the folder of an open dataset."""
        return self.format in LAYOUTS.names()

    @property
    def can_have_classes(self) -> bool:
        """False for masks of nuclei without ``points``, which state no classes."""
        return self.format not in MASK_FORMATS or self.points is not None

    @property
    def location(self) -> Path:
        """Folder of the pictures, folder or sheet of the slides, or folder of the open dataset."""
        return self.images or self.slides or self.labels

    def is_used(self, name: str) -> bool:
        """True unless ``exclude`` leaves out the picture or slide."""
        return not any(word in name for word in self.exclude)

    def require_labels(self) -> None:
        """Reject a folder of labels that does not exist.

        Raises:
            LabelError: the folder does not exist.
        """
        if not self.labels.is_dir():
            raise LabelError(f"{self.labels}: no such folder of labels; correct `labels` in the config")

    def patient_of(self, name: str) -> str:
        """The patient of the picture or slide ``name`` (without suffix).

        Raises:
            LabelError: the name does not match the rule.
        """
        return patient_in_name(name, self.patient, self.location)


def require_in_names(location_of: Mapping[str, Path], names: Collection[str]) -> None:
    """Require that every word of ``exclude`` occurs in a name, because a misspelt word would exclude nothing.

    Args:
        location_of: location of the source that excludes a word, keyed by the word.
        names: names of all pictures and slides of a run.

    Raises:
        LabelError: a word occurs in no name; the message has the first such word.
    """
    for word, location in location_of.items():
        if not any(word in name for name in names):
            raise LabelError(f"{location}: exclude: no picture or slide has '{word}' in its name; correct the word")


TEXT_SUFFIXES = frozenset({".txt", ".csv", ".tsv"})
MASK_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".npy"})
MASK_FORMATS = ("instances", "masks")
SUFFIXES = {  # all other formats are text
    "geojson": frozenset(GEOJSON_SUFFIXES),
    **dict.fromkeys(MASK_FORMATS, MASK_SUFFIXES),
    "areas": MASK_SUFFIXES | frozenset(GEOJSON_SUFFIXES),
}


def image_paths(source: LabelSource) -> list[Path]:
    """List the pictures of a source that are in its ``split`` but not in its ``exclude``, sorted by name.

    Raises:
        LabelError: the folder, the split file or a picture that it names is missing.
    """
    paths = all_pictures(source)
    if source.split is not None:
        paths = [source.images / name for name in read_split(source)]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise LabelError(
                f"{source.split}: {len(missing)} of its images are not in {source.images}, first {missing[0]}"
            )
    return sorted(path for path in paths if source.is_used(path.name))


def all_pictures(source: LabelSource) -> list[Path]:
    """List every picture in the folder, used or not.

    Raises:
        LabelError: the folder does not exist.
    """
    if not source.images.is_dir():
        raise LabelError(f"{source.images}: no such folder of images; correct `images` in the config")
    return list_pictures(source.images)


def read_split(source: LabelSource) -> list[str]:
    """Read the names in the split file, one per line.

    Raises:
        LabelError: the file is missing, is empty, is not text or contains a name twice.
    """
    if not source.split.is_file():
        raise LabelError(f"{source.split}: no such split file; correct `split` in the config")
    names = [line.strip() for line in read_lines(source.split) if line.strip()]
    if not names:
        raise LabelError(f"{source.split}: is empty; name the pictures to use, one per line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise LabelError(f"{source.split}: names {twice} twice; keep one")
    return names


def split_unit(name: str) -> tuple[str, str]:
    """Split a column's heading into its name, in lower case, and unit ("px", "um" or ""): "X [px]" -> "x", "px"."""
    whole = name.strip().lower()
    for unit, words in {"px": ("px", "pixel", "pixels"), "um": ("um", "µm", "μm")}.items():
        for word in words:
            base = whole.rstrip(" ])").removesuffix(word)
            if base.endswith((" ", "_", "[", "(")) and base.strip(" _[("):
                return base.rstrip(" _[("), unit
    return whole, ""


class LabelFiles:
    """The label files in a folder, looked up by the stem of their picture or the id of their slide.

    A file belongs to the longest stem that its name begins with, provided that the rest of the name begins with a dot
    or an underscore.
    """

    def __init__(self, folder: Path, stems: Iterable[str], suffixes: frozenset[str]):
        self.folder, self.suffixes = folder, suffixes
        if not folder.is_dir():
            raise LabelError(f"{folder}: no such folder of labels; correct it in the config")
        known = set(stems)
        self._files = defaultdict(list)
        for path in sorted(folder.iterdir()):
            suffix = next((s for s in suffixes if path.name.lower().endswith(s)), None)
            if suffix is None or path.name.startswith("."):
                continue
            name = path.name[: -len(suffix)]
            ends = [len(name), *(i for i in range(len(name) - 1, 0, -1) if name[i] in "._")]
            stem = next((name[:end] for end in ends if name[:end] in known), None)
            if stem is not None:
                self._files[stem].append(path)

    def of(self, stem: str) -> Path:
        """The label file of the picture or slide ``stem``.

        Raises:
            LabelError: there is no such file, or more than one.
        """
        found = self._files.get(stem, [])
        if len(found) == 1:
            return found[0]
        if found:
            raise LabelError(
                f"{found[0]}: this file and {found[1].name} both belong to '{stem}'; keep one of them there, or add "
                "the picture that the other one is named after"
            )
        known = ", ".join(sorted(self.suffixes))
        raise LabelError(f"{self.folder}: no label file for '{stem}' ({known}); add it or exclude the picture")
