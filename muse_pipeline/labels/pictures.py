"""Labelled pictures, read in any label format and resampled to the model's mpp."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import shapely

from muse_pipeline.core.errors import LabelError, SlideError
from muse_pipeline.core.pictures import resize_picture
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.formats import (
    Annotations,
    median_diameter_px,
    name_instances,
    read_annotated,
    read_instances,
    read_masks,
    read_text,
    require_distinct,
)
from muse_pipeline.labels.outlines import outline_points
from muse_pipeline.labels.regions import fill_polygon
from muse_pipeline.labels.sources import (
    MASK_FORMATS,
    SUFFIXES,
    TEXT_SUFFIXES,
    LabelFiles,
    LabelSource,
    all_pictures,
    image_paths,
)
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.mpp import PLAUSIBLE_RANGE_UM, is_square
from muse_pipeline.tissue.stain import MacenkoFit, fit_macenko


class AreaCount(NamedTuple):
    """The number of nuclei in one class area of a picture.

    Attributes:
        classes: names of the classes that the nuclei may have, joined by "or".
        area: file and number of the area.
        n_nuclei: number of nuclei.
    """

    classes: str
    area: str
    n_nuclei: int


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelledImage:
    """One picture at the model's mpp with its nuclei (frame: window).

    Attributes:
        name: name of the picture; on a slide, the slide's id and the corner of the region's cell, in level-0 px.
        pixels: (h, w, 3) uint8.
        nuclei: nuclei inside the region, with rays in um, NaN where an outline is unknown.
        stain: stains fitted to the picture or to the tissue of its slide; None if the fit failed.
        appearance: appearance of the slide, as `muse tissue` measures it; None for a picture that belongs to no slide.
        weight: relative frequency at which the image is sampled in training.
        grow_outlines: True if nuclei labelled as points have grown outlines.
        region: (h, w) bool, the annotated pixels; None if all are.
        annotated: (h, w) bool, pixels in any region of the slide, including regions whose nuclei are in other images;
            None if ``region`` includes them all.
        patient: patient of the picture.
        source: folder or sheet of the source.
        stated_mpp: um per pixel in the config; None if it was not given there.
        n_left_out: number of nuclei in the label file that were left out because they are outside all regions; 0 in
            every image of a slide but the first.
        areas: class areas whose nuclei a detector found; empty if people labelled the nuclei. With areas, only the
            expected class shares, in ``prob`` of ``nuclei``, are labels; positions are not.
    """

    name: str
    pixels: np.ndarray
    nuclei: Nuclei
    stain: MacenkoFit | None
    weight: float
    grow_outlines: bool = True
    appearance: dict[str, float] | None = None
    region: np.ndarray | None = None
    annotated: np.ndarray | None = None
    patient: str = ""
    source: str = ""
    stated_mpp: float | None = None
    n_left_out: int = 0
    areas: tuple[AreaCount, ...] = ()

    @property
    def unannotated(self) -> np.ndarray:
        """(h, w) bool: pixels outside all regions of the slide or picture."""
        if self.region is None:
            return np.zeros(self.pixels.shape[:2], bool)
        return ~(self.region if self.annotated is None else self.annotated)

    @property
    def annotated_box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the annotated area, in px."""
        height, width = self.pixels.shape[:2]
        if self.region is None or not self.region.any():
            return 0, 0, width, height
        columns, rows = (np.flatnonzero(self.region.any(axis)) for axis in (0, 1))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def complete_outlines(pixels: np.ndarray, nuclei: Nuclei, stain: MacenkoFit | None, mpp: float, n_rays: int) -> Nuclei:
    """Grow outlines for nuclei with unknown rays (NaN); all other outlines are unchanged.

    Args:
        pixels: (h, w, 3) uint8 picture.
        nuclei: nuclei (frame: window) with rays (N, R).
        stain: stains of the picture; None for textbook stains.
        mpp: um per pixel.
        n_rays: number of rays, R.
    """
    drawn = np.isfinite(nuclei.rays).all(1)
    if drawn.all():
        return nuclei
    grown = outline_points(pixels, nuclei, stain, mpp, n_rays)
    return replace(grown, rays=np.where(drawn[:, None], nuclei.rays, grown.rays))


MPP_TOLERANCE = 0.05  # maximum relative difference of a stated mpp from that in the file
OF_SOURCE = "`mpp` of this source"


