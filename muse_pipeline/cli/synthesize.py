"""Synthesise instance masks of nuclei in glands and stroma, and pictures of tissue to match them.

    muse synthesize masks -o masks --n 1000 --mpp 0.5
    muse synthesize pictures --generator runs/unit/checkpoint.pt -o rendered --n 200

The folder contains instances/ (16-bit PNG, one number per nucleus), points/ (classes of the
nuclei), masks.json (settings) and page.png (examples). A folder of pictures also contains images/,
rendered by the generator of a run with `method: unit`, and is a source of labels for `muse
finetune`.
"""

import argparse

from muse_pipeline.cli.arguments import Parser, at_least_one, positive, zero_or_more


def add_arguments(parser: Parser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    masks = kinds.add_parser(
        "masks", help="instance masks of glands and stroma", description=write_masks.__doc__
    )
    masks.add_output("FOLDER", "folder to write; masks from an earlier call are replaced")
    masks.add_number("--n", at_least_one, "N", "number", default=1000)
    masks.add_number("--seed", zero_or_more, "S", "seed", default=0)
    masks.add_number("--mpp", positive, "M", "um per pixel", default=0.5)
    masks.add_number("--size-px", at_least_one, "P", "side of a mask", default=256)
    masks.add_threads("number of masks made at the same time")
    masks.set_defaults(synthesize=write_masks)
    pictures = kinds.add_parser(
        "pictures", help="rendered tissue with labels", description=write_pictures.__doc__
    )
    pictures.add_output("FOLDER", "folder to write; pictures from an earlier call are replaced")
    pictures.add_path(
        "--generator", "FILE", "checkpoint of a run with `method: unit`", required=True
    )
    pictures.add_number("--n", at_least_one, "N", "number", default=200)
    pictures.add_number("--seed", zero_or_more, "S", "seed", default=0)
    pictures.add_number("--size-px", at_least_one, "P", "side of a picture", default=256)
    pictures.add_threads("number of pictures made at the same time")
    pictures.set_defaults(synthesize=write_pictures)


def run(args: argparse.Namespace) -> None:
    args.synthesize(args)


def write_masks(args: argparse.Namespace) -> None:
    """Synthesise instance masks of glands and stroma."""
    from muse_pipeline.core.process import show_progress
    from muse_pipeline.core.text import count_noun
    from muse_pipeline.methods.unit import synthesis_folder as folder
    from muse_pipeline.methods.unit.synthesis_masks import TissueSettings

    with show_progress("masks") as progress:
        folder.write_mask_folder(
            args.output,
            args.n,
            TissueSettings(),
            seed=args.seed,
            mpp=args.mpp,
            size_px=args.size_px,
            threads=args.threads,
            progress=progress,
        )
    print(f"{args.output}: {count_noun(args.n, 'mask')}; see {folder.PAGE}")


def write_pictures(args: argparse.Namespace) -> None:
    """Render synthesised masks as tissue."""
    from muse_pipeline.core.process import show_progress
    from muse_pipeline.core.text import count_noun
    from muse_pipeline.methods.unit import synthesis_folder as folder
    from muse_pipeline.methods.unit.rendering import Renderer

    renderer = Renderer(args.generator)
    with show_progress("pictures") as progress:
        folder.write_mask_folder(
            args.output,
            args.n,
            renderer.tissue,
            seed=args.seed,
            mpp=renderer.mpp,
            size_px=args.size_px,
            threads=args.threads,
            render=renderer,
            progress=progress,
        )
    print(
        f"{args.output}: {count_noun(args.n, 'picture')} at {renderer.mpp:g} um/px; see"
        f" {folder.PAGE}"
    )
