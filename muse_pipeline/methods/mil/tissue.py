"""Tissue labels: pictures with one label each, and areas of a class drawn on slides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import shapely
from numpy import ndarray

from muse_pipeline.cohort.patients import patient_in_name, require_patient_rule
from muse_pipeline.cohort.sheet import is_missing, read_sheet
from muse_pipeline.core.config import Mpp, require_one
from muse_pipeline.core.coords import level0_to_work
from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.core.files import read_rows
from muse_pipeline.core.pictures import list_pictures, read_grey, read_rgb, resize_picture
from muse_pipeline.labels.base_source import require_folder
from muse_pipeline.labels.nuclei_files import require_size
from muse_pipeline.labels.region_windows import fill_polygon, open_regions
from muse_pipeline.nuclei.class_names import find_name
from muse_pipeline.qupath.regions import read_class_areas
from muse_pipeline.slides.inspect import inspect_slide
from muse_pipeline.slides.signature import fingerprint_file
from muse_pipeline.tissue.stain import MacenkoFit, fit_macenko

UNKNOWN = 255  # value of unknown pixels in maps of class indices
KINDS = ("folders", "images", "slides")


@dataclass(frozen=True)
class TissueSource:
    """Source of tissue labels: one of ``folders``, ``images`` and ``slides``.

    Attributes:
        folders: folder with one folder of pictures per class, named after the class.
        images: folder of pictures, whose labels are in ``table``.
        table: TSV or CSV with the columns ``image``, ``label`` and optionally ``patient``.
        slides: sheet of slides; the areas drawn on them are in ``areas``.
        areas: folder of GeoJSON from QuPath, ``<slide_id>.geojson``, with areas of classes; all
            other tissue is unknown.
        masks: folder of PNG masks with the names of the pictures: class index of every pixel, 255
            if unknown. Used only for scores, never for training.
        mpp: um per pixel of the pictures.
        class_map: class name of the model for each word in the labels; all other words must be
            class names.
        exclude: strings; pictures or slides whose name contains one of them are left out.
        patient: rule for the patient in a name, as in ``sources.LabelSource``; a patient in the
            table or sheet has precedence.
    """

    folders: Path | None = None
    images: Path | None = None
    table: Path | None = None
    slides: Path | None = None
    areas: Path | None = None
    masks: Path | None = None
    mpp: Mpp | None = None
    class_map: dict[str, str] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    patient: str | int | None = None

    def __post_init__(self) -> None:
        require_one(self, KINDS, "a source of tissue labels")
        if (self.images is None) != (self.table is None):
            raise ConfigError("`images` and `table` belong together; give both")
        if (self.slides is None) != (self.areas is None):
            raise ConfigError("`slides` and `areas` belong together; give both")
        if self.slides is None and self.mpp is None:
            raise ConfigError(
                f"{self.location}: `mpp` is missing; give the um per pixel of the pictures"
            )
        require_patient_rule(self.patient, self.location)

    @property
    def location(self) -> Path:
        """Folder of the pictures, or sheet of the slides."""
        return self.folders or self.images or self.slides


@dataclass(frozen=True, eq=False, kw_only=True)
class TissueImage:
    """A picture with tissue labels at the model's mpp."""

    # name of the picture, preceded by its class folder if it has one; for part of a slide, the
    # slide's id and the corner of the part in work px
    name: str
    pixels: ndarray  # (h, w, 3) uint8
    label: int  # class index of the image; -1 if its pixels are labelled instead
    # (h, w) uint8 class index or ``UNKNOWN``; None if the image has one label
    target: ndarray | None = None
    # (h, w) uint8 class index or ``UNKNOWN``, used only for scores; None if the source has no masks
    mask: ndarray | None = None
    patient: str = ""  # patient of the image
    # stains fitted to the picture or to the tissue of its slide; None if the fit failed
    stain: MacenkoFit | None = None


@dataclass(frozen=True)
class LabelledPath:
    """A picture's file, name, label (class index) and patient."""

    path: Path
    name: str
    label: int
    patient: str


