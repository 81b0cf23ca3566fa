"""From glass to QuPath: nucleus polygons and classes for a cohort of H&E whole-slide images.

    snakemake                              on all cores of this machine
    snakemake --cores 8                    on so many
    snakemake --workflow-profile slurm     on a cluster

Every rule is one call of one `muse` command; `config/README.md` explains the settings.
"""

import os

from snakemake.utils import min_version

min_version("9.14")


configfile: "config/config.yaml"


if image := os.environ.get("MUSE_CONTAINER"):  # of the jobs, with `--sdm apptainer`

    container: image


include: "workflow/rules/common.smk"
include: "workflow/rules/pretraining.smk"
include: "workflow/rules/slides.smk"
include: "workflow/rules/preflight.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/regions.smk"
include: "workflow/rules/detection.smk"
include: "workflow/rules/proposals.smk"
include: "workflow/rules/scverse.smk"
include: "workflow/rules/statistics.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/terminal.smk"
include: "workflow/rules/warm.smk"
include: "workflow/rules/settled.smk"


rule all:
    """Everything that the config asks for."""
    default_target: True
    # A file of every step, by name: the report alone would not bring back what a killed job left missing behind it.
    input:
        report="<results>/report.html",
        all_well=ALL_WELL,
        image=of_unsettled_slides("slide.json", "tissue.npz", "colour.json"),
        nuclei=of_unsettled_slides("nuclei.parquet", *names_of(WRITTEN_WITH_NUCLEI)),
        outputs=lambda wildcards: PLAN.files(*names_of(WRITTEN_LATER), slides=unsettled()),
        proposals=lambda wildcards: (
            PLAN.files("proposals.parquet", "proposals.geojson.gz", slides=unsettled()) if config["proposals"] else []
        ),
        cohort="<results>/cohort.h5ad" if config["anndata"] else [],
        statistics="<results>/statistics.tsv" if config["statistics"] else [],
        images=lambda wildcards: stores_of(unsettled()) if config["keep_stores"] else [],
        shards=lambda wildcards: PLAN.every_shard(unsettled()) if config["keep_stores"] else [],
        proposed=lambda wildcards: (
            PLAN.every_shard(unsettled(), "proposals") if config["keep_stores"] and config["proposals"] else []
        ),
        regions=lambda wildcards: PLAN.files("regions.json", slides=unsettled()) if config["regions"] else [],
        regions_well=[*REGION_STATE, REGIONS_WELL] if config["regions"] else [],
        pretrained=PRETRAINED,


onstart:
    require_cores()
    gc.freeze()  # the plan stays
    gc.enable()
    print(f"model: {MODEL.get('model', MODEL['name'])}, provider {MODEL['provider']}")
    if preflight_alone():
        PREFLIGHT_LOG.unlink(missing_ok=True)  # results of an earlier check must not pass for this one's
    else:
        print_what_is_replaced()
        FINISHED.extend(filter(has_results, SLIDES))
        for slide in FINISHED:
            remove_unrequested(PLAN, slide)
        forget_unasked_steps()
        forget_old_failures()
    TERMINAL.start()
    start_warm_muse()


onsuccess:
    remove_cohort_files(Path(OUTPUT), FINISHED, NOT_OF_COHORT)
    print_last(what_preflight_found() if preflight_alone() else what_is_done())


onerror:
    if preflight_alone():
        print_last(what_preflight_found())
        check_problems_again()
    else:
        print_last(report_failures() + what_failed())
        remove_cohort_files(Path(OUTPUT), FINISHED, NOT_OF_COHORT)
