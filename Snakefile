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
include: "workflow/rules/requests.smk"
include: "workflow/rules/slides.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/regions.smk"
include: "workflow/rules/detection.smk"
include: "workflow/rules/batches.smk"
include: "workflow/rules/proposals.smk"
include: "workflow/rules/scverse.smk"
include: "workflow/rules/statistics.smk"
include: "workflow/rules/report.smk"


rule all:
    """All files that the config requests."""
    default_target: True
    input:
        report="<results>/report.html",
        all_well=ALL_WELL,
        slides=lambda wildcards: list(unfinished_files()),
        batches=lambda wildcards: map(batch_done, BATCHES),
        cohort="<results>/cohort.h5ad" if config["anndata"] else [],
        statistics="<results>/statistics.tsv" if config["statistics"] else [],
        regions_well=[*REGION_STATE, REGIONS_WELL] if config["regions"] else [],
        pretrained=PRETRAINED,


onstart:
    for slide in SLIDES:
        PLAN.records(slide).remove_unrequested(PLAN.unrequested_jobs(slide))


onsuccess:
    remove_cohort_files(Path(OUTPUT), FINISHED, NOT_OF_COHORT)


onerror:
    report_failures()
    remove_cohort_files(Path(OUTPUT), FINISHED, NOT_OF_COHORT)
