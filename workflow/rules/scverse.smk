"""Embeddings of nuclei, and files for scanpy, squidpy and SpatialData (`embedding`, `anndata`, `spatialdata`).

Reads a slide's table of nuclei and its image; writes <results>/{slide}/embeddings-{model}.parquet, nuclei.h5ad and
slide.spatialdata.zarr.
"""


def all_embeddings(wildcards):
    """The embeddings of every slide, if the config requests them."""
    return [path for slide in SLIDES for path in as_found(slide, PLAN.embeddings(slide))]


rule embed:
    """Write the model's features of every nucleus."""
    input:
        nuclei="<results>/{slide}/nuclei.parquet",
        info="<results>/{slide}/slide.json",
        store=f"<results>/{{slide}}/{STORE}",
        colour="<results>/{slide}/colour.json",
        model=model_file,
        changed=if_changed("embed"),
    output:
        embeddings=PLAN.embeddings_file("{slide}"),
        made_with="<results>/{slide}/logs/settings/embed.json",
    log:
        text="<results>/{slide}/logs/embed.log",
        ledger="<results>/{slide}/ledger/embed.json",
    benchmark:
        "<results>/{slide}/benchmarks/embed.tsv"
    conda:
        "../../envs/infer.yaml"
    threads: of_slide(PLAN.threads)
    params:
        made_with=settings_of(of_slide(PLAN.detection_settings)),
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
        echo {params.made_with:q} >{output.made_with:q}
        """


rule anndata:
    """Write the nuclei of a slide as AnnData."""
    input:
        nuclei="<results>/{slide}/nuclei.parquet",
        embeddings=of_slide(PLAN.embeddings),
        changed=if_changed("anndata"),
    output:
        h5ad="<results>/{slide}/nuclei.h5ad",
        made_with="<results>/{slide}/logs/settings/anndata.json",
    log:
        "<results>/{slide}/logs/anndata.log",
    benchmark:
        "<results>/{slide}/benchmarks/anndata.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        made_with=settings_of(of_slide(PLAN.scverse_settings)),
        patient=of_slide(PLAN.option, "--patient", "patient"),
        embeddings=of_slide(PLAN.embeddings_option),
    shell:
        r"""
        muse anndata {input.nuclei:q} {params.patient:q} {params.embeddings:q} \
            --output {output.h5ad:q} >{log:q} 2>&1
        echo {params.made_with:q} >{output.made_with:q}
        """


rule spatialdata:
    """Write a slide for SpatialData."""
    input:
        nuclei="<results>/{slide}/nuclei.parquet",
        store=f"<results>/{{slide}}/{STORE}",
        embeddings=of_slide(PLAN.embeddings),
        changed=if_changed("spatialdata"),
    output:
        folder=directory("<results>/{slide}/slide.spatialdata.zarr"),
        made_with="<results>/{slide}/logs/settings/spatialdata.json",
    log:
        "<results>/{slide}/logs/spatialdata.log",
    benchmark:
        "<results>/{slide}/benchmarks/spatialdata.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        made_with=settings_of(of_slide(PLAN.scverse_settings)),
        patient=of_slide(PLAN.option, "--patient", "patient"),
        embeddings=of_slide(PLAN.embeddings_option),
    shell:
        r"""
        muse spatialdata {input.nuclei:q} {params.patient:q} {params.embeddings:q} \
            --store {input.store:q} \
            --output {output.folder:q} >{log:q} 2>&1
        echo {params.made_with:q} >{output.made_with:q}
        """
