"""Random variation of windows on the training device, and the seeds and prefetching of a run's
batches.

Pixels, centres and rays are moved by one affine map per window. Colour is varied in optical density
along the reference stains, because sites differ mainly in stain.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from threading import Thread
from typing import Annotated, Any, NamedTuple, Self

import cv2
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor
from torch.nn import functional

from muse_pipeline.core.config import Between, Fraction, NotNegative
from muse_pipeline.core.errors import ProviderError

WHITE = 255.0
MIN_BLUR_RADIUS_PX = 3


class Prefetched:
    """Batches that threads prepare in advance; the end of a ``with`` block cancels those that have
    not been started.

    ``batches``, called from several threads, makes the batch of an index. Successive indices of
    this process differ by ``stride``. With 0 ``loaders``, every batch is made on request. With
    ``finish``, ``batches``, which is then pickled, is called in other processes, and each thread
    calls ``finish`` on the batch.
    """

    def __init__(
        self,
        batches: Callable[[int], Any],
        stride: int,
        loaders: int,
        finish: Callable[[Any], Any] | None = None,
    ):
        self._batches = batches
        self._stride = stride
        self._ahead = 2 * loaders
        self._finish = finish
        self._threads = ThreadPoolExecutor(loaders, "batch") if loaders else None
        self._processes = None
        if loaders and finish is not None:
            # While threads run Python code, the thread that trains waits for them at each of its
            # operations.
            # a process with threads must not be forked
            context = multiprocessing.get_context("spawn")
            self._processes = ProcessPoolExecutor(loaders, context, _begin_process, (batches,))
        self._waiting: dict[int, Future] = {}

    def __call__(self, number: int) -> Any:
        """The batch whose index is ``number``."""
        if self._threads is None:
            return self._make(number)
        wanted = range(number, number + self._stride * (self._ahead + 1), self._stride)
        for old in [index for index in self._waiting if index not in wanted]:
            self._waiting.pop(old).cancel()
        for index in wanted:
            if index not in self._waiting:
                self._waiting[index] = self._threads.submit(self._make, index)
        return self._waiting.pop(number).result()

    def _make(self, number: int) -> Any:
        if self._processes is None:
            batch = self._batches(number)
        else:
            try:
                batch = self._processes.submit(_make_batch, number).result()
            except BrokenProcessPool as error:
                raise ProviderError(
                    "a process that prepares batches was ended by the system, perhaps because"
                    " memory ran out; continue the run with fewer --loaders"
                ) from error
        return batch if self._finish is None else self._finish(batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for pool in filter(None, (self._threads, self._processes)):
            pool.shutdown(cancel_futures=True)


# in a process that makes batches: the function that makes them
_of_process: list[Callable[[int], Any]] = []


def _begin_process(batches: Callable[[int], Any]) -> None:
    """Prepare this process, which ends with its parent, for ``_make_batch``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C ends the parent
    Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _of_process.append(batches)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _make_batch(number: int) -> Any:
    return _of_process[-1](number)


MAX_SEED = 1 << 40  # so that the seeds of all steps fit into 64 bits
Seed = Annotated[int, Between(0, MAX_SEED)]
SEED_STRIDE = 1_000_003  # the streams of two seeds share no batch in the first million steps


def seed_of_step(seed: int, step: int) -> int:
    """Seed of ``step`` in a run with ``seed``."""
    return seed * SEED_STRIDE + step


@dataclass(frozen=True)
class Augmentation:
    """Strength of the random variation of windows.

    Attributes:
        scale: maximum magnification; sampled log-uniformly, from 1 / scale.
        free_rotation: fraction of windows rotated by an arbitrary angle; the others are rotated by
            quarter turns.
        stain_gain: standard deviation of the log of the strength of each stain.
        stain_mix: standard deviation of noise added to every entry of the colour matrix.
        shift: standard deviation of noise added to every optical density.
        partial_colour: minimum normalisation strength; each window has a random strength between
            this and 1, because stain fits on crops are inexact.
        blur: fraction of windows blurred.
        blur_um: maximum sigma of the blur, um.
        noise: maximum standard deviation of pixel noise, in grey levels.
    """

    scale: Annotated[float, Between(1, 10)] = 1.25
    free_rotation: Fraction = 0.5
    stain_gain: NotNegative = 0.2
    stain_mix: NotNegative = 0.05
    shift: NotNegative = 0.03
    partial_colour: Fraction = 0.3
    blur: Fraction = 0.3
    blur_um: NotNegative = 0.6
    noise: NotNegative = 6.0


class WeakView(NamedTuple):
    """The windows of a batch for a teacher, without variation of colour and sharpness."""

    pixels: Tensor  # (B, 3, H, W) float, 0 to 255
    # (B, 3, 4) map in optical density, with the mean normalisation strength of (1 +
    # ``partial_colour``) / 2
    colour: Tensor


