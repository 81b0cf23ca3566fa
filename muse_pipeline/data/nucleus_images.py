"""Images whose nuclei are known by position alone, as a pretraining config names them: slides' stores, or pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from muse_pipeline.config import require_between
from muse_pipeline.data.label_source import LabelSource
from muse_pipeline.data.nucleus_index import NucleusIndex
from muse_pipeline.data.unlabelled_windows import Picture
from muse_pipeline.errors import ConfigError
from muse_pipeline.slides.patients import patient_in_name, require_patient_rule
from muse_pipeline.tiles.store import Store
from muse_pipeline.tissue.macenko import MacenkoFit


@dataclass(frozen=True)
class NucleusSource:
    """One of three: a slide's ``store`` with its ``proposals``, a folder of ``images``, or ``labelled`` pictures.

    Attributes:
        store: that ``muse tile`` wrote.
        proposals: ``proposals.parquet`` or ``nuclei.parquet`` of the same slide.
        colour: ``colour.json`` of the slide; the one in the store's folder when not given.
        patient_name: whose slide it is; by default what the rule of labels makes of its id.
        images: folder of pictures; a model finds their nuclei.
        mpp: um per pixel of the pictures, where their files do not say.
        detector: built-in model, or path of one, that finds nuclei in ``images``.
        labelled: pictures or slides whose labels give the positions; classes are not looked at.
        exclude: of ``images``, those whose name contains one of these are left out.
        patient: how a picture's name tells the patient, see ``LabelSource``.
        weight: how often its images are drawn, relative to those of other sources.
    """

    store: Path | None = None
    proposals: Path | None = None
    colour: Path | None = None
    patient_name: str | None = None
    images: Path | None = None
    mpp: float | None = None
    detector: str = "label_free"
    labelled: LabelSource | None = None
    exclude: tuple[str, ...] = ()
    patient: str | int | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        given = [name for name in ("store", "images", "labelled") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(
                "a source of pretraining names one of `store`, `images` and `labelled`, not "
                f"{' and '.join(f'`{name}`' for name in given) or 'none'}"
            )
        if self.store is not None and self.proposals is None:
            raise ConfigError(
                f"{self.store}: `proposals` is missing; find its nuclei with `muse propose` and name them"
            )
        for name in ("exclude", "mpp", *(["patient"] if self.labelled else [])):
            if self.images is None and getattr(self, name) not in (None, ()):
                raise ConfigError(
                    f"{self.place}: `{name}` is a setting of `images`; take it out of this source, or give it below "
                    "`labelled`"
                )
        require_between(self, "a source of pretraining", mpp=(0.01, 100))
        if not 0 < self.weight < float("inf"):
            raise ConfigError(f"{self.place}: weight {self.weight} cannot be drawn by; give a positive number")
        require_patient_rule(self.patient, self.place)

    @property
    def place(self) -> Path:
        """Where its images are."""
        return self.store or self.images or self.labelled.place

    def patient_of(self, name: str) -> str:
        """The patient of the picture or slide ``name``, by the rule of label sources."""
        if self.patient_name is not None:
            return self.patient_name
        return patient_in_name(name, self.patient, self.place)


@dataclass(frozen=True, eq=False)
class NucleusImage:
    """One of them; pixels and positions are only read where they are asked for.

    Attributes:
        name: of the picture, or id of the slide.
        patient: whose it is.
        mpp: um per pixel.
        size_px: (width, height).
        stain: fitted on the picture or on the slide's tissue; None where that failed.
        weight: how often it is drawn, relative to others.
    """

    name: str
    patient: str
    mpp: float
    size_px: tuple[int, int]
    stain: MacenkoFit | None
    weight: float

    @property
    def nuclei(self) -> NucleusIndex:
        """Where its nuclei are."""
        raise NotImplementedError

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """(h, w, 3) uint8 of ``size`` = (width, height) px whose corner is at ``xy``, which may lie outside."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class NucleusPicture(NucleusImage):
    """A picture in memory; beyond its border it is mirrored.

    Attributes:
        pixels: (h, w, 3) uint8.
        index: of its nuclei.
    """

    pixels: np.ndarray
    index: NucleusIndex

    @property
    def nuclei(self) -> NucleusIndex:
        """Where its nuclei are."""
        return self.index

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """See ``NucleusImage``."""
        return Picture(self.pixels).read(xy, size)


@dataclass(frozen=True, eq=False)
class NucleusSlide(NucleusImage):
    """A slide's store, whose files are opened where they are read, and the folder of its index.

    Attributes:
        store: opened; no pixel is kept.
        folder: that ``NucleusIndex.save`` wrote.
    """

    store: Store
    folder: Path

    @property
    def nuclei(self) -> NucleusIndex:
        """Where its nuclei are; mapped anew at each look, so that a cohort's maps do not add up."""
        return NucleusIndex.open(self.folder, self.size_px, self.mpp)

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """See ``NucleusImage``."""
        return self.store.read(xy, size)
