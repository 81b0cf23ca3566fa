"""A folder of synthesised masks: instances and points, laid out like a label source, with or
without pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy import ndarray

from muse_pipeline.core.environment import find_versions
from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.files import complete_file, read_json, require_own_folder, write_json
from muse_pipeline.core.pictures import draw_page, list_pictures, write_png
from muse_pipeline.core.process import map_in_order
from muse_pipeline.data.augment import seed_of_step
from muse_pipeline.methods.unit.synthesis_masks import (
    KINDS,
    InstanceMask,
    TissueSettings,
    fills,
    require_drawable,
    stylise,
    synthesise_mask,
)
from muse_pipeline.nuclei.masks import INSTANCES, POINTS, read_label_image, write_instances

SETTINGS, PAGE = "masks.json", "page.png"
PAGE_COLUMNS, PAGE_PX = 6, 1600  # the page has 4 rows of at most 6 masks and about 1,600 px
Render = Callable[[InstanceMask, int], ndarray]  # a mask and a seed -> (h, w, 3) uint8


def write_mask_folder(
    folder: Path,
    n: int,
    tissue: TissueSettings,
    *,
    seed: int,
    mpp: float,
    size_px: int,
    threads: int = 1,
    render: Render | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write masks 0 to n - 1 of a seed, ``masks.json`` and ``page.png``; the bytes do not depend on
    ``threads``.

    An earlier set of masks in the folder is replaced. With ``render``, the tissue that it renders
    from the masks is written too, and the nuclei are without their contours.
    """
    require_drawable(size_px, mpp, tissue)
    require_own_folder(folder, is_ours=(folder / SETTINGS).is_file())
    name = "mask" if render is None else "picture"
    columns = max(1, min(PAGE_COLUMNS, PAGE_PX // size_px))
    with complete_file(folder) as unfinished:

        def draw(index: int) -> ndarray | None:
            mask = synthesise_mask(index, seed, size_px, mpp, tissue)
            pixels = None
            instances = mask.instances
            words = [KINDS[kind] for kind in mask.kinds]
            if render is not None:
                pixels = render(mask, seed_of_step(seed, index))
                instances = fills(instances)
            write_instances(unfinished, f"{name}-{index:06}", pixels, instances, words)
            if index >= 4 * columns:
                return None
            return stylise(mask, mpp, np.random.default_rng(index)) if pixels is None else pixels

        unfinished.mkdir()
        shown = []
        for index, picture in enumerate(map_in_order(draw, range(n), threads)):
            shown += [] if picture is None else [picture]
            progress(index + 1, n)
        facts = {
            "n": n,
            "seed": seed,
            "mpp": mpp,
            "size_px": size_px,
            "tissue": asdict(tissue),
            "versions": find_versions(("muse-pipeline", "numpy", "opencv-python-headless")),
        }
        write_json(unfinished / SETTINGS, facts)
        write_png(unfinished / PAGE, draw_page(shown, columns))


def find_mask_settings(folder: Path) -> Path:
    """The file with the settings of the masks in a folder written by ``write_mask_folder``."""
    path = folder / SETTINGS
    if not path.is_file():
        raise LabelError(
            f"{folder}: contains no {SETTINGS}; make masks with `muse synthesize masks -o {folder}`"
        )
    return path


def read_mask_folder(folder: Path) -> tuple[list[InstanceMask], float]:
    """Read the masks in a folder written by ``write_mask_folder``, and their um per pixel."""
    masks, mpp = [], float(read_json(find_mask_settings(folder))["mpp"])
    for path in list_pictures(folder / INSTANCES):
        words = [
            line.split("\t")[-1]
            for line in (folder / POINTS / f"{path.stem}.tsv").read_text("utf-8").splitlines()
        ]
        kinds = np.array([KINDS.index(word) for word in words[1:]], np.uint8)
        masks.append(InstanceMask(read_label_image(path).astype(np.uint16), kinds))
    return masks, mpp
