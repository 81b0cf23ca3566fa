"""Provenance of the nuclei of a slide, in the metadata of ``nuclei.parquet`` and in
``nuclei.provenance.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from typing import Any

from muse_pipeline.core.config import parse_config
from muse_pipeline.core.errors import ConfigError, NucleiError
from muse_pipeline.core.types import Bounds, NucleusClass

Number = float | int
OK, FLAGGED, OTHER_STAIN, NOT_KNOWN = "ok", "flagged", "other stain", "not known"
DOUBTFUL = FLAGGED, OTHER_STAIN
DARK = "dark background: not bright-field"
STATED_IHC = "immunohistochemistry, as stated"
OF_CELLS = "its marker stains membranes or cytoplasm"
# of a slide that is stated to be immunohistochemistry
NO_BROWN, EOSIN = "few or no brown nuclei", "pink, as with eosin"


@dataclass(frozen=True)
class NamedFile:
    """Name and checksum of a model or file that the nuclei depend on."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Roi(NamedFile):
    """File with the region of interest, and the area of the region on the slide."""

    area_mm2: Number


@dataclass(frozen=True)
class Verdict:
    """Result of the check of a slide's appearance (see ``inference.doubts``)."""

    verdict: str  # "ok", "flagged", "other stain" or "not known"
    reasons: tuple[str, ...] = ()  # sentences that give the reasons; empty for "ok"

    @property
    def is_ihc(self) -> bool:
        """True for immunohistochemistry, stated or recognised by its colours."""
        return self.verdict == OTHER_STAIN and DARK not in self.reasons

    def sentences(self) -> list[str]:
        """Warnings for the ledger: the reasons if the verdict is "flagged" or an unstated "other
        stain".
        """
        if self.verdict in DOUBTFUL and STATED_IHC not in self.reasons:
            return list(self.reasons)
        return []


@dataclass(frozen=True)
class SizeRecord:
    """Size of the nuclei of a slide, and the warning that follows from it."""

    median_area_um2: Number | None  # median area; None if there are no nuclei
    # mean probability of the nuclei's classes; None if there are no nuclei or only one class
    mean_class_probability: Number | None
    doubt: str  # warning; "" if the size is plausible


@dataclass(frozen=True)
class ClassSizes:
    """Size of the nuclei by class, and the warning that follows from it ("" if there is none)."""

    by_class: dict[str, dict[str, Any]]
    doubt: str


@dataclass(frozen=True)
class FeatureRecord:
    """Set of features of the nuclei, with the image and the stains used to measure them."""

    set: str  # name of the set of features
    mpp: Number  # um per pixel of the image in which they were measured
    stains: dict[str, Any]  # source and vectors of the stains
    # number of nuclei that contain no pixel centre; None if they were not counted
    n_without_pixels: int | None = None
    # distance by which nuclei are expanded to cells; None if there are no cells
    expand_um: Number | None = None


@dataclass(frozen=True)
class Quality:
    """Artefacts in the tissue."""

    mpp: Number  # um per pixel at which focus was judged
    cell_um: Number  # side of the cells in the map of artefacts
    model_sha256: str  # checksum of the model that finds all kinds except blurred tissue
    # area of tissue, keyed by kind of artefact; empty if no artefacts were searched for, and
    # without "blurred" if focus was not judged
    area_mm2: dict[str, Number]
    asked: tuple[str, ...]  # kinds that the user asked to leave out of totals
    subtract: tuple[str, ...]  # kinds that totals leave out
    n_nuclei: int | None = None  # number of nuclei that totals leave out
    n_by_class: dict[str, int] | None = None  # number of these nuclei, keyed by class
    # number of nuclei in artefacts, keyed by kind, whether totals leave them out or not
    n_by_kind: dict[str, int] | None = None


@dataclass(frozen=True)
class RegionArea:
    """Area of the tissue regions of one class; ``is_inside`` is True if the class counts as inside
    the border.
    """

    name: str
    color: tuple[int, int, int]
    is_inside: bool
    area_mm2: Number


