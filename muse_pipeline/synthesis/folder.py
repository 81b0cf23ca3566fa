"""A folder of synthesised masks: instances and points in the layout of a label source, without pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from muse_pipeline.core.environment import find_versions
from muse_pipeline.core.errors import LabelError
from muse_pipeline.core.files import complete_file, read_json, require_own_folder, write_json
from muse_pipeline.core.pictures import list_pictures, write_png
from muse_pipeline.core.process import map_in_order
from muse_pipeline.nuclei.masks import INSTANCES, POINTS, read_label_image, write_instances
from muse_pipeline.synthesis.masks import InstanceMask, require_drawable, synthesise_mask
from muse_pipeline.synthesis.pictures import draw_page, stylise
from muse_pipeline.synthesis.settings import KINDS, TissueSettings
from muse_pipeline.synthesis.statistics import summarise

SETTINGS, PAGE = "masks.json", "page.png"
PAGE_COLUMNS, PAGE_PX = 6, 1600  # the page has 4 rows, fewer where masks are large
SUMMARISED = 500  # masks that statistics are taken of


def write_masks(
    folder: Path,
    n: int,
    tissue: TissueSettings,
    *,
    seed: int,
    mpp: float,
    size_px: int,
    threads: int = 1,
    fit: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """Write masks 0 to n - 1 of a seed, ``masks.json`` and ``page.png``; the bytes do not depend on ``threads``.

    Args:
        folder: output folder, which is made; an earlier set in it is replaced.
        n: number of masks.
        tissue: settings of the tissue that is drawn.
        seed: seed of the set.
        mpp: um per pixel.
        size_px: side of a mask.
        threads: masks under way at a time.
        fit: description of the data that ``tissue`` was fitted to, for the record.
        progress: callback with (done, total).

    Returns:
        The contents of ``masks.json``.

    Raises:
        ArgumentError: nuclei cannot be drawn at this mpp and size.
        OutputError: the folder holds something else, or cannot be written to.
    """
    require_drawable(size_px, mpp, tissue)
    require_own_folder(folder, is_ours=(folder / SETTINGS).is_file())
    draw = partial(_draw_into, seed=seed, size_px=size_px, mpp=mpp, tissue=tissue)
    with complete_file(folder) as unfinished:
        unfinished.mkdir()
        first: list[InstanceMask] = []
        for index, mask in enumerate(map_in_order(lambda i: draw(unfinished, i), range(n), threads)):
            if index < SUMMARISED:
                first.append(mask)
            progress(index + 1, n)
        facts = {
            "n": n,
            "seed": seed,
            "mpp": mpp,
            "size_px": size_px,
            "tissue": asdict(tissue),
            "fit": fit,
            "statistics": summarise(first, mpp),
            "versions": find_versions(("muse-pipeline", "numpy", "opencv-python-headless")),
        }
        write_json(unfinished / SETTINGS, facts)
        write_png(unfinished / PAGE, _draw_examples(first, mpp, size_px))
    return facts


def _draw_into(folder: Path, index: int, seed: int, size_px: int, mpp: float, tissue: TissueSettings) -> InstanceMask:
    mask = synthesise_mask(index, seed, size_px, mpp, tissue)
    write_instances(folder, f"mask-{index:06}", None, mask.instances, [KINDS[kind] for kind in mask.kinds])
    return mask


def _draw_examples(masks: Sequence[InstanceMask], mpp: float, size_px: int) -> np.ndarray:
    columns = max(1, min(PAGE_COLUMNS, PAGE_PX // size_px))
    shown = masks[: 4 * columns]
    return draw_page([stylise(mask, mpp, np.random.default_rng(i)) for i, mask in enumerate(shown)], columns)


def read_masks(folder: Path) -> tuple[list[InstanceMask], float]:
    """Read the masks of a folder that ``write_masks`` made, and their um per pixel.

    Raises:
        LabelError: the folder is not of masks, or a file of it is missing or damaged.
    """
    if not (folder / SETTINGS).is_file():
        raise LabelError(f"{folder}: contains no {SETTINGS}; make masks with `muse synthesize masks -o {folder}`")
    masks = []
    for path in list_pictures(folder / INSTANCES):
        words = [
            line.split("\t")[-1] for line in (folder / POINTS / f"{path.stem}.tsv").read_text("utf-8").splitlines()
        ]
        kinds = np.array([KINDS.index(word) for word in words[1:]], np.uint8)
        masks.append(InstanceMask(read_label_image(path).astype(np.uint16), kinds))
    return masks, float(read_json(folder / SETTINGS)["mpp"])
