"""Differences between the settings of a run and those of the finished results in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from muse_pipeline import __version__
from muse_pipeline.cohort.layout import SlideFiles
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.files import read_json, sha256_of
from muse_pipeline.core.provenance import NamedFile, Provenance
from muse_pipeline.core.text import some_of
from muse_pipeline.slides.mpp import GIVEN
from muse_pipeline.slides.remote import is_url
from muse_pipeline.slides.signature import fingerprint_file

# Of settings whose values mean little to a reader.
PHRASES = {
    "slide": "slide files at another location",
    "slide files": "changed slide files",
    **{name: f"other settings of {name}" for name in ("training", "pretraining", "proposals")},
}


@dataclass(frozen=True)
class RunSettings:
    """Settings that the results of every slide of a run depend on, besides the slide's row of the sheet.

    Attributes:
        model: name of the model.
        model_sha256: checksum of the model's file; None if it is still to be trained.
        provider: provider that runs the model.
        frame: pixel frame of the GeoJSON.
        features: set of features of the nuclei.
        quality: the artefacts that totals leave out; None if no artefacts are searched for.
        regions: the model of tissue regions, as from ``name_version``, or "none"; None if it is not compared.
    """

    model: str
    model_sha256: str | None
    provider: str
    frame: str = "qupath"
    features: str = "basic"
    quality: tuple[str, ...] | None = None
    regions: str | None = "none"


def find_changes(folder: Path, row: SheetRow, run: RunSettings) -> list[str] | None:
    """Phrases for a run's changes to a slide's finished results, such as "roi none -> a.geojson (0f3c2b1a)".

    The slide's file is read only if nothing else differs; one at a URL is considered unchanged.

    Args:
        folder: results of the slide.
        row: the slide.
        run: the other settings of the run.

    Returns:
        No phrase if the results were made with the same settings from the same file; None if there are no results.
    """
    try:
        made = read_json(SlideFiles(folder).sidecar)
        provenance = Provenance.from_dict(made["provenance"])
        changes = [
            f"{name} {before} -> {now}"
            for name, (before, now) in _compare(provenance, made["frame"], row, run).items()
            if before != now
        ]
        if not _same_location(made["slide_path"], row.path):
            changes.append("slide files at another location")
        if not changes and not is_url(row.path) and fingerprint_file(row.path) != provenance.fingerprint:
            changes.append("changed slide files")
    except (OSError, ValueError, KeyError, TypeError):  # unfinished, or of another version
        return None
    return changes


def describe_changes(changes: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines that name each change and its slides, for slides whose results are replaced; none if there are none.

    Args:
        changes: changes of every slide whose results are replaced, by slide_id.
    """
    slides_of: dict[str, list[str]] = {}
    for slide_id, found in changes.items():
        for change in found:
            slides_of.setdefault(change, []).append(slide_id)
    if not slides_of:
        return []
    return [
        f"This run replaces the finished results of {_count(len(changes))}:",
        *(f"  {change}: {_count(len(names))} ({some_of(names)})" for change, names in slides_of.items()),
        "To keep them, stop the run and give another output folder.",
    ]


def _compare(provenance: Provenance, frame: str, row: SheetRow, run: RunSettings) -> dict[str, tuple[str, str]]:
    """Every setting before and now, as texts that are equal if the setting is the same."""
    model, roi, regions, quality = provenance.model, provenance.roi, provenance.regions, provenance.quality
    regions_before = _version(regions.origin, regions.status) if regions else "none"
    is_drawn = regions is not None and regions.file is not None
    regions_now = regions_before if run.regions is None and not is_drawn else run.regions or "none"
    if row.regions:
        regions_now = version_of_file(row.regions)
    given_mpp = provenance.slide_mpp[0] if provenance.mpp_source == GIVEN else None
    model_before, model_now = name_version(model.name, model.sha256), name_version(run.model, run.model_sha256)
    if run.model_sha256 is None and model.name == run.model:
        model_now = model_before
    return {
        "model": (model_before, model_now),
        "mpp": (_mpp_text(given_mpp), _mpp_text(row.mpp)),
        "roi": (_version(roi, "none"), version_of_file(row.roi)),
        "regions": (regions_before, regions_now),
        "provider": (provenance.provider, run.provider),
        "frame": (frame, run.frame),
        "features": (provenance.features.set if provenance.features else "none", run.features),
        "quality": (_quality_text(quality.asked if quality else None), _quality_text(run.quality)),
        "muse-pipeline": (provenance.versions["muse-pipeline"], __version__),
    }


def read_changes(record: Path, now: Mapping[str, Any]) -> list[str] | None:
    """Phrases for the changes that a run makes to the results of one job; None if their settings are unknown.

    Args:
        record: path of the JSON file with the settings that the job was run with.
        now: settings of the job in this run.
    """
    try:
        before = read_json(record)
    except (OSError, ValueError):  # the job was killed, or results are another program's
        return None
    changed = [name for name, value in now.items() if before.get(name) != value]
    return [PHRASES.get(name) or f"{name} {_word(before.get(name))} -> {_word(now[name])}" for name in changed]


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def version_of_file(path: str | None) -> str:
    """The name of a file with the beginning of its checksum; "none" without a file."""
    if not path or not Path(path).is_file():
        return Path(path).name if path else "none"
    return name_version(Path(path).name, _checksum(path, Path(path).stat().st_mtime_ns))


@cache
def _checksum(path: str, time_ns: int) -> str:
    """SHA-256 of a file, cached by the time at which it was written."""
    return sha256_of(path)


def name_version(name: str, sha256: str | None) -> str:
    """The name of a model or a file with the beginning of its checksum."""
    return f"{name} ({sha256[:8]})" if sha256 else f"{name} (still to be trained)"


def _version(file: NamedFile | None, otherwise: str) -> str:
    return name_version(file.name, file.sha256) if file else otherwise


def _quality_text(subtract: Sequence[str] | None) -> str:
    """The setting ``quality`` as text, in the form of the config."""
    return "false" if subtract is None else f"{{subtract: [{', '.join(subtract)}]}}"


def _mpp_text(given: float | None) -> str:
    return "of the file" if given is None else f"{given:g}"


def _same_location(before: str, now: str) -> bool:
    return before == now if is_url(now) else Path(before).resolve() == Path(now).resolve()


def _count(n: int) -> str:
    return f"{n} slide{'' if n == 1 else 's'}"
