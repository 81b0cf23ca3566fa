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
        embeddings=PLAN.embeddings_file("{slide}"),
    log:
        text="<results>/{slide}/logs/embed.log",
        ledger="<results>/{slide}/ledger/embed.json",
    benchmark:
        "<results>/{slide}/benchmarks/embed.tsv"
    conda:
        "../../envs/infer.yaml"
    threads: of_slide(PLAN.threads)
    params:
        folder=subpath(input.nuclei, parent=True),
        model=lambda wildcards, input: input.model or MODEL["model"],
        provider=MODEL["provider"],
    shell:
        r"""
        muse embed {params.folder:q} \
            --model {params.model:q} \
            --threads {threads} \
            --provider {params.provider} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """


rule anndata:
    """Write the nuclei of a slide as AnnData."""
    input:
        nuclei="<results>/{slide}/nuclei.parquet",
        embeddings=of_slide(PLAN.embeddings),
        request=requested("anndata"),
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
        embeddings=of_slide(PLAN.embeddings_option),
    shell:
        r"""
        muse anndata {input.nuclei:q} {params.patient:q} {params.embeddings:q} \
            --output {output.h5ad:q} >{log:q} 2>&1
        """


rule spatialdata:
    """Write a slide for SpatialData."""
    input:
        nuclei="<results>/{slide}/nuclei.parquet",
        store=f"<results>/{{slide}}/{STORE}",
        embeddings=of_slide(PLAN.embeddings),
        request=requested("spatialdata"),
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
        embeddings=of_slide(PLAN.embeddings_option),
    shell:
        r"""
        muse spatialdata {input.nuclei:q} {params.patient:q} {params.embeddings:q} \
            --store {input.store:q} \
            --output {output.folder:q} >{log:q} 2>&1
        """
