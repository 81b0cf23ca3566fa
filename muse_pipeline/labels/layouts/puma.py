"""PUMA: pictures of melanoma, with outlines of nuclei of ten classes as GeoJSON."""

from __future__ import annotations

from muse_pipeline.core.types import Frame
from muse_pipeline.labels.base_source import LabelledPicture, Sample, read_picture
from muse_pipeline.labels.dataset_source import DatasetLayout
from muse_pipeline.labels.layouts import LAYOUTS
from muse_pipeline.labels.nuclei_files import ObjectRules, read_drawn

NUCLEI = "_nuclei.geojson"


@LAYOUTS.register("puma")
class Puma(DatasetLayout):
    """``training_set_*_roi_*_nuclei.geojson`` and the TIFF of the same name without ``_nuclei``, at
    any depth.

    The dataset does not state patients, so each picture counts as one patient.
    """

    title = "PUMA"

    def samples(self) -> list[Sample]:
        """Every picture, sorted by path and named after its file."""
        labels = [(path.name.removesuffix(NUCLEI), path) for path in self.find(f"*{NUCLEI}")]
        pictures = {path.stem: path for path in self.find("*.tif")}
        return [
            Sample(name, name, (self.choose([pictures.get(name)], f"picture '{name}.tif'"), path))
            for name, path in labels
        ]

    def read(self, sample: Sample, n_rays: int) -> LabelledPicture:
        """Read one picture with its nuclei, as described in ``DatasetLayout``."""
        picture, path = sample.files
        pixels, mpp = read_picture(picture, self.source.mpp)
        rules = ObjectRules(self.source.region_class, self.source.ignore)
        labels = read_drawn(path, (mpp, mpp), n_rays, Frame.WINDOW, rules=rules)
        return LabelledPicture(pixels, mpp, labels)
