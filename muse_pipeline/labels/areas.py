"""Labels by area: one or more classes for all nuclei that a detector finds in a drawn area.

An area labels only classes; positions come from the detector, and outlines are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely

from muse_pipeline.core.coords import level0_to_work, qupath_offset_px, work_to_level0
from muse_pipeline.core.errors import GeoJSONError, LabelError
from muse_pipeline.core.pictures import resize_picture
from muse_pipeline.core.types import Frame
from muse_pipeline.inference.detect import detect_picture
from muse_pipeline.inference.model import find_model
from muse_pipeline.inference.predictor import Predictor
from muse_pipeline.labels.formats import class_set, require_size
from muse_pipeline.labels.pictures import AreaCount, LabelledImage, read_picture
from muse_pipeline.labels.regions import RegionWindow, cut_regions, fill_polygon
from muse_pipeline.labels.slides import choose_slides, inspect_row, list_slides, name_window
from muse_pipeline.labels.sources import SUFFIXES, LabelFiles, LabelSource, all_pictures, image_paths
from muse_pipeline.nuclei.masks import label_image_to_polygons, read_mask
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.parse import GEOJSON_SUFFIXES
from muse_pipeline.qupath.read import read_geojson
from muse_pipeline.qupath.regions import are_called, union_of_areas
from muse_pipeline.slides.base import open_slide
from muse_pipeline.store.resample import AreaReader
from muse_pipeline.tissue.colour import measure_colour
from muse_pipeline.tissue.find import find_tissue
from muse_pipeline.tissue.stain import MacenkoFit, fit_macenko

SURROUND_PX = 64  # context around the cell of a window, so that nuclei at the border of the cell are complete
DETECTIONS = ("detection", "cell")  # types of QuPath objects that are nuclei, not areas


@dataclass(frozen=True, eq=False)
class ClassAreas:
    """The areas of one label file.

    Attributes:
        path: path of the file.
        unit: "feature" for GeoJSON, "value" for masks.
        number: (A,) for each area, the number of its GeoJSON feature or its value in the mask.
        shape: (A,) valid polygons or multipolygons.
        classes: indices of the classes that the nuclei of each area may have.
    """

    path: Path
    unit: str
    number: np.ndarray
    shape: np.ndarray
    classes: tuple[tuple[int, ...], ...]

    def where(self, index: int) -> str:
        """The beginning of a message about an area: its file and number."""
        return f"{self.path}, {self.unit} {self.number[index]}"

    def change(self, function: Callable[[np.ndarray], np.ndarray]) -> ClassAreas:
        """The areas with ``function`` applied to their shapes (A,)."""
        return replace(self, shape=np.array(function(self.shape), object))

    def owners(self, xy: np.ndarray) -> np.ndarray:
        """(N,) index of the area that contains each position (N, 2); -1 if none does."""
        owner = np.full(len(xy), -1)
        for index, shape in enumerate(self.shape):
            owner[shapely.intersects_xy(shape, *xy.T)] = index
        return owner

    def require_apart(self) -> None:
        """Reject areas of different classes that overlap.

        Raises:
            LabelError: two areas of different classes overlap; the message names both.
        """
        pairs = shapely.STRtree(self.shape).query(self.shape, predicate="intersects").T.tolist()
        for first, second in pairs:
            overlaps = first < second and set(self.classes[first]) != set(self.classes[second])
            if overlaps and shapely.intersection(*self.shape[[first, second]]).area > 0:
                raise LabelError(
                    f"{self.where(first)}: overlaps with {self.unit} {self.number[second]} of a different class; "
                    "cut one of the two areas, or delete it"
                )

    def require_nuclei(self, counts: np.ndarray, source: LabelSource) -> None:
        """Reject an area whose number of nuclei in ``counts`` (A,) is 0, unless ``source.allow_empty``.

        Raises:
            LabelError: an area has no nucleus; the message names it.
        """
        if not source.allow_empty and not counts.all():
            raise LabelError(
                f"{self.where(counts.argmin())}: `{source.detector.name}` finds no nucleus at least "
                f"{source.margin_um:g} um inside this area; correct the area or `mpp`, choose a different `detector`, "
                "or set `allow_empty: true`"
            )


def expected_shares(classes: tuple[int, ...], n_classes: int, purity: float) -> np.ndarray:
    """(C,) expected class shares in an area: ``purity`` split equally among ``classes``, the rest among all others."""
    shares = np.full(n_classes, (1 - purity) / max(n_classes - len(classes), 1), np.float32)
    shares[list(classes)] = purity / len(classes)
    return shares


class AreaLabeller:
    """Finds nuclei with a detector, and labels each with the classes of the area that contains it.

    Args:
        source: label source with the format "areas".
        classes: names of the model's classes.
        mpp: um per pixel of the model.
        n_rays: number of rays per nucleus; their lengths are NaN.

    Raises:
        ModelError: the detector does not exist.
    """

    def __init__(self, source: LabelSource, classes: tuple[str, ...], mpp: float, n_rays: int):
        self.source, self.classes, self.mpp, self.n_rays = source, classes, mpp, n_rays
        self.predictor = Predictor(find_model(str(source.detector)))
        self.predictor.refiner = None  # outlines are not used

    def read(self, context_px: int) -> Iterator[LabelledImage]:
        """Read every picture, or every area of every slide, with the nuclei that the detector finds.

        Raises:
            LabelError: as in ``labels.read.read_labelled_images``, or areas of different classes overlap.
        """
        return self._read_pictures() if self.source.images else self._read_slides(context_px)

    def _read_pictures(self) -> Iterator[LabelledImage]:
        """Read the pictures, resampled to the model's mpp."""
        source = self.source
        files = LabelFiles(source.labels, [path.stem for path in all_pictures(source)], SUFFIXES[source.format])
        for path in image_paths(source):
            pixels, picture_mpp = read_picture(path, source.mpp)
            areas = self.read_file(files.of(path.stem), pixels.shape[1::-1])
            stain = fit_macenko(pixels.reshape(-1, 3))
            resampled = resize_picture(pixels, picture_mpp / self.mpp)
            size_px = resampled.shape[1::-1]
            scale = np.array(size_px) / pixels.shape[1::-1]
            areas = self.cut_margin(areas.change(lambda shape, scale=scale: _transform(shape, scale)))
            nuclei = self.find(resampled, stain)
            nuclei, owner = self.label(nuclei, areas, areas.owners(nuclei.xy))
            areas.require_nuclei(np.bincount(owner, minlength=len(areas.shape)), source)
            region = fill_polygon(shapely.union_all(areas.shape), (0, 0), size_px)
            yield self.image(path.stem, resampled, nuclei, stain, region, source.patient_of(path.stem), areas, owner)

    def _read_slides(self, context_px: int) -> Iterator[LabelledImage]:
        """Read the areas drawn on the slides, each with the tissue around it."""
        rows = list_slides(self.source)
        files = LabelFiles(self.source.labels, [row.slide_id for row in rows], frozenset(GEOJSON_SUFFIXES))
        for row in choose_slides(rows, self.source):
            info = inspect_row(row, self.source)
            areas = self.read_file(files.of(row.slide_id), info.size_px, qupath_offset_px(info.bounds))
            slide_box = shapely.box(0, 0, *info.size_px)
            areas = areas.change(lambda shape, slide_box=slide_box: shapely.intersection(shape, slide_box))
            if not shapely.area(areas.shape).any():
                raise LabelError(
                    f"{areas.path}: its areas lie outside slide '{row.slide_id}'; do they belong to a different slide?"
                )
            scale = level0_to_work(np.ones(2), info.mpp, self.mpp)
            areas = self.cut_margin(areas.change(lambda shape, scale=scale: _transform(shape, scale)))
            counts = np.zeros(len(areas.shape), int)
            with open_slide(row.path, info.reader) as slide:
                reader = AreaReader(slide, info, self.mpp)
                tissue = find_tissue(slide, info).tissue
                colour = measure_colour(slide, info, tissue)
                patient = row.patient or self.source.patient_of(row.slide_id)
                for window in cut_regions(shapely.union_all(areas.shape), reader.size_px, context_px):
                    pixels = reader.read(window.origin, window.size)
                    nuclei = self._find_in_cell(pixels, window, colour.macenko)
                    in_work = nuclei.xy + window.origin
                    is_own = window.contains(in_work)
                    if not tissue.is_empty:  # as in a run, what is found on glass is not a nucleus
                        is_own &= tissue.kept.contains(work_to_level0(in_work, info.mpp, self.mpp), info.mpp)
                    owner = np.where(is_own, areas.owners(in_work), -1)
                    nuclei, owner = self.label(nuclei, areas, owner)
                    counts += np.bincount(owner, minlength=len(counts))
                    name = name_window(f"{row.slide_id}_area", window, info, self.mpp)
                    image = self.image(name, pixels, nuclei, colour.macenko, window.mask(), patient, areas, owner)
                    yield replace(image, annotated=window.annotated(), appearance=colour.appearance)
            areas.require_nuclei(counts, self.source)

    def read_file(self, path: Path, size_px: tuple[int, int], offset_px: tuple[int, int] = (0, 0)) -> ClassAreas:
        """Read the areas of a label file, in px of its picture or slide.

        Args:
            path: GeoJSON file or mask.
            size_px: (width, height) of the picture or slide.
            offset_px: (x, y) offset added to the coordinates in a GeoJSON file.

        Raises:
            LabelError: the file is broken, a mask differs in size from its picture, an area has no class or an unknown
                class, or no area has a class that is used.
        """
        is_geojson = path.name.lower().endswith(tuple(GEOJSON_SUFFIXES))
        areas = self._read_geojson(path, offset_px) if is_geojson else self._read_mask(path, size_px)
        used = np.array([len(one) > 0 for one in areas.classes], bool)
        if not used.any():
            raise LabelError(f"{path}: has no area with a class that is used; draw one, or exclude its picture")
        classes = tuple(one for one in areas.classes if one)
        return replace(areas, number=areas.number[used], shape=areas.shape[used], classes=classes)

    def _read_geojson(self, path: Path, offset_px: tuple[int, int]) -> ClassAreas:
        try:
            objects = read_geojson(path, offset_px, tiles=False)
        except (GeoJSONError, OSError) as error:
            raise LabelError(str(error)) from error
        is_area = (shapely.get_dimensions(objects.geometry) == 2) & ~np.isin(objects.object_type, DETECTIONS)
        objects = objects[is_area & ~are_called(objects, (self.source.region_class, *self.source.ignore))]
        words, numbers = objects.class_name.tolist(), objects.number.tolist()
        if None in words:
            raise LabelError(
                f"{path}, feature {numbers[words.index(None)]}: is an area without a class; set its class or delete it"
            )
        shapes = [union_of_areas(np.array([shape])) or shapely.Polygon() for shape in objects.geometry]
        classes = [self._class_set(*each, path, "feature") for each in zip(words, numbers, strict=True)]
        return ClassAreas(path, "feature", objects.number, np.array(shapes, object), tuple(classes))

    def _read_mask(self, path: Path, size_px: tuple[int, int]) -> ClassAreas:
        mask = read_mask(path)
        require_size(path, mask, size_px)
        values = np.unique(mask).astype(int)
        values = values[(values != 0) | ("0" in self.source.class_map)]
        number = np.searchsorted(values, mask.astype(int)) + 1
        shapes = label_image_to_polygons(np.where(np.isin(mask, values), number, 0).astype(np.int32))
        shapes = shapely.simplify(shapes, 1.0)  # with exact pixel borders, ``cut_margin`` takes ten times as long
        classes = [self._class_set(str(value), value, path, "value") for value in values.tolist()]
        return ClassAreas(path, "value", values, shapes, tuple(classes))

    def _class_set(self, word: str, number: int, path: Path, unit: str) -> tuple[int, ...]:
        where = f"{path}, {unit} {number}"
        classes = class_set(word, self.source, self.classes, where)
        if len(classes) == len(self.classes) > 1:
            raise LabelError(
                f"{where}: class_map maps '{word}' to every class of the model, which labels none of its nuclei; "
                "name fewer classes, or null"
            )
        return classes

    def cut_margin(self, areas: ClassAreas) -> ClassAreas:
        """Shrink areas, in px at the model's mpp, by the source's ``margin_um``.

        Raises:
            LabelError: areas of different classes still overlap after shrinking.
        """
        areas = areas.change(lambda shape: shapely.buffer(shape, -self.source.margin_um / self.mpp))
        areas.require_apart()
        return areas

    def find(self, pixels: np.ndarray, stain: MacenkoFit | None) -> Nuclei:
        """The nuclei (frame: window) that the detector finds in (h, w, 3) ``pixels``."""
        found = detect_picture(self.predictor, pixels, self.mpp, stain)
        rays = np.full((len(found), self.n_rays), np.nan, np.float32)
        return Nuclei(found.xy, Frame.WINDOW, rays=rays)

    def _find_in_cell(self, pixels: np.ndarray, window: RegionWindow, stain: MacenkoFit | None) -> Nuclei:
        """The nuclei (frame: window) that the detector finds in and around the cell of a window."""
        left, top, right, bottom = (edge - window.origin[axis % 2] for axis, edge in enumerate(window.cell))
        left, top = max(left - SURROUND_PX, 0), max(top - SURROUND_PX, 0)
        nuclei = self.find(pixels[top : bottom + SURROUND_PX, left : right + SURROUND_PX], stain)
        return replace(nuclei, xy=nuclei.xy + np.array([left, top]))

    def label(self, nuclei: Nuclei, areas: ClassAreas, owner: np.ndarray) -> tuple[Nuclei, np.ndarray]:
        """Return the M nuclei inside areas, with their expected class shares, and the index (M,) of the area of each.

        Args:
            nuclei: N nuclei that the detector found.
            areas: areas that label the nuclei.
            owner: (N,) index of the area of each nucleus; -1 if it is in none.
        """
        nuclei, owner = nuclei[owner >= 0], owner[owner >= 0]
        shares = [expected_shares(one, len(self.classes), self.source.purity) for one in areas.classes]
        label = np.array([one[0] if len(one) == 1 else -1 for one in areas.classes], np.int32)
        return replace(nuclei, prob=np.array(shares, np.float32)[owner], label=label[owner]), owner

    def image(
        self,
        name: str,
        pixels: np.ndarray,
        nuclei: Nuclei,
        stain: MacenkoFit | None,
        region: np.ndarray,
        patient: str,
        areas: ClassAreas,
        owner: np.ndarray,
    ) -> LabelledImage:
        """Make the labelled image of a picture or window at the model's mpp."""
        counts = np.bincount(owner, minlength=len(areas.classes)).tolist()
        names = [" or ".join(self.classes[index] for index in one) for one in areas.classes]
        return LabelledImage(
            name=name,
            pixels=pixels,
            nuclei=nuclei,
            stain=stain,
            weight=self.source.weight,
            grow_outlines=False,
            region=region,
            patient=patient,
            source=str(self.source.location),
            stated_mpp=self.source.mpp,
            areas=tuple(AreaCount(names[index], areas.where(index), n) for index, n in enumerate(counts)),
        )


def _transform(shape: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return shapely.transform(shape, lambda xy: xy * scale)
