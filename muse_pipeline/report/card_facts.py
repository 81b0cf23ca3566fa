"""What a model's card says, in people's words: the same on a page and on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card_facts(card: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """Term -> what the card says of it, line by line where that is a list; what it does not say is left out.

    Args:
        card: as JSON has it.
    """
    facts = {
        "Classes": [each["name"] for each in card.get("classes", [])],
        "Works at": f"{card['mpp']:g} µm per pixel",
        "Window": _window(card),
        "Precision": card.get("precision"),
        "Threshold": _number(card.get("threshold")),
        "Stain normalisation": _colour(card.get("colour") or {}),
        "Training data": card.get("training_data"),
        "Measured": [f"{name}: {_number(value)}" for name, value in sorted((card.get("metrics") or {}).items())],
        "Limits": card.get("limits"),
        "Licence": card.get("licence"),
        "Made from": [f"{name.replace('_', ' ')}: {text}" for name, text in sorted((card.get("source") or {}).items())],
    }
    return {term: said for term, said in facts.items() if said}


def _window(card: Mapping[str, Any]) -> str | None:
    if "input_px" not in card:
        return None
    return f"{card['input_px']:,} px, of which {card['halo_px']} px on every side belong to its neighbours"


def _colour(colour: Mapping[str, Any]) -> str | None:
    share = colour.get("share", 1.0)
    partly = "" if share == 1.0 or colour.get("method") == "identity" else f", {share:.0%} of the way"
    return f"{colour['method']}{partly}" if "method" in colour else None


def _number(value: Any) -> str | None:
    return f"{value:.4g}" if isinstance(value, int | float) else None if value is None else str(value)
