"""PanNuke: three folds of patches from 19 organs, 256 px per side, with nuclei and their classes,
as NumPy arrays.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy import ndarray

from muse_pipeline.core.errors import LabelError
from muse_pipeline.labels.base_source import LabelledPicture, Sample, require_picture_mpp
from muse_pipeline.labels.dataset_source import DatasetLayout, as_published
from muse_pipeline.labels.layouts import LAYOUTS
from muse_pipeline.labels.nuclei_files import measure_instances

# channels of masks.npy, then background
WORDS = ("Neoplastic", "Inflammatory", "Connective", "Dead", "Epithelial")


@LAYOUTS.register("pannuke")
class PanNuke(DatasetLayout):
    """``images/fold1/{images,types}.npy`` and ``masks/fold1/masks.npy``, and so on for each fold,
    at any depth.

    The dataset does not state patients, so each fold counts as one patient.
    """

    title = "PanNuke"

    def samples(self) -> list[Sample]:
        """Every picture, sorted by path and named after its fold, organ and index."""
        masks = {path.parent.name: path for path in self.find("masks.npy")}
        return [
            sample for path in self.find("images.npy") for sample in self._list_fold(path, masks)
        ]

    def _list_fold(self, images: Path, masks: dict[str, Path]) -> list[Sample]:
        fold = images.parent.name
        files = (
            images,
            self.choose([masks.get(fold)], f"masks.npy of {fold}"),
            self.choose([images.with_name("types.npy")], f"types.npy of {fold}"),
        )
        arrays = [_open_array(path) for path in files]
        n, *size = (*arrays[0].shape, 0, 0, 0)[:3]
        for path, array, shape in zip(
            files, arrays, ((n, *size, 3), (n, *size, 6), (n,)), strict=True
        ):
            if array.shape != shape:
                raise LabelError(
                    f"{path}: has the shape {array.shape}, expected {shape}; use the file as"
                    " published"
                )
        patient = f"PanNuke {fold}"
        return [
            Sample(f"{fold}_{organ}_{index:04}", patient, files, index)
            for index, organ in enumerate(arrays[2])
        ]

    def read(self, sample: Sample, n_rays: int) -> LabelledPicture:
        """Read one picture with its nuclei, as described in ``DatasetLayout``, without loading all
        arrays.
        """
        images, masks, _ = sample.files
        mpp = require_picture_mpp(images, self.source.mpp)
        pixels = _open_array(images)[sample.index].round().clip(0, 255).astype(np.uint8)
        mask, words = _merge_channels(np.asarray(_open_array(masks)[sample.index]))
        labels = measure_instances(masks, mask, mpp, n_rays)
        words = [words[number - 1] for number in labels.numbers]
        labels = replace(labels, words=words, unit=f"picture {sample.index}, instance")
        return LabelledPicture(pixels, mpp, labels)


def _merge_channels(channels: ndarray) -> tuple[ndarray, list[str]]:
    """Merge channels (h, w, 6) into one instance mask (h, w), and return it with the class of each
    instance.

    Each channel numbers its own instances; the merged ones are numbered from 1, and later channels
    cover earlier ones.
    """
    mask, words = np.zeros(channels.shape[:2], np.int32), []
    for channel, word in enumerate(WORDS):
        inside = channels[..., channel] > 0
        numbers, ranks = np.unique(channels[inside, channel], return_inverse=True)
        mask[inside] = ranks + len(words) + 1
        words += [word] * len(numbers)
    return mask, words


def _open_array(path: Path) -> ndarray:
    """Open a memory-mapped array."""
    with as_published(path):
        return np.load(path, mmap_mode="r", allow_pickle=False)
