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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from muse_pipeline.cli.arguments import positive, show_result, text_columns
from muse_pipeline.cli.signature import NotNegative, Positive
from muse_pipeline.core.errors import ConfigError
from muse_pipeline.core.types import Written

if TYPE_CHECKING:
    from muse_pipeline.inference.card import Card, ModelCard


def run(
    model: str,
    output: Path | None = None,  # not Written, since it may be the model's own file
    json: Written | None = None,
    pictures: Sequence[tuple[str, str]] = (),
    temperature: Positive | None = None,
    snap_um: NotNegative | None = None,
    refine: bool = False,
    limits: str | None = None,
    organs: Sequence[str] = (),
) -> None:
    """Print the card, or change it and print the settings that can be changed.

    Args:
        model: built-in name or .onnx file
        output: file to write, which may be the model's own
        json: the whole card as JSON, in FILE; without FILE, printed instead of the text
        pictures: folder of training pictures and their um per pixel; may be given several times
        temperature: number by which class logits are divided to calibrate them
        snap_um: move outlines by at most this distance to the nearest edge, instead of --refine; 0:
            do not move them
        refine: refine outlines with the built-in network, instead of --snap-um
        limits: meaning of the classes, and limits of the model's use
        organs: an organ in which every class, or this class, was measured; may be given several
            times
    """
    from dataclasses import asdict

    from muse_pipeline.inference.model import find_model, read_card

    if refine and snap_um is not None:
        raise ConfigError("--refine and --snap-um contradict each other; give one of them")
    path = find_model(model)
    given = {"temperature": temperature, "snap_um": snap_um, "refine": refine or None}
    given |= {"limits": limits, "organs": _organs_by_class(organs, read_card(path)) or None}
    facts = {name: fact for name, fact in given.items() if fact is not None}
    if not pictures and not facts:
        if output is not None:
            raise ConfigError(
                f"--output {output}: nothing to change in the card; give --pictures,"
                " --temperature, --snap-um, --refine, --limits or --organ"
            )
        card = read_card(path)
        show_result(_text(card), asdict(card), json)
        return
    if output is None:
        raise ConfigError("give --output ONNX, the file to write; it may be the model's own")

    from muse_pipeline.export.onnx import measure_folders, recard
    from muse_pipeline.inference.card import ModelCard

    if pictures:
        facts["appearance"] = measure_folders([_folder(*words) for words in pictures])
        print(f"measured {facts['appearance'].n_pictures} pictures")
    card = recard(path, output, facts)
    text = f"{output}: {card.name}"
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


def _organs_by_class(words: Sequence[str], card: Card) -> dict[str, list[str]]:
    from muse_pipeline.core.specimen import describe_organ_fault

    classes = [one.name for one in getattr(card, "classes", ())]
    organs = {}
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
