"""The two domains of UNITPathSSL: synthesised masks with their nuclei, and windows of unlabelled
tissue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy import ndarray
from numpy.random import Generator
from torch import Tensor

from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.core.pictures import spread_evenly
from muse_pipeline.data.augment import seed_of_step
from muse_pipeline.data.unlabelled import Image, WindowSampler, cut_crops, open_unlabelled
from muse_pipeline.data.windows import FAR, NEAR_PX
from muse_pipeline.inference.card import ColourReference
from muse_pipeline.inference.stains import colour_of_fit
from muse_pipeline.labels.statistics import mean_stains
from muse_pipeline.methods.unit.config import UnitConfig
from muse_pipeline.methods.unit.synthesis_folder import read_mask_folder, write_mask_folder
from muse_pipeline.methods.unit.synthesis_masks import InstanceMask, fills, stylise
from muse_pipeline.models.base import recoloured
from muse_pipeline.nuclei.masks import label_image_to_nuclei
from muse_pipeline.nuclei.table import Nuclei
from muse_pipeline.tissue.background import lowest
from muse_pipeline.tissue.colour import AppearanceSample, usable_pixels
from muse_pipeline.tissue.stain import fit_macenko
from muse_pipeline.training.recipe import PreparedStage
from muse_pipeline.training.run import Log, RunFolder, plain_settings


@dataclass(eq=False)
class MaskDomain:
    """Draws windows of masks, turned and mirrored at random; a batch depends only on its step.

    ``n_rays`` is a multiple of 4, so that quarter turns map rays to rays.
    """

    masks: Sequence[InstanceMask]
    mpp: float
    window_px: int
    n_rays: int
    seed: int

    def __post_init__(self) -> None:
        self.turned = _ray_permutations(self.n_rays)
        self._nuclei: dict[int, Nuclei] = {}

    def __call__(self, step: int, batch: int) -> tuple[ndarray, ndarray, ndarray, ndarray]:
        """Draw ``batch`` windows: ``masks``, ``xy``, ``rays`` and ``label`` of a ``UnitBatch``."""
        # Seeded differently from tissue, so that the two domains are drawn independently.
        rng = np.random.default_rng((self.seed, step))
        pictures, xy, rays = zip(*(self._draw(rng) for _ in range(batch)), strict=True)
        most = max(1, *map(len, xy))
        padded_xy = np.full((batch, most, 2), FAR, np.float32)
        padded_rays = np.full((batch, most, self.n_rays), np.nan, np.float32)
        label = np.full((batch, most), -1, np.int64)
        for index, (centres, radii) in enumerate(zip(xy, rays, strict=True)):
            padded_xy[index, : len(centres)], padded_rays[index, : len(centres)] = centres, radii
            label[index, : len(centres)] = 0
        return np.stack(pictures), padded_xy, padded_rays, label

    def nuclei(self, index: int) -> Nuclei:
        """The nuclei of a mask, without their contours; measured at first use (10 ms for a mask of
        320 px).
        """
        if index not in self._nuclei:
            instances = fills(self.masks[index].instances)
            self._nuclei[index] = label_image_to_nuclei(
                instances, (self.mpp, self.mpp), self.n_rays
            )
        return self._nuclei[index]

    def _draw(self, rng: Generator) -> tuple[ndarray, ndarray, ndarray]:
        index = int(rng.integers(len(self.masks)))
        mask, nuclei = self.masks[index], self.nuclei(index)
        height, width = mask.instances.shape
        top, left = (rng.integers(side - self.window_px + 1) for side in (height, width))
        window = mask.instances[top : top + self.window_px, left : left + self.window_px]
        xy = nuclei.xy - (left, top)
        inside = ((xy >= -NEAR_PX) & (xy < self.window_px + NEAR_PX)).all(1)
        turn = rng.integers(8)
        picture = stylise(InstanceMask(turn_picture(window, turn), mask.kinds), self.mpp, rng)
        picture = (picture.transpose(2, 0, 1).astype(np.float32) - 127.5) / 127.5
        return (
            picture,
            turn_xy(xy[inside], turn, self.window_px),
            nuclei.rays[inside][:, self.turned[turn]],
        )


def turn_picture(picture: ndarray, turn: int) -> ndarray:
    """Apply turn 0 to 7 to a picture (h, w): bit 0 mirrors x, bit 1 mirrors y, then bit 2 swaps x
    and y.
    """
    picture = picture[:: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]
    return np.ascontiguousarray(picture.T if turn & 4 else picture)


def turn_xy(xy: ndarray, turn: int, size_px: int) -> ndarray:
    """Move positions (N, 2) as ``turn_picture`` does in a square window."""
    xy = np.where([bool(turn & 1), bool(turn & 2)], size_px - xy, xy)
    return xy[:, ::-1] if turn & 4 else xy


def _ray_permutations(n_rays: int) -> ndarray:
    """(8, R) array; entry [turn, k] is the index of the ray that becomes ray k after the turn."""
    rays = []
    for turn in range(8):
        k = np.arange(n_rays)
        # k is a ray of the turned picture; the steps of ``turn_picture`` are undone in reverse
        # order.
        k = n_rays // 4 - k if turn & 4 else k
        k = -k if turn & 2 else k
        k = n_rays // 2 - k if turn & 1 else k
        rays.append(k % n_rays)
    return np.array(rays)


MASKS = "masks"
# in a window with tissue, at least this share of pixels has a channel below ``GLASS``
MIN_TISSUE, GLASS = 0.5, 200
TRIES = 8  # attempts to draw a window with enough tissue
SAMPLE = 64  # number of windows on which colours are measured
# number and side of the windows to which an image's stains are fitted
STAIN_WINDOWS, STAIN_PX = 8, 128
# number and side of the pictures of tissue that are saved next to the checkpoint
KEPT, KEPT_PX = 8, 512
# percentiles of brightness: darker pixels count as nuclei, paler pixels as background
DARK, PALE = 20, 40


@dataclass
class SynthesisStage(PreparedStage):
    """Synthesises the masks of a run, as ``muse synthesize masks`` does."""

    config: UnitConfig
    folder: Path
    name: str = MASKS

    @property
    def result(self) -> Path:
        """The folder of masks."""
        return self.folder / MASKS

    def made_from(self) -> dict[str, Any]:
        """The settings that the masks depend on."""
        settings = plain_settings(self.config)
        return {name: settings[name] for name in ("n_masks", "mask_px", "mpp", "seed", "tissue")}

    def write(self, folder: Path, log: Log) -> None:
        """Write the masks and a page of examples."""
        config, output = self.config, folder / MASKS
        write_mask_folder(
            output,
            config.n_masks,
            config.tissue,
            seed=config.seed,
            mpp=config.mpp,
            size_px=config.mask_px,
        )


def read_masks(folder: Path, mpp: float, window_px: int) -> list[InstanceMask]:
    """Read masks of ``mpp`` that are at least as large as a window."""
    masks, mask_mpp = read_mask_folder(folder)
    if abs(mask_mpp / mpp - 1) > 1e-3:
        raise LabelError(
            f"{folder}: its masks are at {mask_mpp:g} um/px, but `mpp` is {mpp:g}; make them at"
            f" {mpp:g}"
        )
    if min((side for mask in masks for side in mask.instances.shape), default=0) < window_px:
        raise LabelError(
            f"{folder}: contains masks smaller than the windows of {window_px} px; synthesise"
            " larger ones"
        )
    return masks


class Recoloured:
    """An image whose colours are mapped by ``colour`` (3, 4), in optical density, when it is
    read.
    """

    def __init__(self, image: Image, colour: ndarray):
        self.image, self.colour = image, colour
        self.size_px, self.tissue = image.size_px, image.tissue

    def read(self, xy: tuple[int, int], size: tuple[int, int]) -> ndarray:
        """(h, w, 3) uint8 as in ``Image.read``, recoloured."""
        pixels = torch.from_numpy(self.image.read(xy, size).transpose(2, 0, 1)[None].copy())
        mapped = recoloured(pixels, torch.from_numpy(self.colour))[0]
        return mapped.round().byte().permute(1, 2, 0).numpy()


class TissueWindows:
    """Draws windows of tissue, turned and mirrored at random; a batch depends only on its step."""

    def __init__(self, images: Sequence[Image], window_px: int, seed: int):
        self.sampler, self.seed = WindowSampler(images, window_px), seed

    def __call__(self, step: int, batch: int) -> ndarray:
        """Draw the ``batch`` windows of a step: (B, 3, S, S) uint8."""
        rng = np.random.default_rng(seed_of_step(self.seed, step))
        return np.stack([self._draw(rng) for _ in range(batch)]).transpose(0, 3, 1, 2)

    def _draw(self, rng: Generator) -> ndarray:
        for _ in range(TRIES):
            window = self.sampler(1, rng)[0]
            if has_tissue(window):
                break
        window = np.rot90(window, rng.integers(4))
        return window[:, ::-1] if rng.integers(2) else window


def has_tissue(window: ndarray) -> bool:
    """True if at least half of the pixels of a window (h, w, 3) uint8 are darker than glass."""
    return bool((lowest(window) < GLASS).mean() >= MIN_TISSUE)


class UnitBatch(NamedTuple):
    """Windows of both domains, drawn independently.

    The nuclei of masks include those just beyond the border of a window, and are padded to the same
    number per window.
    """

    masks: Tensor  # (B, 3, S, S) float masks, -1 to 1, in the colours of ``synthesis_masks``
    xy: Tensor  # (B, M, 2) centres of the masks' nuclei, window px; padding lies at -1e6
    rays: Tensor  # (B, M, R) um from the centre to the inner edge of the contour; NaN for padding
    label: Tensor  # (B, M) int64, 0 for nuclei and -1 for padding
    pictures: Tensor  # (B, 3, S, S) float tissue, 0 to 255


@dataclass(frozen=True, eq=False)
class UnitData:
    """Masks and tissue from which batches are drawn."""

    masks: list[InstanceMask]  # masks, all at the same mpp
    images: list[Image]  # tissue at the same mpp, in its original colours
    names: tuple[str, ...]  # names of pictures and slides
    reference: ColourReference  # colour reference that tissue is normalised to
    recoloured: list[Image]  # the images with normalised colours
    # (2, 3) float32, 0 to 255: mean colours of the darkest 20 % and the palest 60 % of recoloured
    # pixels
    palette: ndarray

    def make_batches(self, config: UnitConfig, device: torch.device) -> Callable[[int], UnitBatch]:
        """Return a function that makes the batch of a step, which depends only on the step."""
        masks = MaskDomain(
            self.masks, config.mpp, config.window_px, config.reader.n_rays, config.seed
        )
        tissue = TissueWindows(self.recoloured, config.window_px, config.seed)

        def draw(number: int) -> UnitBatch:
            arrays = (*masks(number, config.batch), tissue(number, config.batch))
            pictures, xy, rays, label, pixels = (
                torch.from_numpy(array.copy()).to(device) for array in arrays
            )
            return UnitBatch(pictures, xy, rays, label, pixels.float())

        return draw

    def keep_pictures(self, run: RunFolder) -> None:
        """Save crops of some of the images in the run folder."""
        cut = (
            cut_crops(self.images[number], number, KEPT_PX, 1)
            for number in spread_evenly(len(self.images), KEPT)
        )
        run.keep_pictures(
            {name: crop[:KEPT_PX, :KEPT_PX] for crops in cut for name, crop in crops.items()}
        )


def read_unit_data(config: UnitConfig, masks: Path) -> UnitData:
    """Read the masks of a folder, open the tissue and check its colours."""
    synthesised = read_masks(masks, config.mpp, config.window_px)
    images = open_unlabelled(config.sources, config.mpp)
    require_stained(_draw_sample(images, config), config.mpp)
    samples = (
        WindowSampler([image], STAIN_PX)(STAIN_WINDOWS, np.random.default_rng(0))
        for image in images
    )
    fits = [fit_macenko(windows.reshape(-1, 3)) for windows in samples]
    reference = mean_stains(fits, config.colour)
    mapped = [
        Recoloured(image, colour_of_fit(reference, fit))
        for image, fit in zip(images, fits, strict=True)
    ]
    palette = measure_palette(_draw_sample(mapped, config))
    names = tuple(sorted({image.slide_id for image in images}))
    return UnitData(synthesised, images, names, reference, mapped, palette)


def _draw_sample(images: Sequence[Image], config: UnitConfig) -> ndarray:
    """``SAMPLE`` windows of tissue: (N, S, S, 3) uint8."""
    return TissueWindows(images, config.window_px, config.seed)(0, SAMPLE).transpose(0, 2, 3, 1)


def require_stained(windows: ndarray, mpp: float) -> None:
    """Require that windows (N, S, S, 3) uint8 show tissue stained with haematoxylin and eosin."""
    sample = AppearanceSample(mpp)
    for window in windows:
        sample.add(np.ascontiguousarray(window), usable_pixels(window))
    if sample.brown.is_ihc:
        raise ConfigError(
            "sources: the tissue is brown, as in immunohistochemistry; name H&E tissue"
        )
    n = sum(map(has_tissue, windows))
    if n < len(windows) / 2:
        raise ConfigError(
            f"sources: only {n} of {len(windows)} windows drawn from them have tissue; name"
            " pictures of tissue, or stores of slides with more of it"
        )


def measure_palette(windows: ndarray) -> ndarray:
    """(2, 3) float32 mean colours of dark and of pale pixels in the windows (N, S, S, 3) uint8 that
    show tissue.
    """
    tissue = [window for window in windows if has_tissue(window)] or windows
    pixels = np.concatenate([window.reshape(-1, 3) for window in tissue]).astype(np.float32)
    brightness = pixels.mean(1)
    dark, pale = np.percentile(brightness, (DARK, PALE))
    return np.stack([pixels[brightness <= dark].mean(0), pixels[brightness >= pale].mean(0)])
