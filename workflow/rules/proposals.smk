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
        read=of_slide(PLAN.proposer_inputs),
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


rule stitch_proposals:
    """Join the shards of a slide's proposals."""
    input:
        shards=of_slide(PLAN.shards, "proposals"),
        info="<results>/{slide}/slide.json",
        tissue="<results>/{slide}/tissue.npz",
        request=requested("stitch-proposals"),
    output:
        proposals="<results>/{slide}/proposals.parquet",
    log:
        text="<results>/{slide}/logs/stitch-proposals.log",
        ledger="<results>/{slide}/ledger/stitch-proposals.json",
    threads: 4
    resources:
        mem_mb=by_attempt(3000),
    shell:
        r"""
        muse step stitch {input.shards:q} \
            --info {input.info:q} \
            --tissue {input.tissue:q} \
            --threads {threads} \
            --output {output.proposals:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """


rule geojson_proposals:
    """Write the proposals for QuPath."""
    input:
        proposals="<results>/{slide}/proposals.parquet",
        info="<results>/{slide}/slide.json",
        request=requested("geojson-proposals"),
    output:
        geojson="<results>/{slide}/proposals.geojson.gz",
        provenance="<results>/{slide}/proposals.provenance.json",
    log:
        text="<results>/{slide}/logs/geojson-proposals.log",
        ledger="<results>/{slide}/ledger/geojson-proposals.json",
    params:
        frame=config["frame"],
    shell:
        r"""
        muse step geojson {input.proposals:q} \
            --info {input.info:q} \
            --frame {params.frame} \
            --threads {threads} \
            --output {output.geojson:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """
