"""Files for scanpy, squidpy and SpatialData, where the config asks for `anndata` or `spatialdata`.

Takes a slide's table of nuclei, and its image for SpatialData; gives <results>/{slide}/nuclei.h5ad and
<results>/{slide}/slide.spatialdata.zarr.
"""


rule anndata:
    """Write the nuclei of a slide as AnnData."""
    input:
        nuclei="<results>/{slide}/nuclei.parquet",
    output:
        h5ad="<results>/{slide}/nuclei.h5ad",
    log:
        "<results>/{slide}/logs/anndata.log",
    benchmark:
        "<results>/{slide}/benchmarks/anndata.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        patient=of_slide(PLAN.option, "--patient", "patient"),
    shell:
        r"""
        muse anndata {input.nuclei:q} {params.patient:q} \
            --output {output.h5ad:q} >{log:q} 2>&1
        """


rule spatialdata:
    """Write a slide for SpatialData."""
    input:
        nuclei="<results>/{slide}/nuclei.parquet",
        store=f"<results>/{{slide}}/{STORE}",
    output:
        folder=directory("<results>/{slide}/slide.spatialdata.zarr"),
    log:
        "<results>/{slide}/logs/spatialdata.log",
    benchmark:
        "<results>/{slide}/benchmarks/spatialdata.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        patient=of_slide(PLAN.option, "--patient", "patient"),
    shell:
        r"""
        muse spatialdata {input.nuclei:q} {params.patient:q} \
            --store {input.store:q} \
            --output {output.folder:q} >{log:q} 2>&1
        """
