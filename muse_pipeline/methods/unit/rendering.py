"""Tissue with exact labels, rendered from synthesised masks by a trained generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.environment import find_versions
from muse_pipeline.core.errors import ArgumentError, CheckpointError, LabelError
from muse_pipeline.core.files import complete_file, require_own_folder, write_json
from muse_pipeline.core.pictures import write_png
from muse_pipeline.data.augment import seed_of_step
from muse_pipeline.methods.unit.config import GeneratorSettings
from muse_pipeline.methods.unit.synthesis_folder import read_mask_folder
from muse_pipeline.methods.unit.synthesis_masks import (
    KINDS,
    InstanceMask,
    TissueSettings,
    draw_page,
    fills,
    stylise,
    synthesise_mask,
)
from muse_pipeline.methods.unit.translation import CoModulatedGenerator
from muse_pipeline.nuclei.masks import write_instances
from muse_pipeline.training.checkpoint import load_checkpoint

FACTS, PAGE = "pictures.json", "page.png"
SHOWN, COLUMNS = 12, 6


@dataclass(frozen=True)
class RendererSettings:
    """Settings that a checkpoint contains in addition to the generator's weights."""

    generator: GeneratorSettings  # settings of the network
    tissue: TissueSettings  # settings of the synthesised masks that it was trained on


class Renderer:
    """Renders masks with the generator in a checkpoint of a run with ``method: unit``."""

    def __init__(self, path: Path, threads: int = 1):
        torch.set_num_threads(threads)
        checkpoint = load_checkpoint(path)
        if "renderer" not in checkpoint.meta or "generator" not in checkpoint.networks:
            raise CheckpointError(
                f"{path}: contains no generator; give the checkpoint of a run with `method: unit`"
            )
        settings = parse_config(checkpoint.meta["renderer"], RendererSettings, f"{path}: renderer")
        self.mpp, self.tissue = float(checkpoint.meta["mpp"]), settings.tissue
        self.weights_sha256 = checkpoint.weights_sha256()
        self.network = CoModulatedGenerator(**vars(settings.generator)).eval()
        self.network.load_state_dict(checkpoint.networks["generator"])

    @torch.no_grad()
    def __call__(self, mask: InstanceMask, seed: int) -> np.ndarray:
        """Render a mask as tissue (h, w, 3) uint8; the same mask and seed always give the same
        picture.
        """
        painted = stylise(mask, self.mpp, np.random.default_rng(seed))
        pixels = torch.from_numpy(painted).permute(2, 0, 1)[None].float()
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(1, self.network.noise_dim, generator=generator)
        grain = torch.randn(1, 1, *pixels.shape[-2:], generator=generator)
        rendered = self.network((pixels - 127.5) / 127.5, noise, grain)[0]
        return rendered.round().byte().permute(1, 2, 0).numpy()


def render_pictures(
    renderer: Renderer,
    folder: Path,
    n: int,
    *,
    seed: int,
    size_px: int,
    masks: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Write ``n`` pictures, instances and points, ``pictures.json``, whose contents are returned,
    and ``page.png``.

    An earlier set of pictures in the folder is replaced. The masks in the folder ``masks`` are
    rendered in turn; without it, masks of ``size_px`` are synthesised.
    """
    require_own_folder(folder, is_ours=(folder / FACTS).is_file())
    source, shown = _masks(renderer, seed, size_px, masks), []
    with complete_file(folder) as unfinished:
        unfinished.mkdir()
        for index, mask in zip(range(n), source, strict=False):
            height, width = mask.instances.shape
            if height % renderer.network.stride_px or width % renderer.network.stride_px:
                raise ArgumentError(
                    f"masks of {width} x {height} px do not suit the generator; give multiples of "
                    f"{renderer.network.stride_px} px"
                )
            pixels = renderer(mask, seed_of_step(seed, index))
            words = [KINDS[kind] for kind in mask.kinds]
            write_instances(unfinished, f"picture-{index:06}", pixels, fills(mask.instances), words)
            if index < SHOWN:
                shown += [(stylise(mask, renderer.mpp, np.random.default_rng(index)), pixels)]
            progress(index + 1, n)
        rows = [shown[start : start + COLUMNS] for start in range(0, len(shown), COLUMNS)]
        page = [picture for row in rows for part in zip(*row, strict=True) for picture in part]
        facts = {
            "n": n,
            "seed": seed,
            "mpp": renderer.mpp,
            "tissue": asdict(renderer.tissue) if masks is None else None,
            "weights_sha256": renderer.weights_sha256,
            "versions": find_versions(
                ("muse-pipeline", "numpy", "opencv-python-headless", "torch")
            ),
        }
        write_json(unfinished / FACTS, facts)
        write_png(unfinished / PAGE, draw_page(page, min(COLUMNS, len(shown))))
    return facts


def _masks(
    renderer: Renderer, seed: int, size_px: int, folder: Path | None
) -> Iterator[InstanceMask]:
    if folder is None:
        return (
            synthesise_mask(index, seed, size_px, renderer.mpp, renderer.tissue)
            for index in count()
        )
    masks, mpp = read_mask_folder(folder)
    if not masks or abs(mpp / renderer.mpp - 1) > 1e-3:
        raise LabelError(
            f"{folder}: contains {len(masks)} masks at {mpp:g} um/px, but the generator needs masks"
            f" at {renderer.mpp:g}; make them with `muse synthesize masks --mpp {renderer.mpp:g}`"
        )
    return (masks[index % len(masks)] for index in count())
