"""From images to nuclei.

Reads a slide's image store and the model; writes <results>/{slide}/shards/*.parquet, nuclei.parquet and the outputs
that are written with it (muse_pipeline/outputs): nuclei.geojson.gz with its provenance, summary.json and others.
"""

MEASURES_PIXELS = config["features"] != "none" or config["quality"]
WRITTEN_WITH_NUCLEI = list_outputs(config, "nuclei")
WRITTEN_LATER = [each for each in list_outputs(config) if each not in WRITTEN_WITH_NUCLEI]


def model_file(wildcards):
    """The file of the model; none for a built-in model, which is found by its name."""
    if TRAINING:
        return f"{OUTPUT}/training/{RUN}/model.onnx"
    return MODEL["file"] or []


rule detect:
    """Run the model over one shard of a slide's windows."""
    input:
        store=f"<results>/{{slide}}/{STORE}",
        colour="<results>/{slide}/colour.json",
        model=model_file,
        changed=if_changed("detect"),
    output:
        nuclei=intermediate("<results>/{slide}/shards/{shard}.parquet"),
        made_with="<results>/{slide}/logs/settings/detect-{shard}.json",
    log:
        text="<results>/{slide}/logs/detect-{shard}.log",
        ledger="<results>/{slide}/ledger/detect-{shard}.json",
    conda:
        "../../envs/infer.yaml"
    threads: of_slide(PLAN.threads)
    params:
        made_with=settings_of(of_slide(PLAN.detection_settings)),
        model=lambda wildcards, input: input.model or MODEL["model"],  # resolved once for all jobs
        provider=MODEL["provider"],  # `auto` is resolved when the run is planned
        stain=of_slide(lambda slide: PLAN.option(slide, "--stain", "stain")),
    shell:
        r"""
        muse detect {input.store:q} \
            --model {params.model:q} \
            --colour {input.colour:q} {params.stain:q} \
            --shard {wildcards.shard} \
            --threads {threads} \
            --provider {params.provider} \
            --output {output.nuclei:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        echo {params.made_with:q} >{output.made_with:q}
        """


rule nuclei:
    """Join the shards of a slide, write its nuclei for QuPath, draw them and summarise the slide."""
    input:
        shards=of_slide(PLAN.shards),
        info="<results>/{slide}/slide.json",
        mask="<results>/{slide}/tissue.npz",
        regions=of_slide(PLAN.regions),
        store=f"<results>/{{slide}}/{STORE}",
        colour="<results>/{slide}/colour.json" if MEASURES_PIXELS else [],
        changed=if_changed("nuclei"),
    output:
        nuclei="<results>/{slide}/nuclei.parquet",
        outputs=[path for output in WRITTEN_WITH_NUCLEI for path in files_of(output)],
        made_with="<results>/{slide}/logs/settings/nuclei.json",
    log:
        "<results>/{slide}/logs/nuclei.log",
    conda:
        "../../envs/infer.yaml"
    threads: of_slide(PLAN.threads)
    params:
        made_with=settings_of(of_slide(PLAN.nuclei_settings)),
        folder=subpath(output.nuclei, parent=True),
        regions=of_slide(PLAN.regions_option),
        options=PLAN.options("nuclei"),
    shell:
        r"""
        muse nuclei {input.shards:q} {params.regions:q} {params.options:q} \
            --threads {threads} \
            --output {params.folder:q} >{log:q} 2>&1
        echo {params.made_with:q} >{output.made_with:q}
        """
