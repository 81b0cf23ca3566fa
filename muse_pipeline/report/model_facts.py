"""The models behind a cohort, as their cards describe them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from muse_pipeline.report.class_bar import swatch
from muse_pipeline.report.markup import Markup, element, join
from muse_pipeline.report.slide_card import definitions


def model_facts(provenances: Iterable[dict[str, Any]]) -> Markup:
    """One block per model, in the order of first use."""
    models = {provenance["model"]["sha256"]: provenance for provenance in provenances}
    return join([_describe(provenance) for provenance in models.values()])


def _describe(provenance: dict[str, Any]) -> Markup:
    card = provenance["card"]
    pairs: dict[str, object] = {
        "Classes": _classes(card.get("classes", [])),
        "Works at": f"{card['mpp']:g} µm per pixel",
        "Precision": card.get("precision"),
        "Threshold": _number(card.get("threshold")),
        "Stain normalisation": _colour(card.get("colour") or {}),
        "Training data": card.get("training_data") or None,
        "Measured": _metrics(card.get("metrics") or {}),
        "Limits": card.get("limits") or None,
        "Licence": card.get("licence") or None,
        "Checksum": element("code", provenance["model"]["sha256"]),
    }
    return element("section", element("h3", element("bdi", provenance["model"]["name"])), definitions(pairs, "model"))


def _colour(colour: dict[str, Any]) -> str | None:
    share = colour.get("share", 1.0)
    partly = "" if share == 1.0 or colour.get("method") == "identity" else f", {share:.0%} of the way"
    return f"{colour['method']}{partly}" if "method" in colour else None


def _classes(classes: list[dict[str, Any]]) -> Markup:
    return element("ul", *(element("li", swatch(each["color"]), each["name"]) for each in classes), class_="legend")


def _metrics(metrics: dict[str, float]) -> Markup | None:
    entries = [element("li", f"{name} ", element("b", _number(value))) for name, value in sorted(metrics.items())]
    return element("ul", *entries, class_="metrics") if entries else None


def _number(value: Any) -> str | None:
    return f"{value:.4g}" if isinstance(value, int | float) else None if value is None else str(value)
