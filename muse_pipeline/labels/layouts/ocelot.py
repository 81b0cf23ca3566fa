"""OCELOT: pictures of six organs, in which points mark tumour cells and all other cells."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.files import read_lines
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.base_source import LabelledPicture, Sample
from muse_pipeline.labels.dataset_source import Layout
from muse_pipeline.labels.layouts import LAYOUTS
from muse_pipeline.labels.nuclei_files import read_text
from muse_pipeline.labels.picture_scale import read_picture, require_agreement, require_mpp


@LAYOUTS.register("ocelot")
class Ocelot(Layout):
    """``images/{train,val,test}/cell/*.jpg``, ``annotations/{train,val,test}/cell/*.csv`` and ``metadata.json``.

    The classes are numbers: 2 for tumour cells, 1 for all other cells. For each picture the metadata contain the slide,
    which identifies the patient, and the um per pixel to which the picture was resampled.
    """

    title = "OCELOT"

    def samples(self) -> list[Sample]:
        """Every picture, sorted by path and named after its split, organ and file."""
        return [self._list(path) for path in self.find("images/*/cell/*.jpg")]

    def _list(self, picture: Path) -> Sample:
        split = picture.parts[-3]
        table = f"annotations/{split}/cell/{picture.stem}.csv"
        points = self.choose([picture.parents[3] / table], f"'{table}'")
        name = f"{split}_{self._fact(picture, 'organ')}_{picture.stem}"
        return Sample(
            name, patient_in_name(str(self._fact(picture, "slide_name"))), (picture, points, self._metadata_path)
        )

    def read(self, sample: Sample, n_rays: int) -> LabelledPicture:
        """Read one picture with its nuclei, as described in ``Layout``."""
        picture, points, _ = sample.files
        stated, origin = self._read_mpp(picture)
        if self.source.mpp is not None:
            require_agreement(picture, self.source.mpp, (stated, stated), "metadata.json")
        pixels, mpp = read_picture(picture, stated, origin)
        return LabelledPicture(pixels, mpp, read_text(points, "x y class", Frame.WINDOW, n_rays))

    def _read_mpp(self, picture: Path) -> tuple[float, str]:
        """The um per pixel in the metadata, and a description of its place for messages."""
        mpp = self._fact(picture, "cell", "resized_mpp_x")
        where = f"resized_mpp_x of sample {picture.stem}"
        if not isinstance(mpp, float | int):
            raise LabelError(f"{self._metadata_path}: {where} is not a number; correct it")
        origin = f"{where} in {self._metadata_path}"
        return require_mpp(picture, mpp, origin), origin

    @cached_property
    def _metadata_path(self) -> Path:
        return self.find("metadata.json")[0]

    @cached_property
    def _metadata(self) -> dict:
        try:
            return json.loads("\n".join(read_lines(self._metadata_path)))
        except json.JSONDecodeError as error:
            raise LabelError(f"{self._metadata_path}: not readable as JSON ({error}); download it again") from error

    def _fact(self, picture: Path, *keys: str) -> object:
        """The value at nested ``keys`` in the metadata of a picture."""
        value = self._metadata
        for key in ("sample_pairs", picture.stem, *keys):
            if not isinstance(value, dict) or key not in value:
                raise LabelError(
                    f"{self._metadata_path}: has no {'.'.join(keys)} for sample {picture.stem}; use the file as "
                    "published"
                )
            value = value[key]
        return value
