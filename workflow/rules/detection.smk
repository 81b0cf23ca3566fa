"""From images to nuclei.

Takes a slide's image store and the model; gives <results>/{slide}/shards/*.parquet, nuclei.parquet, nuclei.geojson.gz
with its provenance beside it, nuclei.csv.gz if the config asks for it, summary.json, density.png and overlays.
"""

# Proposals are drawn too, and their failure must cost no nuclei: the pictures are then a job of their own.
DRAWS_AT_ONCE = not config["proposals"]
MEASURES_PIXELS = config["features"] != "none" or config["quality"]


def model_file(wildcards):
    """The file of the model; none for a built-in one, which has only a name."""
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
    benchmark:
        "<results>/{slide}/benchmarks/detect-{shard}.tsv"
    conda:
        "../../envs/infer.yaml"
    threads: of_slide(PLAN.threads)
    params:
        made_with=settings_of(of_slide(PLAN.detection_settings)),
        model=lambda wildcards, input: input.model or MODEL["model"],  # chosen once, for all shards and machines
        provider=MODEL["provider"],  # what `auto` was when the run was planned
    shell:
        r"""
        muse detect {input.store:q} \
            --model {params.model:q} \
            --colour {input.colour:q} \
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
        store=f"<results>/{{slide}}/{STORE}" if DRAWS_AT_ONCE or MEASURES_PIXELS else [],
        colour="<results>/{slide}/colour.json" if MEASURES_PIXELS else [],
        changed=if_changed("nuclei"),
    output:
        nuclei="<results>/{slide}/nuclei.parquet",
        geojson="<results>/{slide}/nuclei.geojson.gz",
        provenance="<results>/{slide}/nuclei.provenance.json",
        csv=["<results>/{slide}/nuclei.csv.gz"] if config["csv"] else [],
        artefacts=["<results>/{slide}/artefacts.geojson"] if config["quality"] else [],
        summary=["<results>/{slide}/summary.json"] if DRAWS_AT_ONCE else [],
        density=["<results>/{slide}/density.png"] if DRAWS_AT_ONCE else [],
        overlays=directory("<results>/{slide}/overlays") if DRAWS_AT_ONCE else [],
        viewer=directory("<results>/{slide}/viewer") if DRAWS_AT_ONCE and config["viewer"] else [],
        made_with="<results>/{slide}/logs/settings/nuclei.json",
    log:
        "<results>/{slide}/logs/nuclei.log",
    benchmark:
        "<results>/{slide}/benchmarks/nuclei.tsv"
    conda:
        "../../envs/infer.yaml"
    threads: of_slide(PLAN.threads)
    params:
        made_with=settings_of(of_slide(PLAN.nuclei_settings)),
        folder=subpath(output.nuclei, parent=True),
        csv=["--csv"] if config["csv"] else [],
        frame=config["frame"],
        max_features=option("--max-features", config["max_features"]),
        pictures=[] if DRAWS_AT_ONCE else ["--no-pictures"],
        viewer=[] if config["viewer"] else ["--no-viewer"],
        regions=of_slide(PLAN.regions_option),
        features=of_slide(PLAN.features_option),
        measurements=["--measurements", *config["measurements"]] if config["measurements"] else [],
    shell:
        r"""
        muse nuclei {input.shards:q} {params.csv:q} {params.max_features:q} {params.pictures:q} {params.viewer:q} \
            {params.regions:q} {params.features:q} {params.measurements:q} \
            --frame {params.frame} \
            --threads {threads} \
            --output {params.folder:q} >{log:q} 2>&1
        echo {params.made_with:q} >{output.made_with:q}
        """
