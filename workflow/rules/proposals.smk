"""Nuclei without a trained model (`proposals`).

Reads a slide's image store and its measured stains; writes <results>/{slide}/proposals/*.parquet (a file per shard),
proposals.parquet, proposals.geojson.gz and proposals.provenance.json.
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
