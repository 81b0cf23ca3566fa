"""Corrections made in the viewer: every region names the slide and the result that it was drawn on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.core.errors import GeoJSONError, LabelError
from muse_pipeline.core.types import SlideInfo
from muse_pipeline.nuclei.parquet import footer_checksum
from muse_pipeline.qupath.objects import properties_of
from muse_pipeline.qupath.parse import iterate_features

SLIDE, NUCLEI = "muse slide", "muse nuclei"  # in the metadata of a region, as page/teach.js writes it


@dataclass(frozen=True)
class CorrectedResult:
    """The slides and results on which the corrections of a file were made.

    Attributes:
        fingerprints: checksums of the slides.
        checksums: checksums of the tables of nuclei (``footer_checksum``).
    """

    fingerprints: frozenset[str]
    checksums: frozenset[str]


def read_corrected_result(path: Path) -> CorrectedResult | None:
    """The slides and results on which the regions of a GeoJSON file were drawn; None for a file not from the viewer.

    Raises:
        LabelError: the file cannot be read.
    """
    try:
        metadata = [properties_of(each).get("metadata") for each in iterate_features(path) if isinstance(each, dict)]
    except GeoJSONError as error:
        raise LabelError(str(error)) from error
    found = [each for each in metadata if isinstance(each, dict) and SLIDE in each and NUCLEI in each]
    if not found:
        return None
    return CorrectedResult(
        frozenset(str(each[SLIDE]) for each in found), frozenset(str(each[NUCLEI]) for each in found)
    )


def require_current(path: Path, corrected: CorrectedResult, info: SlideInfo, results: Path | None) -> None:
    """Require that corrections belong to a slide, and to its nuclei in the folder ``results`` if given.

    Raises:
        LabelError: they were made on another slide, or on nuclei that were replaced since.
    """
    if corrected.fingerprints != {info.fingerprint}:
        raise LabelError(
            f"{path}: comes from the viewer of another slide than '{info.slide_id}'; name it by its own slide_id"
        )
    if results is None:
        return
    nuclei = SlideFiles(results / info.slide_id).nuclei
    if not nuclei.is_file():
        raise LabelError(f"{nuclei}: no such file; `results` must be the output folder of the run that was corrected")
    if corrected.checksums != {footer_checksum(nuclei)}:
        raise LabelError(
            f"{path}: corrects an older result of slide '{info.slide_id}' than {nuclei}; correct the new one, or leave "
            "`results` out to train on the older corrections all the same"
        )