def read_tissue_images(
    sources: Sequence[TissueSource], classes: tuple[str, ...], mpp: float, window_px: int
) -> list[TissueImage]:
    """Read every picture of every source and every drawn area of every slide, at ``mpp``.

    Pictures must be at least as large as a training window of ``window_px``; areas are read with
    enough context for it.
    """
    images = []
    for source in sources:
        if source.slides is not None:
            images += _read_areas(source, classes, mpp, window_px)
        else:
            images += [
                _read_picture(path, source, len(classes), mpp)
                for path in list_labelled(source, classes)
            ]
    if small := [image for image in images if min(image.pixels.shape[:2]) < window_px]:
        height, width = small[0].pixels.shape[:2]
        raise LabelError(
            f"{small[0].name}: is {width} x {height} px at {mpp:g} um/px, smaller than a window of"
            f" {window_px} px{f' ({len(small)} such images)' if len(small) > 1 else ''}; lower"
            " `window_px` or give larger images"
        )
    return images


def require_locations(sources: Sequence[TissueSource]) -> None:
    """Require that the files and folders of sources exist."""
    for source in sources:
        for kind in (*KINDS, "table", "areas", "masks"):
            location = getattr(source, kind)
            if location is not None and not location.exists():
                raise LabelError(
                    f"{location}: no such file or folder; correct `{kind}` in the config"
                )


def list_labelled(source: TissueSource, classes: tuple[str, ...]) -> list[LabelledPath]:
    """List the pictures of a source with their labels, in the order of the folders or the table."""
    pictures = (
        _in_folders(source, classes) if source.folders is not None else _in_table(source, classes)
    )
    used = [
        picture for picture in pictures if not any(word in picture.name for word in source.exclude)
    ]
    if not used:
        raise LabelError(
            f"{source.location}: has no labelled picture; correct the path or `exclude`"
        )
    of_content = {}
    for picture in used:
        other = of_content.setdefault(fingerprint_file(picture.path), picture)
        if other.label != picture.label:
            raise LabelError(
                f"{other.path} and {picture.path} are the same picture with the labels"
                f" {classes[other.label]} and {classes[picture.label]}; remove one"
            )
    return used


def _in_folders(source: TissueSource, classes: tuple[str, ...]) -> Iterator[LabelledPath]:
    require_folder(source.folders, "folders")
    for folder in sorted(path for path in source.folders.iterdir() if path.is_dir()):
        label = find_label(folder.name, source.class_map, classes, source.folders)
        for path in list_pictures(folder):
            patient = patient_in_name(path.stem, source.patient, source.folders)
            yield LabelledPath(path, f"{folder.name}/{path.stem}", label, patient)


def _in_table(source: TissueSource, classes: tuple[str, ...]) -> Iterator[LabelledPath]:
    require_folder(source.images, "images")
    pictures = {
        name: path for path in list_pictures(source.images) for name in (path.name, path.stem)
    }
    rows = read_label_table(source.table, "image")
    for name, (word, patient) in rows.items():
        if name not in pictures:
            raise LabelError(
                f"{source.table}: labels '{name}', but there is no such picture in {source.images};"
                " correct either"
            )
        path = pictures[name]
        label = find_label(word, source.class_map, classes, source.table)
        own = patient or patient_in_name(path.stem, source.patient, source.images)
        yield LabelledPath(path, path.stem, label, own)


def read_label_table(path: Path, column: str) -> dict[str, tuple[str, str]]:
    """Read a TSV or CSV table as (label, patient), keyed by the name in ``column``; the patient is
    "" if not given.
    """
    _, ((_, header), *rows) = read_rows(path, f"{column}, label")
    if not rows or not {column, "label"} <= set(header):
        raise LabelError(
            f"{path}: needs the columns '{column}' and 'label' and at least one row; add them"
        )
    labels = {}
    for row in (dict(zip(header, cells, strict=False)) for _, cells in rows):
        name, value, patient = (row.get(field, "") for field in (column, "label", "patient"))
        if (
            labels.setdefault(name, (value, "" if is_missing("patient", patient) else patient))[0]
            != value
        ):
            raise LabelError(
                f"{path}: labels '{name}' both {labels[name][0]} and {value}; keep one label"
            )
    return labels


def find_label(
    word: str, class_map: dict[str, str], classes: tuple[str, ...], location: Path
) -> int:
    """Index of the class that a ``word`` in the file or folder ``location`` refers to."""
    key = find_name(word, class_map)
    name = find_name(class_map[key] if key else word, classes)
    if name is None:
        raise LabelError(
            f"{location}: label '{word}' is not a class of the model ({', '.join(classes)});"
            " correct it or add it to `class_map`"
        )
    return classes.index(name)


