"""Planning of runs that train without labels on the slides of a cohort, some of which are held
out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from muse_pipeline.cohort.layout import SlideFiles, store_name
from muse_pipeline.cohort.patients import patient_in_name
from muse_pipeline.cohort.sheet import SheetRow
from muse_pipeline.core.config import read_settings
from muse_pipeline.core.errors import ConfigError, LabelError
from muse_pipeline.data.nucleus_images import NucleusSource
from muse_pipeline.data.unlabelled import picture_files
from muse_pipeline.inference.model import find_checkpoint
from muse_pipeline.methods.detector.run import load_detector_config
from muse_pipeline.methods.muse.data import require_apart
from muse_pipeline.training.recipe import RECIPES, Recipe, load_run
from muse_pipeline.training.run import Inputs, plain_settings

HELD_SPLITS = ("test",)
# path of store and proposals until ``plan_cohort_run`` inserts the slides
PLACEHOLDER = "a slide's"


class SlidesConfig(Protocol):
    """Settings of a method that trains on the slides of a cohort, such as ``MuseConfig``."""

    slide_files: tuple[str, ...]  # settings of a source that name a slide's files
    name: str
    backbone: str
    sources: tuple[Any, ...]
    checkpoint: Path | None
    store_mpp: float  # um per pixel of the stores that are read

    def pair(self, source: NucleusSource, partner: Path | None) -> Any:
        """The source for a slide and the store of its partner."""


@dataclass(frozen=True)
class Cohort:
    """Slides of a cohort, and the rules that hold out some of them."""

    rows: Sequence[SheetRow]  # rows of the sheet
    # folder with one folder per slide for stores and proposals, which may not exist yet
    results: Path
    # strings; slides whose id contains one of them are neither trained on nor held out
    exclude: tuple[str, ...] = ()
    # values of the sheet's column `split` whose slides are held out for the evaluation of the
    # backbone. No patient may have both held-out and training slides. None stands for the splits in
    # ``HELD_SPLITS``, in upper or lower case
    held_splits: tuple[str, ...] | None = None


@dataclass(frozen=True)
class CohortRun:
    """A run that can start as soon as its slides have stores and proposals."""

    config: SlidesConfig  # settings of the run; all its paths are absolute
    slides: list[str]  # ids of the training slides
    partners: list[str]  # ids of the training slides with a partner
    held: list[str]  # ids of the held-out slides

    def facts(self) -> dict[str, Any]:
        """Name, um per pixel, slides and inputs of the run, for the workflow."""
        config = self.config
        return {
            "name": config.name,
            "backbone": config.backbone,
            "mpp": config.store_mpp,
            "checkpoint": str(find_checkpoint(config.checkpoint)) if config.checkpoint else None,
            "slides": self.slides,
            "partners": self.partners,
            "held": self.held,
            "inputs": [str(file) for file in files_of_pretraining(config)],
        }


def plan_cohort_run(
    path: Path,
    cohort: Cohort,
    data: Path | None,
    judged_by: Iterable[Sequence[Path]],
    changes: Iterable[str],
) -> CohortRun:
    """Plan the run of a config, with the slides of a cohort as additional sources.

    Args:
        path: a config for MUSE, TriDeNT or UNITPathSSL, which need not have any `sources`.
        cohort: the slides.
        data: folder to which paths of the config's sources are relative; the config's folder by
            default.
        judged_by: detector configs on whose validation sources the backbone will be evaluated, each
            optionally followed by the folder to which its paths are relative.
        changes: ``key=value`` changes of settings, as in ``core.config.read_settings``.
    """
    rows, held = _choose_rows(cohort)
    recipe, config = _load_for_slides(path, data, list(changes))
    slides = tuple(_source(row, cohort.results.resolve() / row.slide_id, config) for row in rows)
    judged = [source for judge in judged_by for source in load_detector_config(*judge).validation]
    # The slides replace the placeholder, which is the last source.
    config = dataclasses.replace(config, sources=(*config.sources[:-1], *slides))
    if hasattr(config, "held"):
        judged = [*config.held, *judged]
        config = dataclasses.replace(config, held=tuple(judged))
    recipe.stages(config, cohort.results)[-1].check()
    require_apart([_patient(row) for row in rows], judged)
    paired = [
        row.slide_id
        for row, source in zip(rows, slides, strict=True)
        if getattr(source, "partner", None)
    ]
    return CohortRun(config, [row.slide_id for row in rows], paired, [row.slide_id for row in held])


def _load_for_slides(
    path: Path, data: Path | None, changes: list[str]
) -> tuple[Recipe, SlidesConfig]:
    """Read the recipe of a config and its settings, with a placeholder for the slides as the last
    source.
    """
    settings = read_settings(path, changes)
    method = str(settings.get("method", "muse"))
    names = getattr(RECIPES[method].Config, "slide_files", None)
    if names is None:
        raise ConfigError(
            f"{path}: method '{method}' does not pretrain on slides; give a config for muse,"
            " trident or unit"
        )
    sources = [*(settings.get("sources") or []), dict.fromkeys(names, PLACEHOLDER)]
    return load_run(path, data, [*changes, f"sources={json.dumps(sources)}"], default="muse")


def files_of_pretraining(config: SlidesConfig) -> list[Path]:
    """The initial checkpoint of a run, and the files of its sources other than slides."""
    inputs = Inputs.of(config)
    inputs.require_checkpoints()
    for source in config.sources:
        if source.images is not None:
            picture_files(source.images)
    sources = [source for source in inputs.sources if getattr(source, "store", None) is None]
    return dataclasses.replace(inputs, sources=tuple(sources)).files()


def settings_of(config: SlidesConfig) -> dict[str, Any]:
    """The settings of a run for a YAML file, without the default settings of its sources, which may
    be thousands.
    """
    names = [name for name in ("sources", "held") if hasattr(config, name)]
    named = {name: [_stated(source) for source in getattr(config, name)] for name in names}
    few = {name: getattr(config, name)[:1] for name in names}
    return {**plain_settings(dataclasses.replace(config, **few)), **named}


def _choose_rows(cohort: Cohort) -> tuple[list[SheetRow], list[SheetRow]]:
    """The rows for training and the held-out rows."""
    splits = sorted({row.split for row in cohort.rows if row.split})
    for split in cohort.held_splits or ():
        if split not in splits:
            raise ConfigError(
                f"no slide has the split '{split}'; known: {', '.join(splits) or 'none'}"
            )
    for word in cohort.exclude:
        if not any(word in row.slide_id for row in cohort.rows):
            raise ConfigError(f"exclude: no slide_id contains '{word}'; correct or delete it")
    by_default = {split for split in splits if split.casefold() in HELD_SPLITS}
    held_splits = by_default if cohort.held_splits is None else cohort.held_splits
    rows = [row for row in cohort.rows if not any(word in row.slide_id for word in cohort.exclude)]
    chosen = [row for row in rows if row.split not in held_splits]
    if not chosen:
        raise ConfigError(
            "no slide of the sheet is left for training; check `exclude` and the held-out splits"
        )
    held = [row for row in rows if row.split in held_splits]
    learnt = {_patient(row): row for row in chosen}
    for row in held:
        if (other := learnt.get(_patient(row))) is not None:
            raise LabelError(
                f"{_patient(row)}: slide '{row.slide_id}' is held out as '{row.split}', but"
                f" '{other.slide_id}' of the same patient would be in training; give both slides"
                " the same split, or exclude the latter"
            )
    return chosen, held


def _patient(row: SheetRow) -> str:
    return row.patient or patient_in_name(row.slide_id)


def _source(row: SheetRow, folder: Path, config: SlidesConfig) -> Any:
    store = store_name(config.store_mpp)
    source = NucleusSource(
        store=folder / store, proposals=SlideFiles(folder).proposals, patient_name=row.patient
    )
    return config.pair(source, SlideFiles(folder).partner / store if row.partner else None)


def _stated(settings: Any) -> dict[str, Any]:
    """The settings that differ from the defaults of their dataclass."""
    plain = plain_settings(settings)
    return {
        field.name: plain[field.name]
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) != field.default
    }
