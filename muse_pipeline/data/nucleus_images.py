"""Images with known positions of nuclei, and their sources in a pretraining config: stores of
slides, or pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy import ndarray

from muse_pipeline.cohort.patients import patient_in_name, require_patient_rule
from muse_pipeline.core.config import Mpp, Positive, require_one
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.files import complete_file
from muse_pipeline.data.unlabelled import Picture
from muse_pipeline.labels.label_sources import ParsedSource
from muse_pipeline.store.store import Store
from muse_pipeline.tissue.stain import MacenkoFit


@dataclass(frozen=True)
class NucleusSource:
    """A pretraining source: a slide's ``store`` with ``proposals``, a folder of ``images``, or
    ``labelled`` pictures.

    Attributes:
        store: image store of a slide, from ``muse step tile``.
        proposals: ``proposals.parquet`` or ``nuclei.parquet`` of the same slide.
        colour: ``colour.json`` of the slide; by default the one next to the store.
        patient_name: patient of the slide; by default derived from its id, as for labels.
        images: folder of pictures; ``detector`` finds their nuclei.
        mpp: um per pixel of the pictures, if their files do not state it.
        detector: name of a built-in model, or path of a model, that finds nuclei in ``images``.
        labelled: labelled pictures or slides, of which only positions of nuclei are used.
        exclude: strings; ``images`` whose name contains one of them are left out.
        patient: rule for the patient in a picture's name, as in ``LabelSource``.
        weight: relative frequency at which images are sampled.
    """

    store: Path | None = None
    proposals: Path | None = None
    colour: Path | None = None
    patient_name: str | None = None
    images: Path | None = None
    mpp: Mpp | None = None
    detector: str = "label_free"
    labelled: ParsedSource | None = None
    exclude: tuple[str, ...] = ()
    patient: str | int | None = None
    weight: Positive = 1.0

    def __post_init__(self) -> None:
        require_one(self, ("store", "images", "labelled"), "a pretraining source")
        if self.store is not None and self.proposals is None:
            raise ConfigError(
                f"{self.store}: `proposals` is missing; find the nuclei with `muse step propose`"
                " and name its file"
            )
        if self.images is None and (self.exclude or self.mpp is not None):
            name = "exclude" if self.exclude else "mpp"
            raise ConfigError(
                f"{self.location}: `{name}` is a setting of `images`; remove it from this source,"
                " or move it into `labelled`"
            )
        if self.labelled is not None and self.labelled.weight != 1:
            raise ConfigError(
                f"{self.location}: `weight` is set inside `labelled`; set it next to `labelled`"
            )
        require_patient_rule(self.patient, self.location)

    @property
    def location(self) -> Path:
        """The file or folder of the source's images."""
        return self.store or self.images or self.labelled.location

    def patient_of(self, name: str) -> str:
        """The patient of the picture or slide ``name``, by the same rules as for label sources."""
        if self.patient_name is not None:
            return self.patient_name
        return patient_in_name(name, self.patient, self.location)