def _read_picture(
    picture: LabelledPath, source: TissueSource, n_classes: int, mpp: float
) -> TissueImage:
    pixels = read_rgb(picture.path)
    mask = (
        None
        if source.masks is None
        else _read_mask(picture, source.masks, pixels.shape[1::-1], n_classes)
    )
    stain = fit_macenko(pixels.reshape(-1, 3))
    pixels = resize_picture(pixels, source.mpp / mpp)
    if mask is not None:
        mask = cv2.resize(mask, pixels.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    facts = {"name": picture.name, "label": picture.label, "patient": picture.patient}
    return TissueImage(pixels=pixels, mask=mask, stain=stain, **facts)


def _read_mask(
    picture: LabelledPath, folder: Path, size_px: tuple[int, int], n_classes: int
) -> ndarray:
    """Read the mask (h, w) uint8 of a picture."""
    named = folder / f"{picture.name}.png", folder / f"{picture.path.stem}.png"
    path = next(filter(Path.is_file, named), named[0])
    if (mask := read_grey(path)) is None:
        raise LabelError(
            f"{folder}: has no readable mask for {picture.name}; add {picture.path.stem}.png"
        )
    require_size(path, mask, size_px)
    if strange := sorted(set(np.unique(mask).tolist()) - {*range(n_classes), UNKNOWN}):
        raise LabelError(
            f"{path}: has the value {strange[0]}; give class indices from 0 to {n_classes - 1}, and"
            f" {UNKNOWN} for unknown"
        )
    return mask


def _read_areas(
    source: TissueSource, classes: tuple[str, ...], mpp: float, window_px: int
) -> Iterator[TissueImage]:
    """Read the areas drawn on the slides of a sheet, each with the tissue around it, which is
    unlabelled.
    """
    rows = [
        row
        for row in read_sheet(source.slides)
        if not any(word in row.slide_id for word in source.exclude)
    ]
    files = {row.slide_id: source.areas / f"{row.slide_id}.geojson" for row in rows}
    drawn = [row for row in rows if files[row.slide_id].is_file()]
    if not drawn:
        raise LabelError(
            f"{source.areas}: has no areas of any slide; export them as"
            f" {next(iter(files.values())).name}"
        )
    for row in drawn:
        info = inspect_slide(row.path, row.slide_id, row.mpp)
        shapes = defaultdict(list)
        for area in read_class_areas(files[row.slide_id], info):
            index = find_label(area.class_name, source.class_map, classes, files[row.slide_id])
            shapes[index].append(
                shapely.transform(area.shape, lambda xy, i=info: level0_to_work(xy, i.mpp, mpp))
            )
        areas = {index: shapely.union_all(of_class) for index, of_class in sorted(shapes.items())}
        _require_disjoint(areas, classes, files[row.slide_id])
        with open_regions(row.path, info, mpp) as regions:
            for window, pixels in regions.read(shapely.union_all(list(areas.values())), window_px):
                target = np.full(window.size[::-1], UNKNOWN, np.uint8)
                for index, shape in areas.items():
                    target[fill_polygon(shape, window.origin, window.size) & window.mask()] = index
                yield TissueImage(
                    name=f"{row.slide_id}_x{window.cell[0]}_y{window.cell[1]}",
                    pixels=pixels,
                    label=-1,
                    target=target,
                    patient=row.patient
                    or patient_in_name(row.slide_id, source.patient, source.slides),
                    stain=regions.colour.macenko,
                )


# maximum overlap, as a share of the smaller area; hand-drawn neighbours overlap a little
MOST_OVERLAP = 0.05


def _require_disjoint(
    areas: dict[int, shapely.Geometry], classes: tuple[str, ...], path: Path
) -> None:
    """Reject areas of different classes that overlap by more than ``MOST_OVERLAP``."""
    for (index, shape), (other, against) in combinations(areas.items(), 2):
        if shape.intersection(against).area > MOST_OVERLAP * min(shape.area, against.area):
            raise LabelError(
                f"{path}: areas of {classes[index]} and {classes[other]} overlap; redraw them so"
                " that each point has one class"
            )


def require_all_classes(
    images: Sequence[TissueImage], classes: tuple[str, ...], split: str
) -> None:
    """Require at least one image of every class; ``split`` names the images in the message."""
    labels = {
        label
        for image in images
        for label in np.unique(image.label if image.target is None else image.target)
    }
    if missing := [name for index, name in enumerate(classes) if index not in labels]:
        raise LabelError(
            f"the {split} images contain no {' and no '.join(missing)}; add images of every class"
        )
