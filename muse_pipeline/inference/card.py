"""The model card: a description of a model, stored in the metadata of its ONNX file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from muse_pipeline.core.config import Count, Fraction, Positive, parse_config
from muse_pipeline.core.errors import ConfigError, ModelError
from muse_pipeline.core.provenance import organs_of
from muse_pipeline.core.types import ENCODER, NucleusClass

METADATA_KEY = "muse_card"
# Names in the graphs: outputs of every detector, and an optional one; the output of region models;
# the map that the head of a detector reads, or that of an embedding model; and the input, RGB in
# uint8 or its negative optical density in float32.
OUTPUTS, EMBEDDING = ("xy", "score", "prob", "rays"), "embedding"
MAP, DENSE = "map", "dense"
PIXELS, DENSITY = "pixels", "density"
# training data of `refine`
REFINER_DATA = "outlines of TNBC (CC-BY-4.0), NuCLS and DSB-2018 (CC0-1.0)"
WINDOW_TEXT = "{input_px:,} px, of which {halo_px} px on every side belong to neighbouring windows"
MAX_SNAP_UM = 5.0


@dataclass(frozen=True)
class ColourReference:
    """Reference to which a slide's colours are normalised (see ``inference.stains``).

    Attributes:
        method: "identity" or "macenko".
        stains: reference unit vectors in optical density for "macenko", haematoxylin first.
        strong: 99th percentile of each stain's concentration in the reference, for "macenko".
        share: normalisation strength: 0 leaves a slide's colours unchanged, 1 matches the
            reference.
    """

    method: str = "identity"
    stains: tuple[tuple[float, float, float], ...] = ()
    strong: tuple[float, ...] = ()
    share: Fraction = 1.0

    def __post_init__(self) -> None:
        if self.method == "macenko" and (len(self.stains), len(self.strong)) != (2, 2):
            raise ConfigError(
                "colour: method 'macenko' needs two `stains` and two values of `strong`, not"
                f" {len(self.stains)} and {len(self.strong)}"
            )


@dataclass(frozen=True)
class AppearanceReference:
    """Appearance of the pictures that a model was trained on (see ``inference.doubts``).

    Attributes:
        n_pictures: number of pictures that were measured.
        ranges: name of each measure of ``tissue.colour`` -> its 1st, 50th and 99th percentile over
            the pictures.
    """

    n_pictures: int
    ranges: dict[str, tuple[float, float, float]]


@dataclass(frozen=True)
class ClassReference:
    """Measures of the nuclei of one class on the slides that a model was trained on (see
    ``inference.doubts``).

    Attributes:
        n_slides: number of slides with enough nuclei of the class.
        median_area_um2: minimum, median and maximum, over these slides, of the median area.
        mean_class_probability: minimum, median and maximum, over these slides, of the mean
            probability; None for a class of several kinds of cells, whose size proves nothing about
            the class.
    """

    n_slides: int
    median_area_um2: tuple[float, float, float]
    mean_class_probability: tuple[float, float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """Contract between a model file and the code that runs it; base class of the cards of all kinds
    of models.

    Attributes:
        name: name of the model.
        mpp: um per pixel of its input.
        input_px: side of the square window.
        halo_px: width of a window's border, whose nuclei or regions are left to neighbouring
            windows.
        stride_px: total stride of the network; windows start at multiples of it.
        batch: number of windows per call of the graph.
        licence: SPDX name of the weights' licence.
        training_data: data that the weights were trained on, with licences.
        colour: reference for the graph's input ``colour``.
        precision: type of weights and activations inside the graph, "fp32", "fp16" or "int8".
        source: checkpoint's checksum, command and package versions; for int8 also the calibration
            windows' checksum.
        does: predicate of a sentence about models of this kind, such as "finds nuclei".
        verb: command that runs a model of this kind.
    """

    name: str
    mpp: Positive
    input_px: Count
    halo_px: int
    stride_px: Count
    batch: Count
    licence: str
    training_data: str
    colour: ColourReference = field(default_factory=ColourReference)
    precision: str = "fp32"
    source: dict[str, str] = field(default_factory=dict)

    does: ClassVar[str]
    verb: ClassVar[str]

    def to_json(self) -> str:
        """The card as JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """Read a card; ``where`` names the file in errors."""
        card = read_any_card(text, where)
        if not isinstance(card, cls):
            raise ModelError(
                f"{where}: {card.does}, for `{card.verb}`; give a model that {cls.does}"
            )
        return card


def replace_outlines(given: dict[str, Any]) -> dict[str, Any]:
    """Complete settings of outlines, so that ``refine`` also resets an inherited ``snap_um`` and
    vice versa.
    """
    if given.get("refine"):
        return {"snap_um": 0.0, **given}
    return {"refine": False, **given} if "snap_um" in given else given