@dataclass(frozen=True)
class Band:
    """Areas within ``um`` of the border of the tissue regions, or of one ``region`` alone, on each
    side of it.
    """

    um: int
    inside_mm2: Number
    outside_mm2: Number
    region: str | None = None

    def name_side(self, side: str) -> str:
        """Name of the area on one side, "inside" or "outside", such as "border_inside_50um"."""
        of_region = "" if self.region is None else f"of_{self.region}_"
        return f"border_{of_region}{side}_{self.um}um"

    def side_mm2(self, side: str) -> Number:
        """Area on one side, "inside" or "outside"."""
        return self.inside_mm2 if side == "inside" else self.outside_mm2


@dataclass(frozen=True)
class Regions:
    """Tissue regions of a slide."""

    source: str  # "model", "nuclei" or "drawn"
    status: str  # "ok" or "failed"
    reason: str  # reason for a failure; "" if there was none
    # model that mapped the regions, or that found the nuclei from which they were mapped; None for
    # drawn regions and after a failure
    model: NamedFile | None = None
    file: NamedFile | None = None  # file with drawn regions; None for others
    classes: tuple[RegionArea, ...] | None = None  # area of each class; None after a failure
    bands: tuple[Band, ...] | None = None  # areas along the border; None after a failure
    border_mm: Number | None = None  # length of the border; None after a failure
    # number of nuclei of a class that does not occur in their region; None if not judged
    n_unlike_region: int | None = None
    # number of nuclei in regions whose class does not occur in every region; None if not judged
    n_judged: int | None = None

    @property
    def origin(self) -> NamedFile | None:
        """The file or the model from which the regions come; None after a failure."""
        return self.file or self.model


