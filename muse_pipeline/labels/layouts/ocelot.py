"""OCELOT: pictures of six organs, in which points mark tumour cells and all other cells."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.core.files import read_lines
from muse_pipeline.core.types import Frame
from muse_pipeline.labels.base_source import (
    LabelledPicture,
    Sample,
    read_picture,
    require_agreement,
)
from muse_pipeline.labels.dataset_source import DatasetLayout, as_published
from muse_pipeline.labels.layouts import LAYOUTS
from muse_pipeline.labels.nuclei_files import read_index_table


@LAYOUTS.register("ocelot")
class Ocelot(DatasetLayout):
    """``images/{train,val,test}/cell/*.jpg``, ``annotations/{train,val,test}/cell/*.csv`` and
    ``metadata.json``.

    The classes are numbers: 2 for tumour cells, 1 for all other cells. For each picture the
    metadata contain the slide, which identifies the patient, and the um per pixel to which the
    picture was resampled.
    """

    title = "OCELOT"

    def samples(self) -> list[Sample]:
        """Every picture, sorted by path and named after its split, organ and file."""
        return [self._list(path) for path in self.find("images/*/cell/*.jpg")]

    def _list(self, picture: Path) -> Sample:
        split, path = picture.parts[-3], self._metadata_path
        table = f"annotations/{split}/cell/{picture.stem}.csv"
        points = self.choose([picture.parents[3] / table], f"'{table}'")
        with as_published(path):
            facts = self._metadata[picture.stem]
            name = f"{split}_{facts['organ']}_{picture.stem}"
            patient = patient_in_name(str(facts["slide_name"]))
        return Sample(name, patient, (picture, points, path))

    def read(self, sample: Sample, n_rays: int) -> LabelledPicture:
        """Read one picture with its nuclei, as described in ``DatasetLayout``."""
        picture, points, path = sample.files
        with as_published(path):
            stated = float(self._metadata[picture.stem]["cell"]["resized_mpp_x"])
        if self.source.mpp is not None:
            require_agreement(picture, self.source.mpp, (stated, stated), "metadata.json")
        pixels, mpp = read_picture(
            picture, stated, f"resized_mpp_x of sample {picture.stem} in {path}"
        )
        return LabelledPicture(
            pixels, mpp, read_index_table(points, "x y class", Frame.WINDOW, n_rays)
        )

    @cached_property
    def _metadata_path(self) -> Path:
        return self.find("metadata.json")[0]

    @cached_property
    def _metadata(self) -> dict:
        return json.loads("\n".join(read_lines(self._metadata_path)))["sample_pairs"]
