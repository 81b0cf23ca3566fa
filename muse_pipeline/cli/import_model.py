"""Import a third-party network from an ONNX file as a model that finds nuclei, or that encodes
them.

    muse import-model stardist.onnx --kind stardist --mpp 0.5 --scaling percentile --input-px 512 \
        -o model.onnx
    muse import-model hover.onnx --kind hover --mpp 0.25 --scaling none --logits --input-px 512 -o \
        model.onnx
    muse import-model vit.onnx --kind encoder --mpp 0.5 --scaling imagenet --input-px 224 -o \
        encoder.onnx

The network must be of kind stardist (probability, rays), hover or cellvit (nucleus, horizontal and
vertical position), hovernext (background, inside and boundary; classes), instanseg (its TorchScript
file), cellpose (flows and nucleus), distance (classes, distance), boundary (classes and boundary),
or encoder (a vector per tile, for `muse embed`). Its graph is copied without changes, and a card is
added. Needs the extra `onnx`, and for instanseg the extra `train`.
"""

import argparse

from muse_pipeline.cli.arguments import Parser, at_least_one, fraction, not_negative, positive
from muse_pipeline.core.types import ENCODER, SCALINGS


def add_arguments(parser: Parser) -> None:
    from muse_pipeline.inference.families import FAMILIES

    parser.add_path("network", "NETWORK", "ONNX file, or TorchScript file of InstanSeg")
    parser.add_argument(
        "--kind",
        choices=(*FAMILIES.names(), ENCODER),
        required=True,
        help="content of the network's outputs",
    )
    parser.add_number("--mpp", positive, "UM", "um per pixel of the network's input", required=True)
    parser.add_argument(
        "--scaling",
        choices=SCALINGS,
        required=True,
        help=(
            "scaling of the pixels: 0 to 255 (none), 0 to 1 (unit), -1 to 1 (symmetric), with"
            " ImageNet's mean and deviation (imagenet), or percentiles 1 and 99.8 of each channel"
            " of a window to 0 and 1 (percentile)"
        ),
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        default=["Nucleus"],
        metavar="NAME",
        help="classes in order, without background",
    )
    parser.add_argument(
        "--outputs",
        nargs="+",
        default=[],
        metavar="NAME",
        help=(
            "names of the outputs in the order of the kind, then classes (default: identified by"
            " name or order)"
        ),
    )
    parser.add_flag("--logits", "apply softmax to the probability maps, or sigmoid to a single map")
    parser.add_number(
        "--input-px",
        at_least_one,
        "N",
        "side of a window or tile, a multiple of the stride, if the network takes any size",
    )
    parser.add_number(
        "--halo-um",
        not_negative,
        "UM",
        "border of a window that belongs to its neighbours",
        default=12.0,
    )
    parser.add_argument(
        "--threshold",
        type=fraction,
        default=0.5,
        help="lowest probability of a nucleus, or of InstanSeg's seeds",
    )
    parser.add_argument("--name", help="name of the model (default: that of the output file)")
    parser.add_argument(
        "--licence", default="not given", metavar="TEXT", help="licence of the weights"
    )
    parser.add_argument(
        "--training-data", default="not given", metavar="TEXT", help="training data of the network"
    )
    parser.add_output("ONNX")


def run(args: argparse.Namespace) -> None:
    from itertools import cycle
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from PIL import ImageColor

    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.core.types import NucleusClass
    from muse_pipeline.inference.import_model import import_encoder, import_model
    from muse_pipeline.report.plots import COLOR_BLIND_SAFE

    facts = {name: getattr(args, name) for name in ("mpp", "scaling", "licence", "training_data")}
    facts["name"] = args.name or args.output.stem
    files = args.network, args.output, args.input_px
    if args.kind == ENCODER:
        encoder = import_encoder(*files, args.outputs, **facts)
        print(
            f"{args.output}: {encoder.name}, {encoder.embedding_dim} numbers per tile of"
            f" {encoder.tile_px} px"
        )
        return
    if len(set(args.classes)) < len(args.classes):
        raise ConfigError(f"--classes {' '.join(args.classes)}: give each class a name of its own")
    colours = map(ImageColor.getrgb, cycle(COLOR_BLIND_SAFE))
    facts |= {name: getattr(args, name) for name in ("kind", "logits", "threshold")}
    facts["classes"] = tuple(
        NucleusClass(*pair) for pair in zip(args.classes, colours, strict=False)
    )
    with TemporaryDirectory() as folder:
        if args.kind == "instanseg":
            from muse_pipeline.export.instanseg import convert_instanseg

            facts["graph"] = Path(folder) / "graph.onnx"
            facts["classifier"] = convert_instanseg(args.network, facts["graph"], args.input_px)
        card = import_model(*files, args.halo_um, args.outputs, **facts)
    print(
        f"{args.output}: {card.name}, {card.mpp:g} um/px, windows of {card.input_px} px with a halo"
        f" of {card.halo_px} px, from {', '.join(card.maps)}; {card.source['trial']}"
    )
