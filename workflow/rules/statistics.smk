"""Numbers per slide: as AnnData where the config asks for `anndata`, compared by groups of patients for `statistics`.

Takes the tables of nuclei and the sheet; gives <results>/cohort.h5ad, statistics.tsv and statistics.patients.tsv.
"""

STATISTICS = {"patient": "patient", **(config["statistics"] or {})}
INCLUDE_DOUBTFUL = [word for kind in config["include_doubtful"] for word in ("--include-doubtful", kind)]
STATISTICS_FILE = [f"{OUTPUT}/statistics.tsv"] if config["statistics"] else []


rule statistics:
    """Compare every pair of groups."""
    input:
        nuclei=of_every_slide("nuclei.parquet"),
    output:
        table="<results>/statistics.tsv",
        patients="<results>/statistics.patients.tsv",
    log:
        "<results>/logs/statistics.log",
    benchmark:
        "<results>/benchmarks/statistics.tsv"
    conda:
        "../../envs/infer.yaml"
    threads: 4
    params:
        results=OUTPUT,
        sheet=config["slides"],
        state=state_of_files([config["slides"]]),
        group=STATISTICS.get("group"),
        patient=STATISTICS["patient"],
        included=INCLUDE_DOUBTFUL,
    shell:
        r"""
        muse statistics {params.results:q} \
            --sheet {params.sheet:q} \
            --group {params.group:q} \
            --patient {params.patient:q} \
            {params.included:q} \
            --output {output.table:q} >{log:q} 2>&1
        """


rule anndata_cohort:
    """Write a row of numbers per slide."""
    input:
        nuclei=of_every_slide("nuclei.parquet"),
    output:
        h5ad="<results>/cohort.h5ad",
    log:
        "<results>/logs/anndata.log",
    benchmark:
        "<results>/benchmarks/anndata.tsv"
    conda:
        "../../envs/infer.yaml"
    threads: 4
    params:
        results=OUTPUT,
        sheet=config["slides"],
        state=state_of_files([config["slides"]]),
    shell:
        r"""
        muse anndata {params.results:q} \
            --sheet {params.sheet:q} \
            --output {output.h5ad:q} >{log:q} 2>&1
        """
