"""From glass to QuPath: nucleus polygons and classes for a cohort of H&E whole-slide images.

    snakemake                              on all cores of this machine
    snakemake --cores 8                    on 8 cores
    snakemake --workflow-profile slurm     on a cluster

Every rule is one call of one `muse` command; `config/README.md` explains the settings.
"""

import os

from snakemake.utils import min_version

min_version("9.14")


configfile: "config/config.yaml"


if image := os.environ.get("MUSE_CONTAINER"):  # image of the jobs with `--sdm apptainer`

    container: image


include: "workflow/rules/common.smk"
include: "workflow/rules/pretraining.smk"
include: "workflow/rules/slides.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/regions.smk"
include: "workflow/rules/detection.smk"
include: "workflow/rules/batches.smk"
include: "workflow/rules/proposals.smk"
include: "workflow/rules/scverse.smk"
include: "workflow/rules/statistics.smk"
include: "workflow/rules/report.smk"


# A run that trains a model plans all slides, because results depend on files that are not made yet.
if workflow.is_main_process:
    checked(TODO.find, bool(TRAINING or PRETRAINING or REGION_RUN))
    Announced.results, Announced.batches = Path(OUTPUT), TODO.batches
    Announced.last_jobs = {slide: jobs[-1].name for slide, jobs in TODO.outdated.items()}
    print(f"model: {MODEL.get('model', MODEL['name'])}, provider {MODEL['provider']}", file=sys.stderr)
    print(*describe_changes(TODO.replaced), sep="\n", end="\n" if TODO.replaced else "", file=sys.stderr, flush=True)


rule all:
    """All files that the config requests."""
    default_target: True
    input:
        report="<results>/report.html",
        all_well=ALL_WELL,
        slides=lambda wildcards: list(TODO.missing()),
        cohort="<results>/cohort.h5ad" if config["anndata"] else [],
        statistics="<results>/statistics.tsv" if config["statistics"] else [],
        regions_well=[*REGION_STATE, REGIONS_WELL] if config["regions"] else [],
        pretrained=PRETRAINED,


onstart:
    for done in Path(OUTPUT, "logs/batches").glob("*.done"):  # of a run that was killed
        done.unlink()
    for slide in SLIDES:
        PLAN.records(slide).remove_unrequested(PLAN.unrequested_jobs(slide))


onsuccess:
    remove_cohort_files(Path(OUTPUT), TODO.with_nuclei, NOT_OF_COHORT)


onerror:
    report_failures()
    remove_cohort_files(Path(OUTPUT), TODO.with_nuclei, NOT_OF_COHORT)
