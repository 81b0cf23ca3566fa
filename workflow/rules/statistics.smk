"""Groups of patients compared by the nuclei of their slides, where the config asks for `statistics`.

Takes the tables of nuclei and the sheet; gives <results>/statistics.tsv.
"""

STATISTICS = {"patient": "patient", **(config["statistics"] or {})}


rule statistics:
    """Compare every pair of groups."""
    input:
        nuclei=of_every_slide("nuclei.parquet"),
        sheet=config["slides"],  # its columns of groups and patients
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
        group=STATISTICS.get("group"),
        patient=STATISTICS["patient"],
    shell:
        r"""
        muse statistics {params.results:q} \
            --sheet {input.sheet:q} \
            --group {params.group:q} \
            --patient {params.patient:q} \
            --output {output.table:q} >{log:q} 2>&1
        """