@dataclass(frozen=True, eq=False)
class NucleusImage:
    """An image with positions of nuclei."""

    name: str  # name of the picture, or id of the slide
    patient: str  # patient of the image
    mpp: float  # um per pixel
    # stains fitted to the picture or the slide's tissue; None if the fit failed
    stain: MacenkoFit | None
    weight: float  # relative frequency at which the image is sampled
    image: Store | Picture  # pixels; those of a store are read on demand
    # positions of nuclei, or the folder in which ``NucleusIndex.save`` wrote them
    index: NucleusIndex | Path

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)."""
        return self.image.size_px

    @property
    def nuclei(self) -> NucleusIndex:
        """The positions; those in a folder are memory-mapped at each access, so that a cohort needs
        little memory.
        """
        if isinstance(self.index, NucleusIndex):
            return self.index
        return NucleusIndex.open(self.index, self.size_px, self.mpp)

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> ndarray:
        """(h, w, 3) uint8 as in ``data.unlabelled.Image.read``."""
        return self.image.read(xy, size)


CELL_UM = 64.0
FILES = ("xy", "occupied", "start")


@dataclass(frozen=True, eq=False)
class NucleusIndex:
    """Positions of nuclei, sorted by the square cells that contain them."""

    cell_px: float  # side of a cell
    n_columns: int  # number of cells per row
    xy: ndarray  # (N, 2) float32 image px
    # (C,) int64 indices, ascending, of the cells that contain nuclei, counted row by row
    occupied: ndarray
    # (C + 1,) int64, index in ``xy`` of the first nucleus of each occupied cell; the last entry is
    # N
    start: ndarray

    @classmethod
    def build(
        cls, xy: ndarray, size_px: tuple[int, int], mpp: float
    ) -> tuple[NucleusIndex, ndarray]:
        """Index positions (N, 2) in an image of ``size_px`` = (width, height); those outside it are
        left out.

        Returns the index, and for each of its M positions the row of ``xy`` that it comes from.
        """
        xy = np.asarray(xy, np.float64).reshape(-1, 2)
        inside = np.flatnonzero(((xy >= 0) & (xy < size_px)).all(1))
        xy = xy[inside].astype(np.float32)
        cell_px, n_columns = _cells(size_px, mpp)
        column, row = np.floor(xy / cell_px).astype(np.int64).T
        # rounding may lead past the last column
        number = row * n_columns + column.clip(max=n_columns - 1)
        order = np.lexsort((xy[:, 0], xy[:, 1], number))  # equal positions keep their order
        occupied, first = np.unique(number[order], return_index=True)
        index = cls(
            cell_px, n_columns, xy[order], occupied, np.append(first, len(xy)).astype(np.int64)
        )
        return index, inside[order]

    @classmethod
    def open(cls, folder: Path, size_px: tuple[int, int], mpp: float) -> NucleusIndex:
        """Open an index that ``save`` wrote, memory-mapped."""
        arrays = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in FILES]
        return cls(*_cells(size_px, mpp), *arrays)

    def save(self, folder: Path) -> None:
        """Write the index to a new folder, atomically."""
        with complete_file(folder) as partial:
            partial.mkdir()
            self.write(partial)

    def write(self, folder: Path) -> None:
        """Write the files of the index into an existing folder."""
        for name in FILES:
            np.save(folder / f"{name}.npy", getattr(self, name))

    def inside(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[ndarray, ndarray]:
        """Indices (M,) in ``xy``, and positions (M, 2) float64, of the nuclei in a half-open box in
        image px.
        """
        first, last = (max(0, int(side // self.cell_px)) for side in (left, right))
        last = min(last, self.n_columns - 1)
        rows = (
            np.arange(max(0, int(top // self.cell_px)), int(bottom // self.cell_px) + 1)
            * self.n_columns
        )
        begin = self.start[np.searchsorted(self.occupied, rows + first)]
        end = self.start[np.searchsorted(self.occupied, rows + last, side="right")]
        numbers = np.concatenate([np.zeros(0, np.int64), *map(np.arange, begin, end)])
        xy = self.xy[numbers].astype(np.float64)
        kept = ((xy >= (left, top)) & (xy < (right, bottom))).all(1)
        return numbers[kept], xy[kept]

    def draw(self, generator: np.random.Generator) -> ndarray:
        """Sample the position (2,) of a nucleus: first one of the occupied cells, then one of its
        nuclei.
        """
        cell = generator.integers(len(self.occupied))
        return self.xy[generator.integers(self.start[cell], self.start[cell + 1])].astype(
            np.float64
        )


def _cells(size_px: tuple[int, int], mpp: float) -> tuple[float, int]:
    cell_px = CELL_UM / mpp
    return cell_px, max(1, int(np.ceil(size_px[0] / cell_px)))
