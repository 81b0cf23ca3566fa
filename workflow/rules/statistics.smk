"""Numbers per slide: AnnData of the cohort (`anndata`), and comparisons of groups of patients (`statistics`).

Reads tables of nuclei, the sheet and cohort.tsv; writes cohort.h5ad, statistics.tsv and statistics.patients.tsv.
"""

STATISTICS = {"patient": "patient", **(config["statistics"] or {})}
INCLUDE_DOUBTFUL = [
    word for kind in config["include_doubtful"] for word in ("--include-doubtful", kind)
]
NOT_OF_COHORT = [
    *([] if config["anndata"] else OF_COHORT[:1]),
    *([] if config["statistics"] else OF_COHORT[1:]),
]
STATISTICS_FILE = [f"{OUTPUT}/statistics.tsv"] if config["statistics"] else []
SHEET_STATE = {"sheet": state_of_files([config["slides"]])}
STATISTICS_SETTINGS = {**STATISTICS, "include_doubtful": config["include_doubtful"], **SHEET_STATE}
STATISTICS_JOB = Job(
    "statistics", STATISTICS_SETTINGS, writes=["statistics.tsv", "statistics.patients.tsv"]
)
ANNDATA_JOB = Job("anndata", SHEET_STATE, writes=["cohort.h5ad"])


rule statistics:
    """Compare every pair of groups of patients."""
    input:
        nuclei=of_every_slide("nuclei.parquet"),
        request=TODO.request_of_cohort(STATISTICS_JOB, OUTPUT) if config["statistics"] else [],
    output:
        table="<results>/statistics.tsv",
        patients="<results>/statistics.patients.tsv",
    log:
        "<results>/logs/statistics.log",
    threads: 4
    params:
        results=subpath(output.table, parent=True),
        sheet=config["slides"],
        options=[
            *option("--group", STATISTICS.get("group")),
            "--patient",
            STATISTICS["patient"],
            *INCLUDE_DOUBTFUL,
        ],
    shell:
        r"""
        muse statistics {params.results:q} {params.options:q} \
            --sheet {params.sheet:q} \
            --threads {threads} \
            --output {output.table:q} >{log:q} 2>&1
        """


rule anndata_cohort:
    """Write AnnData with a row per slide, including the doubts listed in cohort.tsv."""
    input:
        nuclei=of_every_slide("nuclei.parquet"),
        table="<results>/cohort.tsv",
        request=TODO.request_of_cohort(ANNDATA_JOB, OUTPUT) if config["anndata"] else [],
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
        muse anndata {params.results:q} \
            --sheet {params.sheet:q} \
            --threads {threads} \
            --output {output.h5ad:q} >{log:q} 2>&1
        """