def read_pictures(source: LabelSource, classes: tuple[str, ...], mpp: float, n_rays: int) -> Iterator[LabelledImage]:
    """Read every picture of a source at ``mpp``; if ``source.grow_outlines``, grow the outlines that are not drawn.

    Raises:
        LabelError: as in ``labels.read.read_labelled_images``.
    """
    stems = [path.stem for path in all_pictures(source)]
    folders = {"labels": LabelFiles(source.labels, stems, SUFFIXES.get(source.format, TEXT_SUFFIXES))}
    if source.points is not None:
        folders["points"] = LabelFiles(source.points, stems, TEXT_SUFFIXES)
    if source.regions is not None:
        folders["regions"] = LabelFiles(source.regions, stems, SUFFIXES["geojson"])
    for path in image_paths(source):
        files = {kind: folder.of(path.stem) for kind, folder in folders.items()}
        stated_mpp, origin = source.mpp, OF_SOURCE
        if source.diameter_um is not None:
            stated_mpp = source.diameter_um / median_diameter_px(files["labels"])
            origin = "the scale that follows from `diameter_um` of this source"
        pixels, picture_mpp = read_picture(path, stated_mpp, origin)
        annotations = _read(files, source, classes, pixels.shape[1::-1], picture_mpp, n_rays)
        region = _fill(annotations, pixels.shape[1::-1])
        picture = AnnotatedPicture(path.name, pixels, picture_mpp, annotations, region)
        yield label_image(picture, path.stem, source.patient_of(path.stem), source, mpp, n_rays)


@dataclass(frozen=True, eq=False)
class AnnotatedPicture:
    """A picture and its labels, before resampling.

    Attributes:
        title: name of the picture, for messages.
        pixels: (h, w, 3) uint8.
        mpp: um per pixel.
        annotations: nuclei in the picture's pixels.
        region: (h, w) bool, the annotated pixels; None if all are.
    """

    title: str
    pixels: np.ndarray
    mpp: float
    annotations: Annotations
    region: np.ndarray | None = None


def label_image(
    picture: AnnotatedPicture, name: str, patient: str, source: LabelSource, mpp: float, n_rays: int
) -> LabelledImage:
    """Resample a picture to ``mpp``; if ``source.grow_outlines``, grow the outlines that are not drawn.

    Raises:
        LabelError: the picture has no nucleus or has one outside the annotated regions, which the source does not
            allow; or points lie on nuclei only with x and y exchanged.
    """
    annotations, stain = picture.annotations, fit_macenko(picture.pixels.reshape(-1, 3))
    inside = annotations.in_regions(source)
    if picture.region is not None and not len(annotations.regions):  # the region comes from a mask, not from polygons
        column, row = annotations.nuclei.xy.astype(int).T
        inside = picture.region[row, column]
    nuclei = annotations.nuclei[inside]
    if not len(nuclei) and not source.allow_empty:
        raise LabelError(
            f"{annotations.path}: contains no nucleus in {picture.title}; exclude the picture, or set `allow_empty: "
            "true` if there is none in it"
        )
    pixels, nuclei, region = resample_picture(picture.pixels, nuclei, picture.region, picture.mpp / mpp)
    if source.grow_outlines:
        is_point = ~np.isfinite(nuclei.rays).all(1)
        nuclei = complete_outlines(pixels, nuclei, stain, mpp, n_rays)
        _require_order(annotations.path, pixels, nuclei[is_point], stain, mpp)
    return LabelledImage(
        name=name,
        pixels=pixels,
        nuclei=nuclei,
        stain=stain,
        weight=source.weight,
        grow_outlines=source.grow_outlines,
        region=region,
        patient=patient,
        source=str(source.location),
        stated_mpp=source.mpp,
        n_left_out=int((~inside).sum()),
    )


# In BRCA-M2C, 90 % of the points lie on objects of nuclear size, but at most 38 % do with x and y exchanged.
LEAST_POINTS, FEW, MOST = 10, 0.5, 0.8


def _require_order(path: Path, pixels: np.ndarray, points: Nuclei, stain: MacenkoFit | None, mpp: float) -> None:
    """Reject points that lie on nuclei only with x and y exchanged.

    Raises:
        LabelError: of at least ``LEAST_POINTS`` points, at most the share ``FEW`` lies on nuclei, but more than the
            share ``MOST`` does after the exchange.
    """
    exchanged = replace(points, xy=points.xy[:, ::-1])
    if len(points) < LEAST_POINTS or (exchanged.xy >= pixels.shape[1::-1]).any() or _share_grown(points) > FEW:
        return
    if (share := _share_grown(outline_points(pixels, exchanged, stain, mpp, points.rays.shape[1]))) > MOST:
        raise LabelError(
            f"{path}: few of its points lie on nuclei, but {share:.0%} do with x and y exchanged; exchange them, or "
            "correct the order in `format`"
        )


def _share_grown(nuclei: Nuclei) -> float:
    return np.isfinite(nuclei.rays).all(1).mean()


