"""NuInsSeg: pictures of 31 human and mouse organs, 512 px per side, in which nuclei have no
classes.
"""

from __future__ import annotations

from pathlib import Path

from muse_pipeline.labels.base_source import LabelledPicture, Sample, read_picture
from muse_pipeline.labels.dataset_source import DatasetLayout
from muse_pipeline.labels.layouts import LAYOUTS
from muse_pipeline.labels.nuclei_files import read_instances, require_size
from muse_pipeline.nuclei.masks import read_mask

# in the second folder, the overlap of two nuclei has its own number
MASKS = ("label masks modify", "label masks")


@LAYOUTS.register("nuinsseg")
class NuInsSeg(DatasetLayout):
    """A folder per organ: ``tissue images/*.png``, ``label masks modify/*.tif``, ``vague areas/mask
    binary*/*.png``.

    The pictures of an organ come from one slide, so each organ counts as a patient. Areas that the
    authors marked as vague count as unlabelled.
    """

    title = "NuInsSeg"

    def samples(self) -> list[Sample]:
        """Every picture, sorted by path and named after its organ and file."""
        return [self._list(path) for path in self.find("tissue images/*.png")]

    def _list(self, picture: Path) -> Sample:
        organ = picture.parents[1]
        mask = self.choose(
            [organ / kind / f"{picture.stem}.tif" for kind in MASKS],
            f"'{MASKS[0]}/{picture.stem}.tif' in {organ.name}",
        )
        vague = sorted(organ.glob(f"vague areas/mask binary*/{picture.stem}.png"))[:1]
        return Sample(
            f"{organ.name}_{picture.stem}", f"NuInsSeg {organ.name}", (picture, mask, *vague)
        )

    def read(self, sample: Sample, n_rays: int) -> LabelledPicture:
        """Read one picture with its nuclei, as described in ``DatasetLayout``."""
        picture, mask, *vague = sample.files
        pixels, mpp = read_picture(picture, self.source.mpp)
        labels = read_instances(mask, pixels.shape[1::-1], mpp, n_rays)
        region = None
        for path in vague:
            areas = read_mask(path)
            require_size(path, areas, pixels.shape[1::-1])
            region = areas == 0
        return LabelledPicture(pixels, mpp, labels, region)