@dataclass(frozen=True)
class Provenance:
    """Origin of the nuclei or proposals of a slide: slide, model, settings, versions and doubts.

    Fields whose default is None are omitted from a file if they are None.
    """

    slide_id: str  # name of the slide in the sheet
    fingerprint: str  # a cheap checksum of the content of the slide's file
    slide_mpp: tuple[Number, Number]  # (x, y) size of a level-0 pixel in um
    mpp_source: str  # description of where ``slide_mpp`` comes from
    reader: str  # name of the reader that opened the slide
    bounds: Bounds | None  # non-empty rectangle declared by the scanner, or None
    model: NamedFile  # model that found the nuclei
    card: dict[str, Any]  # content of the model's card
    provider: str  # provider that ran the model
    colour: Any  # (3, 4) map that normalises colours for the model; None if the proposer uses none
    n_windows: int
    full_windows: tuple[int, ...]  # indices of windows with more nuclei than the model can return
    corrupt_fraction: Number  # fraction of the tissue that cannot be decoded
    versions: dict[str, Any]  # versions of packages, keyed by name
    tissue_sha256: str | None  # checksum of the tissue to which nuclei were restricted
    refiner_sha256: str | None = None  # checksum of the network that refined the outlines
    appearance: Verdict | None = None  # comparison of the slide with the model's training pictures
    # minimum optical density of a positive nucleus in immunohistochemistry
    positive_od: Number | None = None
    # minimum optical densities of nuclei that are 1+, 2+ and 3+ in immunohistochemistry
    intensities_od: tuple[Number, ...] | None = None
    # unit vector of a stain other than haematoxylin and DAB in immunohistochemistry
    third_stain: tuple[Number, ...] | None = None
    proposer: dict[str, Any] | None = None  # settings of the proposer that found the proposals
    # warnings of the guard that skips unsuitable windows for a proposer
    warnings: tuple[str, ...] | None = None
    # number of windows that the guard skipped, or whose output of the network is useless, keyed by
    # reason
    guarded_windows: dict[str, int] | None = None
    roi: Roi | None = None
    regions: Regions | None = None
    quality: Quality | None = None  # artefacts in the tissue
    # description of each cluster of nuclei with similar shapes
    morphology: tuple[dict[str, Any], ...] | None = None
    # features of the nuclei, and the image and stains with which they were measured
    features: FeatureRecord | None = None
    n_repaired_outlines: int | None = None  # number of outlines that were repaired
    nuclear_size: SizeRecord | None = None
    class_sizes: ClassSizes | None = None  # size of the nuclei by class
    n_nuclei: int | None = None  # number of nuclei in totals; None until the table is complete
    n_by_class: dict[str, int] | None = None  # number of these nuclei, keyed by class
    n_positive: int | None = None  # number of positive nuclei in immunohistochemistry

    @classmethod
    def from_dict(cls, values: Any) -> Provenance:
        """Inverse of ``to_dict``; unknown fields, as later versions may write, are ignored."""
        names = {field.name for field in fields(cls)}
        try:
            for entry in values["card"]["classes"]:
                parse_config(entry, NucleusClass, "card: classes")
            return parse_config(
                {name: values[name] for name in values if name in names}, cls, "provenance"
            )
        except (ConfigError, KeyError, TypeError) as error:
            raise NucleiError(
                f"not the provenance of nuclei: {error}; run the slide again"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary, without optional fields that are None."""
        return to_json(self)

    @cached_property
    def classes(self) -> tuple[NucleusClass, ...]:
        """Classes of the model, in the order of their labels."""
        return tuple(
            NucleusClass(entry["name"], tuple(entry["color"])) for entry in self.card["classes"]
        )

    @property
    def class_names(self) -> list[str]:
        """Names of the classes of the model, in the order of their labels."""
        return [kind.name for kind in self.classes]

    @property
    def model_mpp(self) -> float:
        """Pixel size in um at which the model runs."""
        return self.card["mpp"]

    @property
    def window_px(self) -> tuple[int, int]:
        """Side of the model's windows and width of their halo, in pixels at ``model_mpp``."""
        return self.card["input_px"], self.card["halo_px"]

    @property
    def threshold(self) -> float | None:
        """Minimum score of a nucleus; None if the card does not state it."""
        return self.card.get("threshold")

    @property
    def organs(self) -> dict[str, list[str]]:
        """Organs in which each class of the model was measured."""
        return organs_of(self.card)

    @property
    def run_name(self) -> str:
        """String that identifies the slide and the model in the ids of the nuclei."""
        return run_name(self.slide_id, self.model.sha256)

    @property
    def verdict(self) -> Verdict:
        """Result of the comparison with the model's training pictures; "not known" if there was
        none.
        """
        return self.appearance or Verdict(NOT_KNOWN)

    @property
    def size_doubt(self) -> str:
        """Warning that follows from the size of the nuclei; "" if there is none."""
        return self.nuclear_size.doubt if self.nuclear_size else ""

    @property
    def class_doubt(self) -> str:
        """Warning that follows from the size of the nuclei by class; "" if there is none."""
        return self.class_sizes.doubt if self.class_sizes else ""

    @property
    def n_left_out(self) -> int:
        """Number of nuclei that totals leave out, and ``n_nuclei`` therefore does not include."""
        return self.quality.n_nuclei or 0 if self.quality else 0

    @property
    def left_out_mm2(self) -> float:
        """Area of tissue in mm2 that totals leave out."""
        if self.quality:
            return sum(self.quality.area_mm2.get(kind, 0.0) for kind in self.quality.subtract)
        return 0


def organs_of(card: Mapping[str, Any]) -> dict[str, list[str]]:
    """Organs in which each class of a card was measured; a card may also list the organs of all its
    classes.
    """
    organs = card.get("organs") or {}
    if isinstance(organs, dict):
        return organs
    return {entry["name"]: organs for entry in card["classes"]}


def run_name(slide_id: str, sha256: str) -> str:
    """String that identifies a slide and the model with this checksum."""
    return f"{slide_id}|{sha256}"


def to_json(value: Any) -> Any:
    """Convert dataclasses to dictionaries and tuples to lists; fields whose value and default are
    None are omitted. Dictionaries and lists are copied, as callers may change the result.
    """
    if is_dataclass(value):
        parts = [(field, getattr(value, field.name)) for field in fields(value)]
        return {
            field.name: to_json(part)
            for field, part in parts
            if part is not None or field.default is not None
        }
    if isinstance(value, dict):
        return {name: to_json(part) for name, part in value.items()}
    return list(map(to_json, value)) if isinstance(value, list | tuple) else value
