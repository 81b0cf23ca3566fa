"""Lizard: pictures of colon tissue at 20x, and MATLAB files with nuclei of six classes."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.files import read_lines
from muse_pipeline.labels.base_source import LabelledPicture, Sample, read_picture
from muse_pipeline.labels.dataset_source import DatasetLayout, as_published
from muse_pipeline.labels.layouts import LAYOUTS
from muse_pipeline.labels.nuclei_files import measure_instances, require_size

WORDS = {
    1: "Neutrophil",
    2: "Epithelial",
    3: "Lymphocyte",
    4: "Plasma",
    5: "Eosinophil",
    6: "Connective",
}


@LAYOUTS.register("lizard")
class Lizard(DatasetLayout):
    """``Lizard_Images*/*.png``, ``Labels/*.mat`` and ``info.csv`` with the fold of each picture, at
    any depth.

    The dataset does not state patients, so each fold of ``info.csv`` counts as one patient.
    """

    title = "Lizard"

    def samples(self) -> list[Sample]:
        """Every picture, sorted by path and named after its fold and file."""
        labels = self.find("*.mat")
        pictures = {
            path.stem: path for path in self.find("*.png") if "images" in path.parent.name.lower()
        }
        info = self.find("info.csv")[0]
        with as_published(info):
            folds = {
                Path(row["Filename"]).stem: row["Split"] for row in csv.DictReader(read_lines(info))
            }
        samples = []
        for path in labels:
            if path.stem not in folds:
                raise LabelError(f"{info}: has no row for '{path.stem}'; use the file as published")
            picture = self.choose(
                [pictures.get(path.stem)], f"picture '{path.stem}.png' in a folder Lizard_Images"
            )
            fold = f"fold{folds[path.stem]}"
            samples.append(Sample(f"{fold}_{path.stem}", f"Lizard {fold}", (picture, path, info)))
        return samples

    def read(self, sample: Sample, n_rays: int) -> LabelledPicture:
        """Read one picture with its nuclei, as described in ``DatasetLayout``."""
        picture, path, _ = sample.files
        pixels, mpp = read_picture(picture, self.source.mpp)
        with as_published(path):
            content = loadmat(path, variable_names=("inst_map", "id", "class"))
            numbers, codes = (
                content[key].astype(np.int64).ravel().tolist() for key in ("id", "class")
            )
            codes = dict(zip(numbers, codes, strict=True))
            mask = content["inst_map"].astype(np.int64)
        require_size(path, mask, pixels.shape[1::-1])
        labels = measure_instances(path, mask, mpp, n_rays)
        words = [
            WORDS.get(codes.get(number), f"{codes.get(number)}")
            for number in labels.numbers.tolist()
        ]
        return LabelledPicture(pixels, mpp, replace(labels, words=words))
