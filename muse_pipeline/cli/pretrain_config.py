"""Write the config for pretraining on the slides of a cohort with `muse pretrain`.

    muse step pretrain-config config/train/muse_pretrain.yaml --sheet slides.tsv --results \
        results -o run.yaml

Its sources are those of the given config, if it has any, and the sheet's slides: for each slide the
store at the finest mpp of the views, with the slide's proposals. Slides with the `split` "test" are
held back. The workflow does this for its setting `pretrain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from muse_pipeline.core.types import Written


def run(
    config: Path,
    sheet: Path,
    results: Path,
    output: Written,
    data: Path | None = None,
    changes: Sequence[str] = (),
    exclude: Sequence[str] = (),
    held_splits: Sequence[str] | None = None,
    judged_by: Sequence[Sequence[Path]] = (),
    resolved: Written | None = None,
) -> None:
    """Write the config.

    Args:
        config: config of the run (YAML), with or without `sources`
        sheet: sheet of the slides
        results: folder with a folder per slide
        output: config of the run
        data: folder to which the config's paths are relative
        changes: change settings of the config, such as schedule.steps=100
        exclude: leave out slides whose slide_id contains this text
        held_splits: values of the column `split` whose slides and patients are held back (default:
            test)
        judged_by: training config whose validation patients are held back too, and the folder for
            its relative paths
        resolved: also write the plan of the run as JSON
    """
    import yaml

    from muse_pipeline.cohort.settings import write_if_changed
    from muse_pipeline.cohort.sheet import read_sheet
    from muse_pipeline.core.errors import ConfigError
    from muse_pipeline.core.files import write_json
    from muse_pipeline.methods.muse.cohort import Cohort, plan_cohort_run, settings_of

    if any(len(judge) > 2 for judge in judged_by):
        raise ConfigError(
            "--judged-by takes one config and one folder; repeat it for another config"
        )
    held = None if held_splits is None else tuple(held_splits)
    cohort = Cohort(read_sheet(sheet), results, tuple(exclude), held)
    planned = plan_cohort_run(config, cohort, data, judged_by, changes)
    of_run, facts = planned.config, planned.facts()  # may raise an error, so before all writing
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(settings_of(of_run), Dumper=dumper, sort_keys=False, allow_unicode=True)
    write_if_changed(output, text)  # a file with the same content keeps its modification time
    if resolved:
        write_json(resolved, facts)
    n_others = len(of_run.sources) - len(planned.slides)
    others = f" and {n_others} source{'s' if n_others > 1 else ''} of its own" if n_others else ""
    held_back = f"; {len(planned.held)} held back" if planned.held else ""
    print(
        f"{of_run.name}: {facts['backbone']} on {len(planned.slides)} of {len(cohort.rows)}"
        f" slides{others}{held_back}"
    )
