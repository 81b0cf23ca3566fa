"""The report of the cohort.

Reads the results of all other rules; writes <results>/report.html and cohort.tsv. The rule `report` runs if no slide
failed; otherwise `onerror` runs its command.
"""

REPORT_COMMAND = [
    "muse",
    "report",
    OUTPUT,
    "--slides",
    str(SHEET),
    *option("--pretraining", PRETRAINING_FOLDER),
]
REPORT_COMMAND += INCLUDE_DOUBTFUL
REPORT_SETTINGS = {
    "pretraining": PRETRAINING_FOLDER,
    "include_doubtful": config["include_doubtful"],
}
if config["statistics"]:
    REPORT_COMMAND += ["--sheet", config["slides"], "--group", config["statistics"]["group"]]
    REPORT_SETTINGS |= STATISTICS_SETTINGS
# This file is missing if `onerror` wrote the report, so that the rule writes the report again after a successful rerun.
ALL_WELL = f"{OUTPUT}/logs/all_well"
REPORT_LOG = f"{OUTPUT}/logs/report.log"  # printed at the end of a run


rule report:
    """Report the outcome of every slide, failures first."""
    input:
        sheet=str(SHEET),
        summaries=of_every_slide("summary.json"),
        pretrained=PRETRAINED,
        statistics=STATISTICS_FILE,
        request=TODO.request_of_cohort(
            Job("report", REPORT_SETTINGS, writes=["report.html", "cohort.tsv"]), OUTPUT
        ),
    output:
        page="<results>/report.html",
        table=report("<results>/cohort.tsv", category="Cohort"),
        all_well=touch(ALL_WELL),
    log:
        REPORT_LOG,
    threads: 4
    params:
        command=REPORT_COMMAND,
        statistics=option("--statistics", *(STATISTICS_FILE or [None])),
    shell:
        r"""
        {params.command:q} {params.statistics:q} --threads {threads} >{log:q} 2>&1
        """