def read_picture(path: Path, mpp: float | None, origin: str = OF_SOURCE) -> tuple[np.ndarray, float]:
    """Read the pixels (h, w, 3) uint8 and the um per pixel of a plain picture.

    Args:
        path: path of the picture.
        mpp: um per pixel that is stated elsewhere, if known.
        origin: description of ``mpp`` for messages.

    Raises:
        LabelError: the picture cannot be decoded, its pixels are not square, or its mpp is unknown, implausible for
            nuclei, or different from that in the file.
    """
    try:
        with open_slide(path, "image") as picture:
            known = next(iter(picture.properties.mpp_candidates), None)
            pixels = picture.read_level((0, 0), 0, picture.properties.level_sizes_px[0])
    except SlideError as error:
        raise LabelError(str(error)) from error
    if known is not None and not is_square(known.mpp):
        raise LabelError(
            f"{path}: its pixels are {known.mpp[0]:.4g} um wide and {known.mpp[1]:.4g} um high ({known.source}), but a "
            "labelled picture needs square pixels; resample it and its labels, or label it as a slide"
        )
    if mpp is not None and known is not None:
        require_agreement(path, mpp, known.mpp, known.source, origin)
    if mpp is not None or known is None:
        return pixels, require_mpp(path, mpp, origin)
    return pixels, require_mpp(path, float(known.mpp[0]), f"the mpp in the file ({known.source})")


def require_mpp(path: Path, mpp: float | None, origin: str = OF_SOURCE) -> float:
    """Return ``mpp`` if it is known and plausible for a picture of nuclei.

    Args:
        path: path of the picture.
        mpp: um per pixel in the file or the config, if given.
        origin: description of ``mpp`` for the message.

    Raises:
        LabelError: the mpp is unknown, or implausible for a picture of nuclei.
    """
    if mpp is None:
        raise LabelError(f"{path}: its pixel size is unknown; give `mpp`, um per pixel, in this source")
    low, high = PLAUSIBLE_RANGE_UM
    if not low <= mpp <= high:
        raise LabelError(
            f"{path}: {mpp:.4g} um per pixel is outside the range for nuclei, {low:g} to {high:g}; correct {origin}"
        )
    return mpp


def require_agreement(
    path: Path | str, mpp: float, known: tuple[float, float], known_source: str, origin: str = OF_SOURCE
) -> None:
    """Reject an mpp that differs by more than 5 % from the mpp in the file; ``origin`` describes it in the message.

    Raises:
        LabelError: the values differ; the message has both.
    """
    if any(abs(mpp / side - 1) > MPP_TOLERANCE for side in known):
        raise LabelError(
            f"{path}: {origin} is {mpp:.4g} um/px, but the file states {known[0]:.4g} um/px ({known_source}); correct "
            "or remove the former"
        )


def _read(
    files: dict[str, Path],
    source: LabelSource,
    classes: tuple[str, ...],
    size_px: tuple[int, int],
    mpp: float,
    n_rays: int,
) -> Annotations:
    path = files["labels"]
    if source.format in MASK_FORMATS:
        read = read_masks if source.format == "masks" else read_instances
        annotations = read(path, size_px, mpp, n_rays)
        if "points" in files:
            points = read_text(files["points"], source, classes, Frame.WINDOW, n_rays, "x y class")
            points.require_within(size_px, "the picture")
            name_instances(annotations, points, mpp)
    elif source.format == "geojson":
        annotations = read_annotated(path, source, classes, Frame.WINDOW, (mpp, mpp), n_rays)
    else:
        annotations = read_text(path, source, classes, Frame.WINDOW, n_rays)
    annotations.require_within(size_px, "the picture")
    require_distinct(path, annotations.nuclei.xy, (mpp, mpp))
    if "regions" in files:
        drawn = read_annotated(files["regions"], source, classes, Frame.WINDOW, (mpp, mpp), n_rays)
        drawn.require_regions(source, "the picture")
        annotations = replace(annotations, regions=drawn.regions)
    return annotations


def _fill(annotations: Annotations, size_px: tuple[int, int]) -> np.ndarray | None:
    """(h, w) bool: True in the regions; None if there are none.

    Raises:
        LabelError: the regions lie outside the picture.
    """
    if not len(annotations.regions):
        return None
    region = fill_polygon(shapely.union_all(annotations.regions), (0, 0), size_px)
    if not region.any():
        raise LabelError(f"{annotations.path}: its regions contain no pixel of the picture; do they belong to it?")
    return region


def resample_picture(
    pixels: np.ndarray, nuclei: Nuclei, region: np.ndarray | None, factor: float
) -> tuple[np.ndarray, Nuclei, np.ndarray | None]:
    """Scale the pixels (h, w, 3), nuclei and region (h, w) of a picture by ``factor``."""
    resized = resize_picture(pixels, factor)
    size = resized.shape[1::-1]
    if region is not None:
        # INTER_NEAREST rounds positions down, which would shift the region by half a pixel.
        region = cv2.resize(region.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0
    return resized, replace(nuclei, xy=nuclei.xy * (np.array(size) / pixels.shape[1::-1])), region
