"""Embeddings of nuclei, and files for scanpy, squidpy and SpatialData (`embedding`, `anndata`, `spatialdata`).

Reads a slide's table of nuclei and its image; writes <results>/{slide}/embeddings-{model}.parquet, nuclei.h5ad and
slide.spatialdata.zarr.
"""


rule embed:
    """Write the model's features of every nucleus."""
    input:
        nuclei="<results>/{slide}/nuclei.parquet",
        info="<results>/{slide}/slide.json",
        store=f"<results>/{{slide}}/{STORE}",
        colour="<results>/{slide}/colour.json",
        model=model_file,
        request=requested("embed"),
    output:
        embeddings=[f"<results>/{{slide}}/{name}" for name in PLAN.embeddings],
    log:
        text="<results>/{slide}/logs/embed.log",
        ledger="<results>/{slide}/ledger/embed.json",
    conda:
        "../../envs/infer.yaml"
    threads: of_slide(PLAN.threads)
    params:
        folder=subpath(input.nuclei, parent=True),
        model=model_options,
    shell:
        r"""
        muse embed {params.folder:q} {params.model:q} \
            --threads {threads} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """


rule anndata:
    """Write the nuclei of a slide as AnnData."""
    input:
        nuclei="<results>/{slide}/nuclei.parquet",
        embeddings=[f"<results>/{{slide}}/{name}" for name in PLAN.embeddings],
        request=requested("anndata"),
    output:
        h5ad="<results>/{slide}/nuclei.h5ad",
    log:
        "<results>/{slide}/logs/anndata.log",
    conda:
        "../../envs/infer.yaml"
    params:
        options=of_slide(PLAN.scverse_options),
    shell:
        r"""
        muse anndata {input.nuclei:q} {params.options:q} \
            --output {output.h5ad:q} >{log:q} 2>&1
        """


rule spatialdata:
    """Write a slide for SpatialData."""
    input:
        nuclei="<results>/{slide}/nuclei.parquet",
        store=f"<results>/{{slide}}/{STORE}",
        embeddings=[f"<results>/{{slide}}/{name}" for name in PLAN.embeddings],
        request=requested("spatialdata"),
    output:
        folder=directory("<results>/{slide}/slide.spatialdata.zarr"),
    log:
        "<results>/{slide}/logs/spatialdata.log",
    conda:
        "../../envs/infer.yaml"
    params:
        options=of_slide(PLAN.scverse_options),
    shell:
        r"""
        muse spatialdata {input.nuclei:q} {params.options:q} \
            --store {input.store:q} \
            --output {output.folder:q} >{log:q} 2>&1
        """
