"""Slides with a label file each: annotated regions, with context around them, become labelled
images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from muse_pipeline.cohort.collect import collect_slides
from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.sheet import SheetRow, read_sheet
from muse_pipeline.core.coords import level0_to_work, qupath_offset_px, work_to_level0
from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.types import Frame, SlideInfo
from muse_pipeline.labels.base_source import (
    OF_SOURCE,
    Canvas,
    FolderSource,
    Sample,
    TargetModel,
    require_agreement,
)
from muse_pipeline.labels.class_areas import AreaDetector, ClassAreas
from muse_pipeline.labels.labelled_image import LabelledImage, complete_outlines
from muse_pipeline.labels.nuclei_files import FileNuclei
from muse_pipeline.labels.region_windows import DrawnRegions, open_regions
from muse_pipeline.nuclei.parquet import footer_checksum
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.qupath.parse import iterate_features, properties_of
from muse_pipeline.slides.base import open_slide
from muse_pipeline.slides.inspect import inspect_slide

# context around the cell of a window, so that nuclei found at its border are complete
SURROUND_PX = 64
# context around the cell of a window, for outlines that grow over its border
OUTLINE_MARGIN_UM = 30.0
# metadata keys of regions drawn in the viewer (page/teach.js)
SLIDE, NUCLEI = "muse slide", "muse nuclei"


@dataclass(frozen=True, kw_only=True)
class SlideSource(FolderSource):
    """Slides with a label file each, in which regions are annotated.

    Attributes:
        slides: sheet of slides (TSV or CSV) or folder of slides.
        results: output folder of the run whose nuclei were corrected in the viewer; corrections of
            older nuclei are rejected.
    """

    slides: Path
    results: Path | None = None

    @property
    def location(self) -> Path:
        """Sheet or folder of the slides."""
        return self.slides

    def list_all(self) -> list[Sample]:
        """List every slide of the sheet or folder, used or not."""
        rows = (
            collect_slides(self.slides, self.mpp)
            if self.slides.is_dir()
            else read_sheet(self.slides)
        )
        return [
            Sample(row.slide_id, row.patient, alias=Path(row.path).name, row=row) for row in rows
        ]

    def in_split(self, samples: list[Sample]) -> list[Sample]:
        """The slides in ``split``: a file of names, or a value in the sheet's split column."""
        splits = sorted({sample.row.split for sample in samples if sample.row.split})
        if self.split is None or self.split.is_file() or not splits:
            return super().in_split(samples)
        if self.split.name not in splits:
            raise LabelError(
                f"{self.slides}: no slide has the split '{self.split.name}'; choose one of"
                f" {', '.join(splits)}"
            )
        return [sample for sample in samples if sample.row.split == self.split.name]

    def inspect(self, row: SheetRow) -> SlideInfo:
        """Read the header of a slide, and reject a stated mpp that disagrees with the file's."""
        stated = row.mpp if self.mpp is None else self.mpp
        with open_slide(row.path) as slide:
            in_file = next(iter(slide.properties.mpp_candidates), None)
        if stated is not None:
            if in_file is not None and not in_file.is_estimate:
                origin = (
                    OF_SOURCE
                    if self.mpp is not None
                    else f"`mpp` of slide '{row.slide_id}' in {self.slides}"
                )
                require_agreement(row.path, stated, in_file.mpp, in_file.source, origin)
        elif in_file is None:
            where = f"in the column mpp of {self.slides}, or as `mpp` of this source"
            raise LabelError(
                f"{row.path}: the file does not state the size of a pixel; give um per pixel"
                f" {where}"
            )
        return inspect_slide(row.path, row.slide_id, stated)

    def read(self, model: TargetModel) -> Iterator[LabelledImage]:
        """Read the annotated regions, or the areas, of the chosen slides, each with the tissue
        around it.
        """
        folders = self.find_files()
        detector = (
            AreaDetector(self.detector, model.mpp, model.n_rays) if self.format == "areas" else None
        )
        for sample in self.choose():
            info = self.inspect(sample.row)
            title = f"slide '{info.slide_id}'"
            offset_px = qupath_offset_px(info.bounds)
            canvas = Canvas(title, Frame.LEVEL0, info.size_px, info.mpp, offset_px)
            files = {kind: folder.of(sample.name) for kind, folder in folders.items()}
            if detector is None:
                # A position that is marked as no nucleus in the viewer is a region without a
                # nucleus.
                from_viewer = self.format == "geojson" and is_from_viewer(
                    files["labels"], info, self.results
                )
                labels = self.read_labels(files, canvas, model)
                yield from self._read_regions(sample, info, labels, model, may_be_empty=from_viewer)
            else:
                areas = self.read_class_areas(files["labels"], canvas, model)
                yield from self._read_areas(sample, info, areas, detector, model)

    def _read_regions(
        self,
        sample: Sample,
        info: SlideInfo,
        labels: FileNuclei,
        model: TargetModel,
        may_be_empty: bool,
    ) -> Iterator[LabelledImage]:
        """Read the annotated regions of a slide; if they ``may_be_empty``, their nuclei and tissue
        are not checked.
        """
        self.require_area(labels)
        inside = self.find_inside(labels)
        nuclei = labels.nuclei[inside].require(Frame.LEVEL0)
        nuclei = replace(
            nuclei, xy=level0_to_work(nuclei.xy, info.mpp, model.mpp), frame=Frame.WORK
        )
        area = _on_slide(labels.area, info, f"{labels.path}: its regions")
        area = shapely.transform(area, lambda xy: level0_to_work(xy, info.mpp, model.mpp))
        with open_regions(sample.row.path, info, model.mpp) as regions:
            if not may_be_empty:
                self._require_nuclei(area, nuclei, labels.path, regions)
            n_left_out = int((~inside).sum())
            stain = regions.colour.macenko
            for window, pixels in regions.read(area, model.context_px):
                own = nuclei[window.contains(nuclei.xy)]
                own = replace(own, xy=own.xy - window.origin, frame=Frame.WINDOW)
                if self.grow_outlines:
                    near, corner = window.around_cell(pixels, round(OUTLINE_MARGIN_UM / model.mpp))
                    grown = complete_outlines(
                        near, replace(own, xy=own.xy - corner), stain, model.mpp
                    )
                    own = replace(own, rays=grown.rays)
                facts = regions.describe(sample.name, window)
                yield self.image(sample, pixels, own, n_left_out=n_left_out, **facts)
                n_left_out = 0

    def _require_nuclei(
        self, area: BaseGeometry, nuclei: Nuclei, path: Path, regions: DrawnRegions
    ) -> None:
        """Reject a region without a nucleus, or with half of its nuclei on glass, because the frame
        may be wrong.
        """
        info = regions.info
        for region in shapely.get_parts(area):
            own = nuclei.xy[shapely.intersects_xy(region, *nuclei.xy.T)]
            n_off = int((~regions.in_tissue(own)).sum())
            x, y = work_to_level0(
                np.array(region.bounds[:2]), info.mpp, regions.mpp
            ) - qupath_offset_px(info.bounds)
            # as QuPath counts
            where = f"{path}: the region at ({x:.0f}, {y:.0f}) of slide '{info.slide_id}'"
            if not len(own) and not self.allow_empty:
                raise LabelError(
                    f"{where} contains no nucleus; label its nuclei, delete the region, or set"
                    " `allow_empty: true` if there are none"
                )
            if len(own) and 2 * n_off >= len(own):
                raise LabelError(
                    f"{where} lies on glass ({n_off} of its {len(own)} nuclei are outside tissue);"
                    " are the positions pixels of this slide, as in QuPath?"
                )

    def _read_areas(
        self,
        sample: Sample,
        info: SlideInfo,
        areas: ClassAreas,
        detector: AreaDetector,
        model: TargetModel,
    ) -> Iterator[LabelledImage]:
        """Read the areas of a slide, with the nuclei that the detector finds in them."""
        areas = areas.change(lambda shapes: _on_slide(shapes, info, f"{areas.path}: its areas"))
        areas = areas.scale(level0_to_work(np.ones(2), info.mpp, model.mpp)).shrink(
            self.margin_um / model.mpp
        )
        total = np.zeros(len(areas.shape), int)
        with open_regions(sample.row.path, info, model.mpp, enlarge=True) as regions:
            for window, pixels in regions.read(shapely.union_all(areas.shape), model.context_px):
                near, corner = window.around_cell(pixels, SURROUND_PX)
                nuclei = detector.find(near, regions.colour.macenko)
                nuclei.xy += corner
                in_work = nuclei.xy + window.origin
                # As in a run, what is found on glass is not a nucleus.
                is_own = window.contains(in_work) & regions.in_tissue(in_work)
                owner = np.where(is_own, areas.owners(in_work), -1)
                nuclei, counts = areas.label(nuclei, owner, model.classes, self.purity)
                total += [count.n_nuclei for count in counts]
                facts = regions.describe(f"{sample.name}_area", window)
                yield self.image(sample, pixels, nuclei, areas=counts, **facts)
        self.require_nuclei_in(areas, total)


