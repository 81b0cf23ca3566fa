"""Synthesise instance masks of nuclei in glands and stroma, and pictures of tissue to match them.

    muse synthesize masks -o masks --n 1000 --mpp 0.5
    muse synthesize pictures --generator runs/unit/checkpoint.pt -o rendered --n 200

The folder contains instances/ (16-bit PNG, one number per nucleus), points/ (classes of the
nuclei), masks.json (settings) and page.png (examples). A folder of pictures also contains images/,
rendered by the generator of a run with `method: unit`, and is a source of labels for `muse
finetune`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from muse_pipeline.cli.arguments import Parser
from muse_pipeline.cli.signature import AtLeastOne, ZeroOrMore, add_parameters
from muse_pipeline.core.types import Written


def add_arguments(parser: Parser, _: Sequence[str] = ()) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for name, function in (("masks", write_masks), ("pictures", write_pictures)):
        add_parameters(kinds.add_parser(name, help=f"write {name}"), function)


def write_masks(
    *,
    output: Written,
    n: AtLeastOne = 1000,
    seed: ZeroOrMore = 0,
    mpp: float = 0.5,
    size_px: AtLeastOne = 256,
    threads: int = 1,
) -> None:
    """Synthesise instance masks of glands and stroma.

    Args:
        output: folder to write; masks from an earlier call are replaced
        n: number
        seed: seed
        mpp: um per pixel
        size_px: side of a mask
        threads: number of masks made at the same time
    """
    from muse_pipeline.core.process import show_progress
    from muse_pipeline.core.text import count_noun
    from muse_pipeline.methods.unit import synthesis_folder as folder
    from muse_pipeline.methods.unit.synthesis_masks import TissueSettings

    how = {"seed": seed, "mpp": mpp, "size_px": size_px, "threads": threads}
    with show_progress("masks") as progress:
        folder.write_mask_folder(output, n, TissueSettings(), **how, progress=progress)
    print(f"{output}: {count_noun(n, 'mask')}; see {folder.PAGE}")


def write_pictures(
    *,
    generator: Path,
    output: Written,
    n: AtLeastOne = 200,
    seed: ZeroOrMore = 0,
    size_px: AtLeastOne = 256,
    threads: int = 1,
) -> None:
    """Render synthesised masks as tissue.

    Args:
        generator: checkpoint of a run with `method: unit`
        output: folder to write; pictures from an earlier call are replaced
        n: number
        seed: seed
        size_px: side of a picture
        threads: number of pictures made at the same time
    """
    from muse_pipeline.core.process import show_progress
    from muse_pipeline.core.text import count_noun
    from muse_pipeline.methods.unit import synthesis_folder as folder
    from muse_pipeline.methods.unit.rendering import Renderer

    renderer = Renderer(generator)
    how = {"seed": seed, "mpp": renderer.mpp, "size_px": size_px, "threads": threads}
    with show_progress("pictures") as progress:
        folder.write_mask_folder(
            output, n, renderer.tissue, **how, render=renderer, progress=progress
        )
    print(f"{output}: {count_noun(n, 'picture')} at {renderer.mpp:g} um/px; see {folder.PAGE}")