OTHERS, CLASSES_ONLY = -1.0, -2.0  # values in ``LabelledBatch.region``


class LabelledBatch(NamedTuple):
    """B windows and their nuclei, padded to the number in the fullest window, M."""

    pixels: Tensor  # (B, 3, H, W) float, 0 to 255
    colour: Tensor  # (B, 3, 4) map in optical density
    xy: Tensor  # (B, M, 2) window px; padding lies at -1e6
    label: Tensor  # (B, M) class index, -1 if unknown
    rays: Tensor  # (B, M, R) um, NaN if unknown
    # (B, H / 4, W / 4) distance, um, of each cell's centre from the border of the annotated region;
    # 0 outside annotations, ``OTHERS`` in regions whose nuclei are in other images,
    # ``CLASSES_ONLY`` in class areas; None if all windows are annotated completely
    region: Tensor | None = None
    # (B, M, C) expected class shares of nuclei in class areas; 0 for other nuclei; None without
    # areas
    shares: Tensor | None = None
    weak: WeakView | None = None  # windows for a teacher, if the method has one


def random_linear(n: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """(n, 2, 2) random maps from picture to window, which scale, rotate and mirror."""
    uniform = torch.rand(4, n, generator=generator)
    scale = augmentation.scale ** (2 * uniform[0] - 1)
    quarter = (4 * uniform[1]).floor() * (math.pi / 2)
    angle = torch.where(uniform[2] < augmentation.free_rotation, 2 * math.pi * uniform[1], quarter)
    mirror = torch.where(uniform[3] < 0.5, -1.0, 1.0)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    return torch.stack([cos * mirror, -sin, sin * mirror, cos], 1).view(n, 2, 2)


def sample_windows(pictures: Tensor, centre: Tensor, back: Tensor, size_px: int) -> Tensor:
    """Cut windows of ``size_px`` around ``centre`` (B, 2) from pictures (B, 3, h, w), 0 to 255;
    white outside them.

    ``back`` (B, 2, 2) maps windows to pictures; it is the inverse of ``random_linear``.
    """
    height, width = pictures.shape[-2:]
    axis = torch.arange(size_px, device=pictures.device) + 0.5 - size_px / 2
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)  # (S, S, 2)
    source = torch.einsum("bij,hwj->bhwi", back, grid) + centre[:, None, None]
    source = 2 * source / source.new_tensor([width, height]) - 1
    # ``grid_sample`` pads with zeros, so white is mapped to 0 before the call and back after it.
    return (
        functional.grid_sample(pictures - WHITE, source, padding_mode="zeros", align_corners=False)
        + WHITE
    )


def move_nuclei(
    xy: Tensor, rays: Tensor, centre: Tensor, linear: Tensor, size_px: int
) -> tuple[Tensor, Tensor]:
    """Move centres (B, M, 2) and rays (B, M, R) by maps (B, 2, 2) from picture to window."""
    moved = torch.einsum("bij,bmj->bmi", linear, xy - centre[:, None]) + size_px / 2
    n_rays = rays.shape[-1]
    angle = 2 * math.pi * torch.arange(n_rays, device=rays.device) / n_rays
    direction = torch.stack([angle.cos(), angle.sin()])  # (2, R)
    # (B, 2, R): direction of each new ray before the map
    back = torch.linalg.inv(linear) @ direction
    position = torch.atan2(back[:, 1], back[:, 0]) * (n_rays / (2 * math.pi)) % n_rays
    below = position.floor()
    share = (position - below)[:, None]
    index = below.long()[:, None].expand(-1, rays.shape[1], -1) % n_rays
    turned = rays.gather(2, index) * (1 - share) + rays.gather(2, (index + 1) % n_rays) * share
    scale = torch.linalg.det(linear).abs().sqrt()
    return moved, turned * scale[:, None, None]


def part_way(colour: Tensor, share: Tensor) -> Tensor:
    """Interpolate between the identity, at a ``share`` (B,) of 0, and the maps ``colour`` (B, 3,
    4), at 1.
    """
    share = share.to(colour)[:, None, None]
    return torch.lerp(torch.eye(3, 4).to(colour), colour, share)


def vary_colour(
    colour: Tensor, stains: Tensor, augmentation: Augmentation, generator: torch.Generator
) -> Tensor:
    """Compose each map (B, 3, 4) with a random variation along the reference ``stains`` (2, 3)."""
    n = len(colour)
    # columns: stains, their normal
    basis = torch.cat([stains, torch.linalg.cross(stains[0], stains[1])[None]]).T
    gain = torch.exp(augmentation.stain_gain * torch.randn(n, 3, generator=generator))
    mix = augmentation.stain_mix * torch.randn(n, 3, 3, generator=generator)
    shift = augmentation.shift * torch.randn(n, 3, 1, generator=generator)
    change = basis @ torch.diag_embed(gain).to(basis) @ torch.linalg.inv(basis) + mix.to(basis)
    linear = change @ colour[..., :3]
    constant = change @ colour[..., 3:] + shift.to(basis)
    return torch.cat([linear, constant], 2)


