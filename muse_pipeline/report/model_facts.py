"""Facts from a model's card and about a pretraining run, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muse_pipeline.core.provenance import organs_of
from muse_pipeline.inference.outlines import TRAINING_DATA
from muse_pipeline.report.album import Album

_WINDOW = "{input_px:,} px, of which {halo_px} px on every side belong to neighbouring windows"
PAGES = {  # captions of files in the run's folder
    "views.png": "Views in training",
    "curves.png": "Training curves",
    "cohort.yaml": "Settings and slides",
}


def card_facts(card: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """The facts in a model's card by name, each as a text or a list of lines; missing ones are left out."""
    if card.get("refine"):
        outlines = f"refined by a second network, trained on {TRAINING_DATA}"
    else:
        outlines = f"moved by up to {card['snap_um']:g} µm to the nearest edge" if card.get("snap_um") else None
    facts = {
        "Classes": [kind["name"] for kind in card.get("classes", [])],
        "Validated in": [f"{name}: {', '.join(organs)}" for name, organs in organs_of(card).items() if organs],
        "Works at": f"{card['mpp']:g} µm per pixel",
        "Window": _WINDOW.format(**card) if "input_px" in card else None,
        "Imported": f"{card['kind']}; scaling of pixels: {card['scaling']}" if "scaling" in card else None,
        "Precision": card.get("precision"),
        "Threshold": _number(card.get("threshold")),
        "Stain normalisation": _colour(card.get("colour") or {}),
        "Outlines": outlines,
        "Training data": card.get("training_data"),
        "Measured": [f"{name}: {_number(value)}" for name, value in sorted((card.get("metrics") or {}).items())],
        "Limits": card.get("limits"),
        "Licence": card.get("licence"),
        "Made from": [f"{name.replace('_', ' ')}: {text}" for name, text in sorted((card.get("source") or {}).items())],
    }
    return {term: content for term, content in facts.items() if content}


def _colour(colour: Mapping[str, Any]) -> str | None:
    share = colour.get("share", 1.0)
    partly = "" if share == 1.0 or colour.get("method") == "identity" else f", strength {share:.0%}"
    return f"{colour['method']}{partly}" if "method" in colour else None


def _number(value: Any) -> str | None:
    return f"{value:.4g}" if isinstance(value, int | float) else None if value is None else str(value)


def pretraining_facts(folder: Path, album: Album) -> dict[str, Any]:
    """State of the pretraining run in a folder, in the layout of the workflow, and links to its files."""
    files = [(folder / name, words) for name, words in PAGES.items()]
    checkpoint, settings, log = folder / "checkpoint.pt", folder / "cohort.yaml", folder / "logs" / "pretrain.log"
    has_both = checkpoint.is_file() and settings.is_file()
    return {
        "name": folder.name,
        "ended": has_both and checkpoint.stat().st_mtime_ns >= settings.stat().st_mtime_ns,
        "log": album.link(log) if log.is_file() else None,
        "links": [(words, album.link(file)) for file, words in files if file.is_file()],
    }
