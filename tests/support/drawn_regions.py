"""Synthetic tissue of two textures, stroma with islands of tumour, and a region model fitted to it
in seconds.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from muse_pipeline.inference.card import NucleusClass
from muse_pipeline.models.region import RegionNetwork
from muse_pipeline.training.checkpoint import save_checkpoint
from muse_pipeline.training.region_model import RegionExport, RegionModel, region_checkpoint

CLASSES = (NucleusClass("Stroma", (150, 200, 150)), NucleusClass("Tumour", (200, 0, 0)))
MPP = 2.0
GLASS, PINK, LILAC, DARK = (245, 245, 245), (225, 165, 200), (205, 150, 200), (95, 60, 140)
IDENTITY = torch.eye(3, 4)


def draw_texture(tumour: np.ndarray, mpp: float, seed: int) -> np.ndarray:
    """(h, w, 3) uint8: dense dark dots on lilac where ``tumour`` (h, w) is true, and a few on pink
    elsewhere.
    """
    rng = np.random.default_rng(seed)
    height, width = tumour.shape
    picture = np.where(tumour[..., None], LILAC, PINK).astype(np.uint8)
    for is_tumour, per_mm2 in ((True, 6000), (False, 800)):
        n = rng.poisson(per_mm2 * height * width * mpp**2 / 1e6)
        xy = rng.random((n, 2)) * (width, height)
        for x, y in xy[tumour[xy[:, 1].astype(int), xy[:, 0].astype(int)] == is_tumour]:
            centre = int(x * 16), int(y * 16)
            radius = max(round(4.0 / mpp * 16), 8)
            cv2.circle(picture, centre, radius, DARK, -1, cv2.LINE_AA, shift=4)
    noise = rng.normal(0, 5, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def draw_blobs(size_px: int, seed: int) -> np.ndarray:
    """(size_px, size_px) bool: smooth random areas that cover about half of the square."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(size_px, size_px)).astype(np.float32)
    field = cv2.GaussianBlur(noise, (0, 0), size_px / 8)
    return field > np.median(field)


def fit_network() -> RegionNetwork:
    """A network fitted on one thread to pixel labels of synthetic textures."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network = RegionNetwork("muse_compact_16", len(CLASSES))
    masks = np.stack([draw_blobs(160, seed) for seed in range(24)])
    pictures = np.stack([draw_texture(mask, MPP, 100 + seed) for seed, mask in enumerate(masks)])
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
    target = torch.nn.functional.avg_pool2d(torch.from_numpy(masks).float()[:, None], 4)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(60):
        batch = torch.randint(len(pixels), (6,), generator=order)
        maps = network(pixels[batch], IDENTITY)
        entropy = torch.nn.functional.binary_cross_entropy
        loss = sum(entropy(each, target[batch]) for each in (*maps.sides, maps.fused))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    torch.set_num_threads(threads)
    return network.eval()


def save_drawn_model(
    folder: Path, network: RegionNetwork, backbone: str = "muse_compact_16", **export
) -> Path:
    """Save a checkpoint with pictures next to it, as a training run does, and return the
    checkpoint's path.
    """
    model = RegionModel(
        name="drawn",
        mpp=MPP,
        backbone=backbone,
        classes=CLASSES,
        licence="CC0-1.0",
        training_data="drawn textures",
        export=RegionExport(**{"input_px": 384, "halo_px": 64, **export}),
    )
    checkpoint = region_checkpoint(network, model, {"config": {}, "colour": {}})
    save_checkpoint(folder / "checkpoint.pt", checkpoint)
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    for number in range(3):
        picture = draw_texture(draw_blobs(384, 50 + number), MPP, 200 + number)
        cv2.imwrite(str(pictures / f"{number}.png"), picture[..., ::-1])
    return folder / "checkpoint.pt"


def dice(first: np.ndarray, second: np.ndarray) -> float:
    """Dice coefficient of two masks of the same shape."""
    return 2 * float((first & second).sum()) / max(float(first.sum() + second.sum()), 1.0)


SLIDE_MPP = 0.5
GLASS_UM = 400


def draw_tumour(size_um: tuple[int, int], seed: int) -> np.ndarray:
    """(h, w) bool at 2 um/px: a few islands of tumour of several hundred um, one with a hole of
    stroma.
    """
    rng = np.random.default_rng(seed)
    width, height = (round(side / MPP) for side in size_um)
    field = cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), 150 / MPP)
    tumour = (field > np.quantile(field, 0.65)).astype(np.uint8)
    centre = width // 3, height // 2
    cv2.circle(tumour, centre, round(450 / MPP), 1, -1)
    cv2.circle(tumour, centre, round(180 / MPP), 0, -1)
    return tumour > 0


def draw_slide(tumour: np.ndarray, seed: int) -> np.ndarray:
    """(h, w, 3) uint8 at 0.5 um/px: tissue on glass, with tumour where the mask from
    ``draw_tumour`` is true.
    """
    scale, margin = round(MPP / SLIDE_MPP), round(GLASS_UM / SLIDE_MPP)
    tissue = draw_texture(tumour.repeat(scale, 0).repeat(scale, 1), SLIDE_MPP, seed)
    return cv2.copyMakeBorder(tissue, *[margin] * 4, cv2.BORDER_CONSTANT, value=GLASS)
