"""Pictures with a label file each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import shapely

from muse_pipeline.core.config import Positive
from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.pictures import list_pictures, resize_picture
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.base_source import (
    FORMATS,
    OF_SOURCE,
    TEXT_SUFFIXES,
    Canvas,
    FolderSource,
    LabelFiles,
    LabelledPicture,
    Sample,
    TargetModel,
    read_picture,
    require_folder,
)
from muse_pipeline.labels.class_areas import AreaDetector
from muse_pipeline.labels.labelled_image import LabelledImage
from muse_pipeline.labels.nuclei_files import (
    MASK_SUFFIXES,
    FileNuclei,
    median_diameter_px,
    name_instances,
    read_index_table,
    read_instances,
    read_masks,
)
from muse_pipeline.labels.region_windows import fill_polygon
from muse_pipeline.tissue.stain import fit_macenko

CELLPOSE_MASK = re.compile(r"(_cp)?_masks$")
MASK_READERS = {"instances": read_instances, "masks": read_masks}


@dataclass(frozen=True, kw_only=True)
class PictureSource(FolderSource):
    """Pictures with a label file each.

    Attributes:
        images: folder of the pictures. It may be that of the ``labels``, with masks named as by
            Cellpose: ``a_masks.png`` or ``a_cp_masks.png`` for ``a.png``.
        diameter_um: median diameter of the nuclei in every picture, instead of ``mpp``, for
            "instances" of unknown pixel size.
        points: folder of "x y class" text files with the classes of "instances" and "masks".
    """

    images: Path
    diameter_um: Positive | None = None
    points: Path | None = None
    formats: ClassVar[dict[str, tuple[str, ...]]] = {
        **FORMATS,
        "areas": (*FORMATS["areas"], *MASK_SUFFIXES),
        **dict.fromkeys(MASK_READERS, MASK_SUFFIXES),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.diameter_um is not None and (self.format != "instances" or self.mpp is not None):
            raise LabelError(
                f"{self.location}: give either `mpp` or `diameter_um`, and `diameter_um` only for"
                " format 'instances', whose masks have the sizes of nuclei"
            )

    @property
    def location(self) -> Path:
        """Folder of the pictures."""
        return self.images

    @property
    def can_have_classes(self) -> bool:
        """False for masks of nuclei without ``points``, which state no classes."""
        return self.format not in MASK_READERS or self.points is not None

    def list_all(self) -> list[Sample]:
        """List every picture in the folder, used or not."""
        require_folder(self.images, "images")
        pictures = list_pictures(self.images)
        names = {path.stem for path in pictures}
        is_mask = {name for name in names if CELLPOSE_MASK.sub("", name) in names - {name}}
        return [
            Sample(path.stem, "", (path,), alias=path.name)
            for path in pictures
            if path.stem not in is_mask
        ]

    def find_files(self) -> dict[str, LabelFiles]:
        """The label files of all pictures, by the setting that names their folder."""
        files = super().find_files()
        names = [sample.name for sample in self.list_all()]
        if self.format in MASK_READERS and self.labels.samefile(self.images):
            suffixes = [f"_masks{suffix}" for suffix in MASK_SUFFIXES]
            files["labels"] = LabelFiles(self.labels, names, suffixes, "labels")
        if self.points is not None and self.format in MASK_READERS:
            files["points"] = LabelFiles(self.points, names, TEXT_SUFFIXES, "points")
        return files

    def read(self, model: TargetModel) -> Iterator[LabelledImage]:
        """Read the chosen pictures, resampled to the model's mpp."""
        folders = self.find_files()
        detector = (
            AreaDetector(self.detector, model.mpp, model.n_rays) if self.format == "areas" else None
        )
        for sample in self.choose():
            files = {kind: folder.of(sample.name) for kind, folder in folders.items()}
            stated_mpp, origin = self.mpp, OF_SOURCE
            if self.diameter_um is not None:
                stated_mpp = self.diameter_um / median_diameter_px(files["labels"])
                origin = "the scale that follows from `diameter_um` of this source"
            pixels, mpp = read_picture(sample.files[0], stated_mpp, origin)
            canvas = Canvas("the picture", Frame.WINDOW, pixels.shape[1::-1], (mpp, mpp))
            if detector is not None:
                yield self._label_areas(sample, pixels, files["labels"], canvas, detector, model)
            else:
                picture = LabelledPicture(pixels, mpp, self.read_labels(files, canvas, model))
                yield self.label_picture(sample, picture, model)

    def read_file(self, files: dict[str, Path], canvas: Canvas, model: TargetModel) -> FileNuclei:
        """Read the nuclei of a label file; masks have the classes of the points on them."""
        if self.format not in MASK_READERS:
            return super().read_file(files, canvas, model)
        instances = MASK_READERS[self.format](
            files["labels"], canvas.size_px, canvas.mpp[0], model.n_rays
        )
        if "points" not in files:
            return instances
        points = self.classify(
            read_index_table(files["points"], "x y class", canvas.frame, model.n_rays), model
        )
        return name_instances(instances, points.within(canvas.size_px, canvas.title), canvas.mpp[0])

    def _label_areas(
        self,
        sample: Sample,
        pixels: np.ndarray,
        path: Path,
        canvas: Canvas,
        detector: AreaDetector,
        model: TargetModel,
    ) -> LabelledImage:
        """Label the nuclei that the detector finds in the areas of a picture."""
        areas = self.read_class_areas(path, canvas, model)
        stain = fit_macenko(pixels.reshape(-1, 3))
        resized = resize_picture(pixels, canvas.mpp[0] / model.mpp)
        size_px = resized.shape[1::-1]
        areas = areas.scale(np.array(size_px) / canvas.size_px).shrink(self.margin_um / model.mpp)
        nuclei = detector.find(resized, stain)
        nuclei, counts = areas.label(nuclei, areas.owners(nuclei.xy), model.classes, self.purity)
        self.require_nuclei_in(areas, np.array([count.n_nuclei for count in counts]))
        region = fill_polygon(shapely.union_all(areas.shape), (0, 0), size_px)
        return self.image(sample, resized, nuclei, stain=stain, region=region, areas=counts)
