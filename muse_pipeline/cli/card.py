"""Show or edit a model card.

    muse card compact  show classes, training data, figures and limits; --json: the whole card
    muse card compact.onnx --pictures brca-m2c/images 0.5 -o compact.onnx
    muse card compact.onnx --temperature 1.3 --limits "Trained on breast only." -o compact.onnx
    muse card mine.onnx --organ kidney --organ Epithelial=bladder -o mine.onnx

The network does not change. `muse export` has already added the appearance of a run's training
pictures to its card.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from muse_pipeline.cli.arguments import Parser, not_negative, positive, show_result, text_columns
from muse_pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    from muse_pipeline.inference.card import Card, ModelCard

WRITES = frozenset({"json"})  # --output is left out, since it may be the model's own file


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", metavar="MODEL", help="built-in name or .onnx file")
    parser.add_json("the whole card")
    parser.add_argument(
        "--pictures",
        nargs=2,
        action="append",
        metavar=("FOLDER", "UM"),
        help="folder of training pictures and their um per pixel; may be given several times",
    )
    parser.add_number(
        "--temperature", positive, "T", "number by which class logits are divided to calibrate them"
    )
    outlines = parser.add_mutually_exclusive_group()
    outlines.add_argument(
        "--snap-um",
        type=not_negative,
        metavar="UM",
        help=(
            "move outlines by at most this distance to the nearest edge, instead of --refine; 0: do"
            " not move them"
        ),
    )
    outlines.add_argument(
        "--refine",
        action="store_true",
        default=None,
        help="refine outlines with the built-in network, instead of --snap-um",
    )
    parser.add_argument(
        "--limits", metavar="TEXT", help="meaning of the classes, and limits of the model's use"
    )
    parser.add_argument(
        "--organ",
        action="append",
        dest="organs",
        metavar="[CLASS=]NAME",
        help=(
            "an organ in which this class, or every class, was measured; may be given several times"
        ),
    )
    parser.add_output("ONNX", "file to write, which may be the model's own", required=False)


def run(args: argparse.Namespace) -> None:
    """Print the card, or change it and print the settings that can be changed."""
    from dataclasses import asdict

    from muse_pipeline.inference.model import find_model, read_card

    model = find_model(args.model)
    facts: dict = {
        name: fact
        for name in ("temperature", "snap_um", "refine", "limits", "organs")
        if (fact := getattr(args, name)) is not None
    }
    if args.organs:
        facts["organs"] = _organs_by_class(args.organs, read_card(model))
    if not args.pictures and not facts:
        if args.output is not None:
            raise ConfigError(
                f"--output {args.output}: nothing to change in the card; give --pictures,"
                " --temperature, --snap-um, --refine, --limits or --organ"
            )
        card = read_card(model)
        show_result(_text(card), asdict(card), args.json)
        return
    if args.output is None:
        raise ConfigError("give --output ONNX, the file to write; it may be the model's own")

    from muse_pipeline.export.onnx import measure_folders, recard
    from muse_pipeline.inference.card import ModelCard

    if args.pictures:
        facts["appearance"] = measure_folders([_folder(*words) for words in args.pictures])
        print(f"measured {facts['appearance'].n_pictures} pictures")
    card = recard(model, args.output, facts)
    text = f"{args.output}: {card.name}"
    if isinstance(card, ModelCard):
        moved = (
            f"outlines moved by at most {card.snap_um:g} um"
            if card.snap_um
            else "outlines as the model found them"
        )
        text += (
            f", temperature {card.temperature:g}, {'outlines refined' if card.refine else moved}"
        )
    print(text)


def _organs_by_class(words: list[str], card: Card) -> dict[str, list[str]]:
    from muse_pipeline.core.specimen import describe_organ_fault

    classes = [one.name for one in getattr(card, "classes", ())]
    organs: dict[str, list[str]] = {}
    for word in words:
        name, _, organ = word.rpartition("=")
        if name and name not in classes:
            raise ConfigError(
                f"--organ {word}: the model has no class '{name}', but {', '.join(classes)}"
            )
        if fault := describe_organ_fault(organ):
            raise ConfigError(f"--organ {word}: {fault}")
        for one in [name] if name else classes:
            organs.setdefault(one, []).append(organ)
    return organs


def _text(card: ModelCard) -> str:
    """Format the card as a table of terms and values, wrapped to the width of the terminal."""
    from dataclasses import asdict
    from textwrap import TextWrapper

    from muse_pipeline.inference.card import card_facts

    wrapper = TextWrapper(text_columns(), subsequent_indent=" " * 22, break_long_words=False)
    lines = [card.name]
    for term, value in card_facts(asdict(card)).items():
        for number, line in enumerate([value] if isinstance(value, str) else value):
            wrapper.initial_indent = f"  {'' if number else term:20}"
            lines += wrapper.wrap(line)
    return "\n".join(lines)


def _folder(folder: str, um: str) -> tuple[Path, float]:
    try:
        return Path(folder), positive(um)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"--pictures {folder}: {error}; give um per pixel") from error
