"""Adapt a detector to slides without labels, by MUSE and distillation from a copy of the detector.

    muse adapt SLIDES -o RUN       slides, images, folders of slides and sheets, as for `muse run`
    muse adapt RESULTS -o RUN      the folder that `muse run` wrote
    muse adapt CONFIG -o RUN       a config with `method: adapt`, such as config/train/adapt.yaml

First finds the nuclei of the slides, with results in RUN/slides. Slides of the split "test" are held back, and slides
with a different stain are left out. Writes the detector into RUN, as checkpoint.pt and adapted.onnx. The same command
continues a run that was stopped. See docs/guide/pretraining.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from muse_pipeline.cli import train
from muse_pipeline.cli.arguments import path_or_url


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``muse adapt``."""
    parser.add_argument("slides", type=path_or_url, nargs="+", metavar="SLIDES|RESULTS|CONFIG")
    train.add_run_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Find the nuclei of the slides and write a config, unless a config is given; then train."""
    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.training.devices import find_launcher, is_first_process

    args.config = args.slides[0]
    threads = ["--threads", str(args.threads)] if args.threads else []
    if len(args.slides) == 1 and Path(args.config).suffix in {".yaml", ".yml"}:
        return train.run(args)
    if launcher := find_launcher()[0]:
        raise ConfigError(
            f"{launcher} starts several processes, but only a single process can find the nuclei of slides; run "
            f"without it, or give the config that `muse adapt` writes ({args.output / 'slides.yaml'})"
        )
    args.config = args.output / "slides.yaml"
    if is_first_process():  # the processes of other devices start once the files exist
        changes = [_from_here(change) for change in args.set]
        _write_config(args.slides, args.config, changes, threads)
    # The written config already contains the changes.
    args.set = []
    train.run(args)


def _from_here(change: str) -> str:
    """Return a change for ``--set``, with an absolute path if it sets ``checkpoint`` to a file.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    from muse_pipeline.core.errors import CheckpointError
    from muse_pipeline.inference.model import find_checkpoint, list_checkpoints

    name, _, value = change.partition("=")
    if name != "checkpoint" or value in list_checkpoints():
        return change
    if not (path := find_checkpoint(Path(value)).resolve()).is_file():
        raise CheckpointError(f"{value}: there is no such checkpoint; correct `--set checkpoint`")
    return f"{name}={path}"


def _write_config(slides: list[Path | str], config: Path, changes: list[str], threads: Sequence[str] = ()) -> None:
    """Find the nuclei of slides, unless ``slides`` is the results folder of a run, and write the training config."""
    import sys
    from dataclasses import replace

    from muse_pipeline.cli.main import run_verb
    from muse_pipeline.cli.pretrain_config import write_settings
    from muse_pipeline.cohort.collect import find_rows
    from muse_pipeline.cohort.layout import CohortFiles, SlideFiles
    from muse_pipeline.cohort.sheet import SheetRow
    from muse_pipeline.cohort.study import find_workflow
    from muse_pipeline.core.errors import SlideError
    from muse_pipeline.core.provenance import OTHER_STAIN
    from muse_pipeline.methods.muse.cohort import Cohort, load_for_slides, plan_cohort_run, settings_of
    from muse_pipeline.nuclei.parquet import read_provenance
    from muse_pipeline.report.cohort import read_rows

    recipe = find_workflow() / "config/train/adapt.yaml"
    load_for_slides(recipe, None, changes)  # rejects wrong settings before nuclei are found, which may take hours
    results = CohortFiles(Path(slides[0]))
    if len(slides) == 1 and results.sheet.is_file():
        known = [SheetRow.from_dict(row) for row in read_rows(results.sheet)]
    else:
        results = CohortFiles(config.parent / "slides")
        try:
            words = ["--output", str(results.folder), "--features", "none", "--no-viewer", *threads]
            run_verb(["run", *map(str, slides), *words])
        except SlideError as error:
            if not results.tables():
                raise
            print(error, file=sys.stderr)
        known = find_rows(slides)
    verdicts = {name: read_provenance(path).verdict.verdict for name, path in results.tables().items()}
    rows = [row for row in known if verdicts.get(row.slide_id, OTHER_STAIN) != OTHER_STAIN]
    if len(rows) < len(known):
        print(f"left out, as they have no nuclei or a different stain: {len(known) - len(rows)} of {len(known)} slides")
    planned = plan_cohort_run(recipe, Cohort(rows, results.folder), changes=changes)
    sources = tuple(replace(one, proposals=SlideFiles(one.store.parent).nuclei) for one in planned.config.sources)
    write_settings(config, settings_of(replace(planned.config, sources=sources)))
