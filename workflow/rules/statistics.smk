"""Groups of patients compared by the nuclei of their slides, where the config asks for `statistics`.

Takes the tables of nuclei and the sheet; gives <results>/statistics.tsv.
"""

STATISTICS = {"patient": "patient", **(config["statistics"] or {})}


rule statistics:
    """Compare every pair of groups."""
    input:
        nuclei=of_every_slide("nuclei.parquet"),
    output:
        table="<results>/statistics.tsv",
    log:
        "<results>/logs/statistics.log",
    benchmark:
        "<results>/benchmarks/statistics.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        results=OUTPUT,
        sheet=config["slides"],
        state=state_of_files([config["slides"]]),
        group=STATISTICS.get("group"),
        patient=STATISTICS["patient"],
    shell:
        r"""
        muse statistics {params.results:q} \
            --sheet {params.sheet:q} \
            --group {params.group:q} \
            --patient {params.patient:q} \
            --output {output.table:q} >{log:q} 2>&1
        """
