"""PSM's masks stage: crops of unlabelled tissue and their masks of nuclei, as pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.core.files import sha256_of
from muse_pipeline.core.pictures import read_rgb, write_png
from muse_pipeline.data.unlabelled import cut_crops, open_unlabelled
from muse_pipeline.methods.psm.config import PsmConfig
from muse_pipeline.proposals.activation_map import PseudoMasker
from muse_pipeline.proposals.otsu import fit_otsu
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.provenance import Inputs
from muse_pipeline.training.run import Say, plain_settings
from muse_pipeline.training.stages import PreparedStage

PICTURES, MASKS = "pictures", "masks"
Masker = Callable[[np.ndarray], np.ndarray]


def write_masks(config: PsmConfig, activation: Path | None, folder: Path, say: Callable[[str], None]) -> None:
    """Write every crop that is not rejected, and its mask (0 background, 255 nucleus), under the same name.

    A threshold or clusters are fitted to each picture and to each store: stains are a slide's own.

    Args:
        config: settings of the run.
        activation: checkpoint of the first stage, if ``config.masks`` needs it.
        folder: existing folder.
        say: callback with a sentence on what was left out.

    Raises:
        ConfigError: no crop is left.
        MuseError: a source cannot be read.
    """
    for name in (PICTURES, MASKS):
        (folder / name).mkdir()
    n_kept, rejected = 0, []
    for number, image in enumerate(open_unlabelled(config.sources, config.mpp)):
        crops = cut_crops(image, number, config.store_window_px, config.windows_per_store)
        if not crops:
            continue
        masker = _fit(config, activation, [crop.pixels for crop in crops])
        for crop in crops:
            mask = masker(crop.pixels)
            share = mask.mean()
            if not 0 < share <= config.mask_settings.max_share:
                rejected.append(f"{crop.name} ({share:.0%} taken for nuclei)")
                continue
            write_png(folder / PICTURES / f"{crop.name}.png", crop.pixels)
            write_png(folder / MASKS / f"{crop.name}.png", mask.astype(np.uint8) * 255)
            n_kept += 1
    if rejected:
        say(f"{len(rejected)} crops are left out, because nuclei cover none or too much of them: first {rejected[0]}")
    if not n_kept:
        raise ConfigError(
            f"no nuclei were found in any of {len(rejected)} crops of tissue; name H&E tissue that contains some in "
            "`sources`, or correct their `mpp`"
        )
    say(f"masks by {config.masks} of {n_kept} crops of tissue")


class MasksStage(PreparedStage):
    """Stage that writes the files of ``write_masks``.

    Args:
        config: settings of the run.
        activation: checkpoint of the activation stage, if there is one.
        folder: folder of the stage.
    """

    def __init__(self, config: PsmConfig, activation: Path | None, folder: Path):
        super().__init__(folder, "masks")
        self.config, self.activation = config, activation

    def made_from(self) -> dict[str, Any]:
        """Settings of masks, the tissue and the activation network."""
        settings = plain_settings(self.config, portable=True)
        names = ("mpp", "masks", "mask_settings", "windows_per_store", "store_window_px")
        return {
            **{name: settings[name] for name in names},
            "tissue": Inputs(self.config.sources).describe(),
            "activation": self.activation and sha256_of(self.activation),
        }

    def write(self, folder: Path, say: Say) -> None:
        """Write the files of ``write_masks``."""
        write_masks(self.config, self.activation, folder, say)


def read_pictures_and_masks(folder: Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Read (name, pixels (h, w, 3) uint8, mask (h, w) bool) of a masks stage, by name.

    Raises:
        LabelError: there is no picture, or a file is damaged.
    """
    read = []
    for path in sorted((folder / PICTURES).glob("*.png")):
        pixels = read_rgb(path, f"delete {folder} to make it again")
        mask = cv2.imread(str(folder / MASKS / path.name), cv2.IMREAD_GRAYSCALE)
        if mask is None or pixels.shape[:2] != mask.shape:
            raise LabelError(f"{path}: its mask is damaged or missing; delete {folder} to make them again")
        read.append((path.stem, pixels, mask > 127))
    if not read:
        raise LabelError(f"{folder}: holds no picture with its mask; delete it to make them again")
    return read


def _fit(config: PsmConfig, activation: Path | None, sample: Sequence[np.ndarray]) -> Masker:
    fit = fit_macenko(np.concatenate([pixels.reshape(-1, 3) for pixels in sample]))
    stains = fit and fit.stains
    if activation is not None:
        return PseudoMasker.load(activation, sample, config.mpp, stains, config.mask_settings)
    return fit_otsu(sample, config.mpp, stains)