@dataclass(frozen=True, kw_only=True)
class ModelCard(Card):
    """Contract of a model that finds nuclei.

    Attributes:
        capacity: largest number of nuclei per window (K).
        classes: class index -> name and colour.
        threshold: score below which the graph leaves a slot empty.
        n_rays: rays per outline.
        readout: rule by which positions are read from the dense map (``models.base``), "x/4-0.5"
            for our own networks.
        appearance: appearance of the training pictures; None if not measured.
        temperature: divisor of the logits of the class probabilities, applied after the graph; 1
            leaves them unchanged.
        snap_um: largest distance by which outlines move to the clearest edge of the stained nucleus
            (``outlines.snap_to_edges``); 0 leaves them unchanged.
        refine: True if the built-in network refines outlines (``inference.outlines``), in place of
            ``snap_um``.
        embedding_dim: length D of the vectors in the graph's output ``embedding``; 0 if it has no
            such output.
        metrics: measured figures by name; each name states the data split.
        limits: limits of the model's use, in words.
        organs: class -> organs in which its accuracy was measured.
        nuclei: measures of the training nuclei of each class; empty if they were not measured.
        unlike: class -> tissues in lower case in which its nuclei do not occur.
    """

    capacity: Count
    classes: tuple[NucleusClass, ...]
    threshold: float
    n_rays: Count
    readout: str
    appearance: AppearanceReference | None = None
    temperature: Positive = 1.0
    snap_um: float = 0.0
    refine: bool = False
    embedding_dim: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    limits: str = ""
    organs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    nuclei: dict[str, ClassReference] = field(default_factory=dict)
    unlike: dict[str, tuple[str, ...]] = field(default_factory=dict)

    does = "finds nuclei"
    verb = "muse step detect"
    is_imported = False  # maps and probabilities of imported networks have a different meaning

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError(f"card of '{self.name}': has no classes")
        if not 0 <= self.snap_um <= MAX_SNAP_UM:
            raise ConfigError(
                f"card of '{self.name}': snap_um is {self.snap_um:g}; give a number from 0 to"
                f" {MAX_SNAP_UM:g}"
            )
        core_px = self.input_px - 2 * self.halo_px
        if core_px <= 0 or core_px % self.stride_px or self.halo_px % self.stride_px:
            raise ConfigError(
                f"card of '{self.name}': window {self.input_px} px with halo {self.halo_px} px does"
                f" not suit a stride of {self.stride_px} px; core and halo must be multiples of the"
                " stride"
            )


@dataclass(frozen=True, kw_only=True)
class ImportedCard(ModelCard):
    """Contract of a third-party network that finds nuclei (see ``inference.maps``).

    Attributes:
        kind: content of its maps, a key of ``inference.families.FAMILIES``.
        maps: names of the graph's outputs that contain the maps.
        scaling: scaling of the pixels, a key of ``inference.maps.SCALINGS``.
        dtype: data type of the input, as NumPy names it.
        channels_first: True if the input is (B, 3, H, W), False if it is (B, H, W, 3).
        logits: True if the maps contain logits instead of probabilities.
        margin_px: width of the border of a window that the maps do not cover.
        classifier: weights and biases, layer by layer, of the small network of a network of kind
            "instanseg".
    """

    kind: str
    maps: tuple[str, ...]
    scaling: str
    dtype: str = "float32"
    channels_first: bool = True
    logits: bool = False
    margin_px: int = 0
    classifier: tuple[tuple[float, ...], ...] = ()

    is_imported = True


REGIONS = "regions"
MIN_AREA_MM2 = 0.01  # a disc with a diameter of 113 um
# Metrics of region models: of their maps, and of the class that is best if everything is painted in
# it.
DICE, DICE_OF_PAINTING = (
    "validation Dice of pixels, by masks",
    "validation Dice of painting everything",
)


@dataclass(frozen=True, kw_only=True)
class RegionCard(Card):
    """Contract of a model that maps tissue regions.

    Attributes:
        cell_px: input pixels per cell of the map.
        classes: name and colour of each channel of the map; the first is tissue that belongs to
            none of the others.
        metrics: measured figures by name; each name states the data split.
        limits: limits of the model's use, in words.
        min_area_mm2: minimum area of regions and holes; smaller ones are merged into the class
            around them.
        kind: always "regions"; the card of a detector has no kind.
    """

    cell_px: int
    classes: tuple[NucleusClass, ...]
    metrics: dict[str, float] = field(default_factory=dict)
    limits: str = ""
    min_area_mm2: float = MIN_AREA_MM2
    kind: str = REGIONS

    does = "maps regions"
    verb = "muse regions"

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len({one.name for one in self.classes}) < len(self.classes):
            raise ConfigError(
                f"card of '{self.name}': give two or more classes with different names"
            )
        core_px = self.input_px - 2 * self.halo_px
        step_px = max(self.stride_px, self.cell_px)
        if core_px <= 0 or core_px % step_px or self.halo_px % step_px or step_px % self.cell_px:
            raise ConfigError(
                f"card of '{self.name}': core and halo of a window must be multiples of {step_px}"
                f" px; found a window of {self.input_px} px with a halo of {self.halo_px} px"
            )


