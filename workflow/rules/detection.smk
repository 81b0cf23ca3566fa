"""From images to nuclei.

Takes a slide's image store and the model; gives <results>/{slide}/shards/*.parquet, nuclei.parquet, nuclei.geojson.gz
with its provenance beside it and, if the config asks for it, nuclei.csv.gz.
"""


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
    output:
        nuclei=intermediate("<results>/{slide}/shards/{shard}.parquet"),
    log:
        text="<results>/{slide}/logs/detect-{shard}.log",
        ledger="<results>/{slide}/ledger/detect-{shard}.json",
    benchmark:
        "<results>/{slide}/benchmarks/detect-{shard}.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        model=lambda wildcards, input: input.model or MODEL["model"],  # chosen once, for all shards and machines
        checksum=MODEL.get("sha256"),  # a built-in model has no file whose time could say that it is another
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
        """


rule stitch:
    """Join the shards of a slide, count every nucleus at a seam once, and measure shapes."""
    input:
        shards=lambda wildcards: [f"{OUTPUT}/{wildcards.slide}/shards/{shard}.parquet" for shard in shards(wildcards)],
        info="<results>/{slide}/slide.json",
        tissue="<results>/{slide}/tissue.npz",
        regions=row_file("regions"),
    output:
        nuclei="<results>/{slide}/nuclei.parquet",
        csv=["<results>/{slide}/nuclei.csv.gz"] if config["csv"] else [],
    log:
        text="<results>/{slide}/logs/stitch.log",
        ledger="<results>/{slide}/ledger/stitch.json",
    benchmark:
        "<results>/{slide}/benchmarks/stitch.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        csv=lambda wildcards, output: option("--csv", output.csv or None),
        regions=row_option("--regions", "regions"),
        regions_state=state_of("regions"),
        made_from=made_from,
    shell:
        r"""
        muse stitch {input.shards:q} {params.csv:q} {params.regions:q} \
            --info {input.info:q} \
            --tissue {input.tissue:q} \
            --threads {threads} \
            --output {output.nuclei:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """


rule geojson:
    """Write the nuclei as QuPath reads them, one feature per line."""
    input:
        nuclei="<results>/{slide}/nuclei.parquet",
        info="<results>/{slide}/slide.json",
    output:
        geojson="<results>/{slide}/nuclei.geojson.gz",
        provenance="<results>/{slide}/nuclei.provenance.json",
    log:
        text="<results>/{slide}/logs/geojson.log",
        ledger="<results>/{slide}/ledger/geojson.json",
    benchmark:
        "<results>/{slide}/benchmarks/geojson.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        frame=config["frame"],
        max_features=option("--max-features", config["max_features"]),
    shell:
        r"""
        muse geojson {input.nuclei:q} {params.max_features:q} \
            --info {input.info:q} \
            --frame {params.frame} \
            --threads {threads} \
            --output {output.geojson:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """
