"""The report of the cohort, AnnData with a row per slide (`anndata`), and comparisons of groups of patients (`statistics`).

Reads the results of all other rules and the sheet; writes <results>/report.html, cohort.tsv, cohort.h5ad and statistics*.tsv.
The rule `report` runs if no slide failed; otherwise `onerror` runs its command.
"""

STATISTICS = {"patient": "patient", **(config["statistics"] or {})}
STATISTICS_FILE = [f"{OUTPUT}/statistics.tsv"] if config["statistics"] else []
INCLUDE_DOUBTFUL = [f"--include-doubtful={kind}" for kind in config["include_doubtful"]]
DOUBTFUL = {"include_doubtful": config["include_doubtful"]}
SHEET_STATE = {"sheet": state_of_files([config["slides"]])}
REPORT_SETTINGS = {"pretraining": PRETRAINING_FOLDER, **DOUBTFUL}
STATISTICS_SETTINGS = STATISTICS | DOUBTFUL | SHEET_STATE
REPORT_COMMAND = ["muse", "report", OUTPUT, "--slides", str(SHEET), *INCLUDE_DOUBTFUL]
REPORT_COMMAND += option("--pretraining", PRETRAINING_FOLDER)
if config["statistics"]:
    REPORT_COMMAND += ["--sheet", config["slides"], "--group", STATISTICS["group"]]
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
        request=request_of_cohort("report", REPORT_SETTINGS, "report.html", "cohort.tsv"),
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


rule statistics:
    """Compare every pair of groups of patients."""
    input:
        nuclei=of_every_slide("nuclei.parquet"),
        request=lambda w: request_of_cohort("statistics", STATISTICS_SETTINGS, *OF_COHORT[1:]),
    output:
        table="<results>/statistics.tsv",
        patients="<results>/statistics.patients.tsv",
    log:
        "<results>/logs/statistics.log",
    threads: 4
    params:
        results=subpath(output.table, parent=True),
        sheet=config["slides"],
        options=[*option("--group", STATISTICS.get("group")), *INCLUDE_DOUBTFUL],
        patient=STATISTICS["patient"],
    shell:
        r"""
        muse statistics {params.results:q} {params.options:q} \
            --patient {params.patient:q} \
            --sheet {params.sheet:q} \
            --threads {threads} \
            --output {output.table:q} >{log:q} 2>&1
        """


rule anndata_cohort:
    """Write AnnData with a row per slide, including the doubts listed in cohort.tsv."""
    input:
        nuclei=of_every_slide("nuclei.parquet"),
        table="<results>/cohort.tsv",
        request=lambda w: request_of_cohort("anndata", SHEET_STATE, "cohort.h5ad"),
    output:
        h5ad="<results>/cohort.h5ad",
    log:
        "<results>/logs/anndata.log",
    threads: 4
    params:
        results=subpath(output.h5ad, parent=True),
        sheet=config["slides"],
    shell:
        r"""
        muse step anndata {params.results:q} \
            --sheet {params.sheet:q} \
            --threads {threads} \
            --output {output.h5ad:q} >{log:q} 2>&1
        """
