"""The models behind a cohort, as their cards describe them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from muse_pipeline.report.card_facts import card_facts
from muse_pipeline.report.class_bar import swatch
from muse_pipeline.report.markup import Markup, element, join
from muse_pipeline.report.slide_card import definitions


def model_facts(provenances: Iterable[dict[str, Any]]) -> Markup:
    """One block per model, in the order of first use."""
    models = {provenance["model"]["sha256"]: provenance for provenance in provenances}
    return join([_describe(provenance) for provenance in models.values()])


def _describe(provenance: dict[str, Any]) -> Markup:
    card, model = provenance["card"], provenance["model"]
    facts = {term: _lines(said) if isinstance(said, list) else said for term, said in card_facts(card).items()}
    pairs: dict[str, object] = {
        **facts,
        "Classes": _classes(card.get("classes", [])),
        "Checksum": element("code", model["sha256"]),
    }
    return element("section", element("h3", element("bdi", model["name"])), definitions(pairs, "model"))


def _classes(classes: list[dict[str, Any]]) -> Markup:
    return element("ul", *(element("li", swatch(each["color"]), each["name"]) for each in classes), class_="legend")


def _lines(said: list[str]) -> Markup:
    return element("ul", *(element("li", line) for line in said))
