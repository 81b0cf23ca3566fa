"""From images to nuclei: those of the model, and those that are found without a trained model (`proposals`).

Reads a slide's image store, its measured stains and the model; writes <results>/{slide}/shards/*.parquet, nuclei.parquet and the
outputs that are written with it (muse_pipeline/outputs): nuclei.geojson.gz with its provenance, summary.json and others. Proposals
are in <results>/{slide}/proposals/*.parquet (a file per shard), proposals.parquet, proposals.geojson.gz and proposals.provenance.json.
"""


rule detect:
    """Run the model over one shard of a slide's windows."""
    input:
        store=f"<results>/{{slide}}/{STORE}",
        colour="<results>/{slide}/colour.json",
        model=model_file,
        request=requested("detect-{shard}"),
    output:
        nuclei=intermediate("<results>/{slide}/shards/{shard}.parquet"),
    log:
        text="<results>/{slide}/logs/detect-{shard}.log",
        ledger="<results>/{slide}/ledger/detect-{shard}.json",
    threads: lambda w: PLAN.threads(w.slide)
    resources:
        mem_mb=by_attempt(3000),
        runtime=by_attempt(240),
    params:
        model=model_options,
        stain=lambda w: PLAN.option(w.slide, "--stain", "stain"),
    shell:
        r"""
        muse step detect {input.store:q} {params.model:q} \
            --colour {input.colour:q} {params.stain:q} \
            --shard {wildcards.shard} \
            --threads {threads} \
            --output {output.nuclei:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """


rule nuclei:
    """Join the shards of a slide, write its nuclei for QuPath, draw them and summarise the slide."""
    input:
        shards=lambda w: PLAN.shards(w.slide),
        info="<results>/{slide}/slide.json",
        mask="<results>/{slide}/tissue.npz",
        regions=lambda w: PLAN.regions(w.slide),
        store=f"<results>/{{slide}}/{STORE}",
        colour="<results>/{slide}/colour.json" if PLAN.reads_pixels else [],
        model=model_file if config["embedding"] else [],
        request=requested("nuclei"),
    output:
        nuclei="<results>/{slide}/nuclei.parquet",
        outputs=[file_of_output(name) for name in PLAN.output_names],
    log:
        "<results>/{slide}/logs/nuclei.log",
    threads: lambda w: PLAN.threads(w.slide)
    resources:
        mem_mb=by_attempt(3000),
        runtime=by_attempt(40),
        gpu=int(config["embedding"] and MODEL["provider"] in ("cuda", "tensorrt")),
    params:
        folder=subpath(output.nuclei, parent=True),
        regions=lambda w: PLAN.regions_option(w.slide),
        config=CONFIG,
        patient=lambda w: PLAN.option(w.slide, "--patient", "patient"),
        model=model_options if config["embedding"] else [],
    shell:
        r"""
        muse step nuclei {input.shards:q} {params.regions:q} {params.patient:q} {params.model:q} \
            --config {params.config:q} \
            --threads {threads} \
            --output {params.folder:q} >{log:q} 2>&1
        """


rule propose:
    """Find nuclei without a trained model in one shard of a slide's windows."""
    input:
        store=f"<results>/{{slide}}/{STORE}",
        colour="<results>/{slide}/colour.json",
        info="<results>/{slide}/slide.json",
        read=lambda w: PLAN.proposer_inputs(w.slide),
        request=requested("propose-{shard}"),
    output:
        proposals=intermediate("<results>/{slide}/proposals/{shard}.parquet"),
    log:
        text="<results>/{slide}/logs/propose-{shard}.log",
        ledger="<results>/{slide}/ledger/propose-{shard}.json",
    threads: 4
    resources:
        mem_mb=by_attempt(3000),
        runtime=by_attempt(120),
    params:
        proposer=lambda wildcards: PROPOSER,  # braces in a text would be wildcards
    shell:
        r"""
        muse step propose {input.store:q} \
            --method {params.proposer:q} \
            --colour {input.colour:q} \
            --info {input.info:q} \
            --shard {wildcards.shard} \
            --threads {threads} \
            --output {output.proposals:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """


rule proposals:
    """Join the shards of a slide's proposals, and write them for QuPath."""
    input:
        shards=lambda w: PLAN.shards(w.slide, "proposals"),
        info="<results>/{slide}/slide.json",
        mask="<results>/{slide}/tissue.npz",
        request=requested("proposals"),
    output:
        proposals="<results>/{slide}/proposals.parquet",
        geojson="<results>/{slide}/proposals.geojson.gz",
        provenance="<results>/{slide}/proposals.provenance.json",
    log:
        "<results>/{slide}/logs/proposals.log",
    threads: 4
    resources:
        mem_mb=by_attempt(3000),
    params:
        folder=subpath(output.proposals, parent=True),
        config=CONFIG,
    shell:
        r"""
        muse step proposals {input.shards:q} \
            --config {params.config:q} \
            --threads {threads} \
            --output {params.folder:q} >{log:q} 2>&1
        """