def painting_warnings(name: str, metrics: Mapping[str, float]) -> list[str]:
    """A warning if a region model is not better than painting everything in one class; empty if it
    is, or may be.
    """
    own = next((value for metric, value in metrics.items() if metric.startswith(DICE)), None)
    painting = metrics.get(DICE_OF_PAINTING)
    if own is None or painting is None or own > painting:
        return []
    return [
        f"region model '{name}' is not better than painting everything in one class (Dice {own:.3f}"
        f" and {painting:.3f} on its validation images); do not use its regions"
    ]


EMBEDDER = "embedder"


@dataclass(frozen=True, kw_only=True)
class EmbedderCard(Card):
    """Contract of a model that computes a vector of features for every nucleus.

    Attributes:
        readout: rule by which positions are read from the dense map (``models.base``).
        embedding_dim: number of channels of the dense map.
        kind: always "embedder".
    """

    readout: str
    embedding_dim: int
    kind: str = EMBEDDER

    does = "computes features of nuclei"
    verb = "muse embed"


@dataclass(frozen=True, kw_only=True)
class EncoderCard(EmbedderCard):
    """Contract of a third-party network that computes one vector for a tile (see
    ``inference.encoder``).

    ``input_px`` and ``halo_px`` are those of the windows that tiles are cut from.

    Attributes:
        tile_px: side of a tile, which has the nucleus in its middle.
        output: name of the graph's output that contains the vector.
        scaling, dtype, channels_first: as in ``ImportedCard``.
    """

    tile_px: Count
    output: str
    scaling: str
    dtype: str
    channels_first: bool
    readout: str = "tile"
    kind: str = ENCODER


# Cards of any other kind are those of third-party networks.
KINDS = {None: ModelCard, REGIONS: RegionCard, EMBEDDER: EmbedderCard, ENCODER: EncoderCard}


def read_any_card(text: str, where: str) -> Card:
    """The card of a model of any kind."""
    try:
        values = json.loads(text)
        kind = values.get("kind") if isinstance(values, dict) else None
        if isinstance(values, dict) and isinstance(values.get("organs"), list):
            values["organs"] = organs_of(values)
        return parse_config(values, KINDS.get(kind, ImportedCard), where)
    except (json.JSONDecodeError, ConfigError, KeyError, TypeError) as error:
        raise ModelError(
            f"{where}: the model card is not usable ({error}); export the model again"
        ) from error


def card_facts(card: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """The facts in a model's card by name, each as a text or a list of lines; missing ones are left
    out.
    """
    if card.get("refine"):
        outlines = f"refined by a second network, trained on {REFINER_DATA}"
    else:
        outlines = (
            f"moved by up to {card['snap_um']:g} µm to the nearest edge"
            if card.get("snap_um")
            else None
        )
    facts = {
        "Classes": [kind["name"] for kind in card.get("classes", [])],
        "Measured in": [
            f"{name}: {', '.join(organs)}" for name, organs in organs_of(card).items() if organs
        ],
        "Works at": f"{card['mpp']:g} µm per pixel",
        "Window": WINDOW_TEXT.format(**card) if "input_px" in card else None,
        "Imported": (
            f"{card['kind']}; scaling of pixels: {card['scaling']}" if "scaling" in card else None
        ),
        "Precision": card.get("precision"),
        "Threshold": _number_text(card.get("threshold")),
        "Stain normalisation": _colour_text(card.get("colour") or {}),
        "Outlines": outlines,
        "Training data": card.get("training_data"),
        "Measured": [
            f"{name}: {_number_text(value)}"
            for name, value in sorted((card.get("metrics") or {}).items())
        ],
        "Limits": card.get("limits"),
        "Licence": card.get("licence"),
        "Made from": [
            f"{name.replace('_', ' ')}: {text}"
            for name, text in sorted((card.get("source") or {}).items())
        ],
    }
    return {term: content for term, content in facts.items() if content}


def _colour_text(colour: Mapping[str, Any]) -> str | None:
    share = colour.get("share", 1.0)
    partly = "" if share == 1.0 or colour.get("method") == "identity" else f", strength {share:.0%}"
    return f"{colour['method']}{partly}" if "method" in colour else None


def _number_text(value: Any) -> str | None:
    if isinstance(value, int | float):
        return f"{value:.4g}"
    if value is None:
        return None
    return str(value)
