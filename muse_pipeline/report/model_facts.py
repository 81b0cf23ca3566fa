"""Facts from a model's card and about a pretraining run, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muse_pipeline.core.provenance import organs_of
from muse_pipeline.inference.outlines import TRAINING_DATA
from muse_pipeline.report.album import Album


def card_facts(card: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """The facts in a card by name, each as a text or a list of lines; missing ones are left out.

    Args:
        card: content of the card, as in its JSON file.
    """
    facts = {
        "Classes": [each["name"] for each in card.get("classes", [])],
        "Validated in": [f"{name}: {', '.join(organs)}" for name, organs in organs_of(card).items() if organs],
        "Works at": f"{card['mpp']:g} µm per pixel",
        "Window": _window(card),
        "Imported": f"{card['kind']}; scaling of pixels: {card['scaling']}" if "scaling" in card else None,
        "Precision": card.get("precision"),
        "Threshold": _number(card.get("threshold")),
        "Stain normalisation": _colour(card.get("colour") or {}),
        "Outlines": _outlines(card),
        "Training data": card.get("training_data"),
        "Measured": [f"{name}: {_number(value)}" for name, value in sorted((card.get("metrics") or {}).items())],
        "Limits": card.get("limits"),
        "Licence": card.get("licence"),
        "Made from": [f"{name.replace('_', ' ')}: {text}" for name, text in sorted((card.get("source") or {}).items())],
    }
    return {term: content for term, content in facts.items() if content}


def _window(card: Mapping[str, Any]) -> str | None:
    if "input_px" not in card:
        return None
    return f"{card['input_px']:,} px, of which {card['halo_px']} px on every side belong to neighbouring windows"


def _outlines(card: Mapping[str, Any]) -> str | None:
    if card.get("refine"):
        return f"refined by a second network, trained on {TRAINING_DATA}"
    return f"moved by up to {card['snap_um']:g} µm to the nearest edge" if card.get("snap_um") else None


def _colour(colour: Mapping[str, Any]) -> str | None:
    share = colour.get("share", 1.0)
    partly = "" if share == 1.0 or colour.get("method") == "identity" else f", strength {share:.0%}"
    return f"{colour['method']}{partly}" if "method" in colour else None


def _number(value: Any) -> str | None:
    return f"{value:.4g}" if isinstance(value, int | float) else None if value is None else str(value)


PAGES = {  # captions of files in the run's folder
    "views.png": "Views in training",
    "curves.png": "Training curves",
    "cohort.yaml": "Settings and slides",
}


def pretraining_facts(folder: Path, album: Album) -> dict[str, Any]:
    """State of a pretraining run and links to its files.

    Args:
        folder: folder of the pretraining run, in the layout of the workflow.
        album: album of the page, for links to files.
    """
    files = [(folder / name, words) for name, words in PAGES.items()]
    log = folder / "logs" / "pretrain.log"
    return {
        "name": folder.name,
        "ended": _is_newer(folder / "checkpoint.pt", folder / "cohort.yaml"),
        "log": album.link(log) if log.is_file() else None,
        "links": [(words, album.link(file)) for file, words in files if file.is_file()],
    }


def _is_newer(file: Path, than: Path) -> bool:
    """True if both files exist and ``file`` is not older than ``than``."""
    try:
        return file.stat().st_mtime_ns >= than.stat().st_mtime_ns
    except OSError:
        return False