def vary_appearance(
    pixels: Tensor,
    colour: Tensor,
    stains: Tensor,
    mpp: float,
    augmentation: Augmentation,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Vary the sharpness of windows (B, 3, H, W) and, along ``stains`` (2, 3), their colour maps
    (B, 3, 4).
    """
    pixels = vary_sharpness(pixels, mpp, augmentation, generator)
    share = torch.empty(len(pixels)).uniform_(augmentation.partial_colour, 1, generator=generator)
    return pixels, vary_colour(part_way(colour, share), stains, augmentation, generator)


def vary_sharpness(
    pixels: Tensor, mpp: float | Tensor, augmentation: Augmentation, generator: torch.Generator
) -> Tensor:
    """Blur some windows (B, 3, H, W) and add noise to all; ``mpp`` is that of all windows, or of
    each (B,).
    """
    n, mpp = len(pixels), torch.as_tensor(mpp)
    chosen = torch.rand(n, generator=generator) < augmentation.blur
    # 1e-3 avoids division by a sigma of 0.
    sigma = torch.rand(n, generator=generator) * augmentation.blur_um / mpp + 1e-3
    if chosen.any():
        # The radius suits the largest possible sigma, so that the kernels of all windows form one
        # tensor.
        radius = _blur_radius(augmentation.blur_um / float(mpp.min()), min(pixels.shape[2:]))
        blurred = _blur(pixels[chosen], sigma[chosen], radius)
        pixels = pixels.clone()
        pixels[chosen] = blurred
    level = torch.rand(n, 1, 1, 1, generator=generator).to(pixels) * augmentation.noise
    # noise is made on the device, by a generator seeded from this one
    if pixels.device.type != "cpu":
        seed = int(torch.randint(2**62, (), generator=generator))
        generator = torch.Generator(pixels.device).manual_seed(seed)
    noise = torch.randn(pixels.shape, generator=generator, device=pixels.device).to(pixels)
    return (pixels + level * noise).clamp(0, 255)


NOISE_STD = 24.0  # standard deviation of the noise in the table, in units of int8
N_OFFSETS = 1 << 22


def vary_view_sharpness(
    pixels: ndarray, mpp: float, augmentation: Augmentation, generator: np.random.Generator
) -> ndarray:
    """Randomly blur a view (R, R, 3) uint8 and add noise, with the distributions of
    ``vary_sharpness``.

    The noise is read from a table at a random offset, because generating it takes longer than
    reading the pixels.
    """
    if generator.random() < augmentation.blur:
        sigma = generator.random() * augmentation.blur_um / mpp + 1e-3
        size = 2 * _blur_radius(augmentation.blur_um / mpp, min(pixels.shape[:2])) + 1
        pixels = cv2.GaussianBlur(pixels, (size, size), sigma, borderType=cv2.BORDER_REFLECT_101)
    level = generator.random() * augmentation.noise
    offset = int(generator.integers(N_OFFSETS))
    noise = _noise_table(pixels.size)[offset : offset + pixels.size].reshape(pixels.shape)
    return cv2.addWeighted(pixels, 1, noise, level / NOISE_STD, 0, dtype=cv2.CV_8U)


@lru_cache
def _noise_table(n: int) -> ndarray:
    """int8 normal numbers with standard deviation ``NOISE_STD``, enough for ``n`` of them from any
    offset.
    """
    normal = np.random.default_rng(0).standard_normal(N_OFFSETS + n, np.float32)
    return (NOISE_STD * normal).round().clip(-127, 127).astype(np.int8)


def _blur_radius(sigma_px: float, side_px: int) -> int:
    """Radius, in px, at which Gaussians of up to ``sigma_px`` are cut off: three sigmas, or less in
    small windows.
    """
    return min(max(MIN_BLUR_RADIUS_PX, int(3 * sigma_px)), side_px - 1)


def _blur(pixels: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur each window (B, 3, H, W) with its own ``sigma`` (B,) in px; Gaussians are cut off after
    ``radius`` px.
    """
    offset = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(pixels)  # (B, 2 radius + 1)
    for axis in (2, 3):
        pixels = _weighted_shifts(pixels, kernel, axis)
    return pixels


def _weighted_shifts(pixels: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Convolve each window (B, 3, H, W) with its own ``kernel`` (B, 2 radius + 1) along ``axis``;
    borders are mirrored.

    On a CPU, a grouped convolution would take six times as long.
    """
    size, radius = pixels.shape[axis], kernel.shape[1] // 2
    border = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
    padded = functional.pad(pixels, border, mode="reflect")
    total = torch.zeros_like(pixels)
    for start, weight in enumerate(kernel.T):
        total.addcmul_(padded.narrow(axis, start, size), weight[:, None, None, None])
    return total