def is_from_viewer(path: Path, info: SlideInfo, results: Path | None) -> bool:
    """True if the regions of a GeoJSON file were drawn in the viewer to correct nuclei.

    Corrections of a different slide, or of nuclei other than those in ``results``, are rejected.
    """
    features = [item for item in iterate_features(path) if isinstance(item, dict)]
    metadata = [properties_of(item).get("metadata") for item in features]
    marks = [
        entry for entry in metadata if isinstance(entry, dict) and {SLIDE, NUCLEI} <= entry.keys()
    ]
    if marks and {str(entry[SLIDE]) for entry in marks} != {info.fingerprint}:
        raise LabelError(
            f"{path}: comes from the viewer of a slide other than '{info.slide_id}'; rename it to"
            " that slide's id"
        )
    if not marks or results is None:
        return bool(marks)
    nuclei = SlideFiles(results / info.slide_id).nuclei
    if not nuclei.is_file():
        raise LabelError(
            f"{nuclei}: no such file; `results` must be the output folder of the run that was"
            " corrected"
        )
    if {str(entry[NUCLEI]) for entry in marks} != {footer_checksum(nuclei)}:
        raise LabelError(
            f"{path}: corrects an older result of slide '{info.slide_id}' than {nuclei}; correct"
            " the new one, or remove `results` to train on the older corrections anyway"
        )
    return True


def _on_slide(
    shapes: np.ndarray | BaseGeometry, info: SlideInfo, what: str
) -> np.ndarray | BaseGeometry:
    """The parts of shapes on a slide; ``what`` is the subject of the message about shapes that lie
    outside.
    """
    clipped = shapely.intersection(shapes, shapely.box(0, 0, *info.size_px))
    if not shapely.area(clipped).any():
        raise LabelError(
            f"{what} lie outside slide '{info.slide_id}'; do they belong to a different slide?"
        )
    return clipped
