"""Where labels come from, as a training config names it; which picture is whose patient's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from muse_pipeline.errors import LabelError
from muse_pipeline.qupath_words import IGNORED, REGION
from muse_pipeline.slides.patients import patient_in_name, require_patient_rule

FORMATS = ("row column class", "x y class", "geojson", "instances")


@dataclass(frozen=True)
class LabelSource:
    """A folder of labels and the pictures or the slides that they belong to (``docs/labels.md``).

    Attributes:
        labels: folder of label files; a file's name begins with its picture's stem or its slide's id.
        format: "row column class" or "x y class" (text, one nucleus a line), "geojson" (points or polygons, classes as
            QuPath writes them) or "instances" (label PNG, TIFF or NPY, pictures only).
        images: folder of pictures.
        slides: in place of ``images``: a sheet of slides (TSV or CSV) or a folder of them.
        mpp: um per pixel. Plain pictures need it; slides know theirs, and what a file says must agree with it.
        diameter_um: for "instances" whose um per pixel nobody knows, in place of ``mpp``: what the median nucleus of
            every picture measures across; its um per pixel follows.
        class_map: word in the label file -> class name of the model, or null for a nucleus whose class is not used. A
            word that is missing is an error. Without a map the words are the class names themselves.
        region_class: class or name of the annotations that bound what was annotated (QuPath's "Region*" is "Region").
        regions: folder of GeoJSON files with these annotations, where ``labels`` holds none itself.
        outside: "refuse" nuclei that lie outside every region, or "leave out": they are counted and not used.
        ignore: classes or names of GeoJSON annotations that are no nuclei.
        allow_empty: whether label files and regions without a nucleus are meant so.
        points: for "instances", a folder of "x y class" text files that name the classes.
        split: text file naming the pictures or slides to use, or a value of the sheet's split column; all without it.
        exclude: pictures or slides whose name contains one of these are left out (a patient, a site).
        weight: how often a picture is drawn, relative to those of other sources.
        patient: how a name tells the patient: a number of leading characters, or a regular expression whose first group
            (else whole match) it is. By default the first 12 characters of TCGA names, else the whole name.
    """

    labels: Path
    format: str
    images: Path | None = None
    slides: Path | None = None
    mpp: float | None = None
    diameter_um: float | None = None
    class_map: dict[str, str | None] = field(default_factory=dict)
    region_class: str = REGION
    regions: Path | None = None
    outside: str = "refuse"
    ignore: tuple[str, ...] = IGNORED
    allow_empty: bool = False
    points: Path | None = None
    split: Path | None = None
    exclude: tuple[str, ...] = ()
    weight: float = 1.0
    patient: str | int | None = None

    @property
    def place(self) -> Path:
        """Where the pictures or slides are."""
        return self.slides if self.images is None else self.images

    def is_used(self, name: str) -> bool:
        """Whether ``exclude`` lets a picture or slide in."""
        return not any(word in name for word in self.exclude)

    def patient_of(self, name: str) -> str:
        """The patient of the picture or slide ``name`` (without suffix).

        Raises:
            LabelError: the rule does not suit the name.
        """
        return patient_in_name(name, self.patient, self.place)


def check_source(source: LabelSource) -> None:
    """Whether the settings of a source go together.

    Raises:
        LabelError: the first that does not.
    """
    problems = (
        (
            (source.images is None) == (source.slides is None),
            f"{source.labels}: give either `images` or `slides` for these labels",
        ),
        (
            source.format not in FORMATS,
            f"label format '{source.format}' is unknown; use {', '.join(map(repr, FORMATS[:-1]))} or '{FORMATS[-1]}'",
        ),
        (
            source.mpp is not None and not 0 < source.mpp < float("inf"),
            f"{source.place}: mpp {source.mpp} is not a size of a pixel; give um per pixel, as in 0.5",
        ),
        (
            source.diameter_um is not None and not 0 < source.diameter_um < float("inf"),
            f"{source.place}: diameter_um {source.diameter_um} is not a size of a nucleus; give um, as in 8",
        ),
        (
            source.diameter_um is not None and (source.format != "instances" or source.mpp is not None),
            f"{source.place}: diameter_um takes the place of mpp where label masks tell how large nuclei are; give one "
            "of both, and diameter_um with instances only",
        ),
        (
            not 0 < source.weight < float("inf"),
            f"{source.place}: weight {source.weight} cannot be drawn by; give a positive number",
        ),
        (
            source.outside not in {"refuse", "leave out"},
            f"{source.place}: outside '{source.outside}' is unknown; use 'refuse' or 'leave out'",
        ),
        (
            source.format == "instances" and source.images is None,
            f"{source.slides}: label masks go with pictures, not with slides; use geojson",
        ),
        (not source.labels.is_dir(), f"{source.labels}: no such folder of labels; correct `labels` in the config"),
    )
    for wrong, sentence in problems:
        if wrong:
            raise LabelError(sentence)
    require_patient_rule(source.patient, source.place)


def require_in_names(place_of: Mapping[str, Path], names: Collection[str]) -> None:
    """Make sure that every word of ``exclude`` is in a name; who is misspelt would be learnt from.

    Args:
        place_of: of each word, the images whose source has it.
        names: of all pictures and slides of a run.

    Raises:
        LabelError: the first that is in none.
    """
    for word, place in place_of.items():
        if not any(word in name for name in names):
            raise LabelError(f"{place}: exclude: no picture or slide has '{word}' in its name; correct it")
