"""From glass to QuPath: nucleus polygons and classes for a cohort of H&E whole-slide images.

    snakemake --cores 8                    on this machine
    snakemake --workflow-profile slurm     on a cluster

Every rule is one call of one `muse` subcommand; `config/README.md` explains the settings.
"""

from snakemake.utils import min_version

min_version("9.14")


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/slides.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/detection.smk"
include: "workflow/rules/report.smk"


rule all:
    """Everything that the config asks for."""
    default_target: True
    # The nuclei by name: the report alone would not bring back a slide's when they are missing.
    input:
        report="<results>/report.html",
        nuclei=of_every_slide("nuclei.geojson.gz"),
        tables=of_every_slide("nuclei.csv.gz") if config["csv"] else [],
        images=of_every_slide(*EXTRA_STORES),


onsuccess:
    print(f"All {len(SLIDES)} slides are done. Report: {OUTPUT}/report.html")


onerror:
    report_failures()
    print(f"Something failed; every other slide is done. Which, and why: {OUTPUT}/report.html")
