"""From slide files to images that every later step can read.

Takes the slides of the sheet; gives <results>/{slide}/slide.json, tissue.npz, tissue.png, tissue.geojson, colour.json
and one sparse OME-Zarr image per mpp that the config asks for.
"""


wildcard_constraints:
    store="|".join(map(re.escape, MPP_OF_STORE)),


rule fetch:
    """Copy a slide that lies elsewhere; the copy goes as soon as the slide's images are written."""
    output:
        fetched=temp(directory("<results>/{slide}/fetched")),
    log:
        text="<results>/{slide}/logs/fetch.log",
        ledger="<results>/{slide}/ledger/fetch.json",
    benchmark:
        "<results>/{slide}/benchmarks/fetch.tsv"
    conda:
        "../../envs/fetch.yaml"
    params:
        url=cell("path"),  # without what it needs to be let in, which the sheet alone has
    # The sheet is no param: under another name it is the same slide.
    shell:
        r"""
        muse fetch {config[slides]:q} \
            --slide-id {wildcards.slide:q} \
            --threads {threads} \
            --output {output.fetched:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """


rule inspect:
    """Read the header: size, mpp and where it came from, levels, bounds, fingerprint."""
    input:
        slide=slide_file,
    output:
        info="<results>/{slide}/slide.json",
    log:
        text="<results>/{slide}/logs/inspect.log",
        ledger="<results>/{slide}/ledger/inspect.json",
    benchmark:
        "<results>/{slide}/benchmarks/inspect.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        slide=slide_and_source,
        mpp=row_option("--mpp", "mpp"),
        state=state_of("path"),
    shell:
        r"""
        muse inspect {params.slide:q} {params.mpp:q} \
            --slide-id {wildcards.slide:q} \
            --output {output.info:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """


rule tissue:
    """Find the tissue, cut it to the region of interest if there is one, and measure its stain."""
    input:
        slide=slide_file,
        info="<results>/{slide}/slide.json",
        roi=row_file("roi"),
    output:
        mask="<results>/{slide}/tissue.npz",
        picture="<results>/{slide}/tissue.png",
        outline="<results>/{slide}/tissue.geojson",
        colour="<results>/{slide}/colour.json",
    log:
        text="<results>/{slide}/logs/tissue.log",
        ledger="<results>/{slide}/ledger/tissue.json",
    benchmark:
        "<results>/{slide}/benchmarks/tissue.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        slide=slide_argument,
        roi=row_option("--roi", "roi"),
        state=state_of("roi"),
    shell:
        r"""
        muse tissue {params.slide:q} {params.roi:q} \
            --info {input.info:q} \
            --mask {output.mask:q} \
            --picture {output.picture:q} \
            --outline {output.outline:q} \
            --colour {output.colour:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """


rule tile:
    """Write the slide once at the mpp that the store is named for, tissue chunks only."""
    input:
        slide=slide_file,
        info="<results>/{slide}/slide.json",
        tissue="<results>/{slide}/tissue.npz",
    output:
        store=intermediate(directory("<results>/{slide}/{store}")),
    log:
        text="<results>/{slide}/logs/tile-{store}.log",
        ledger="<results>/{slide}/ledger/tile-{store}.json",
    benchmark:
        "<results>/{slide}/benchmarks/tile-{store}.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        slide=slide_argument,
        mpp=lambda wildcards: MPP_OF_STORE[wildcards.store],
        max_corrupt=config["max_corrupt"],
    shell:
        r"""
        muse tile {params.slide:q} \
            --info {input.info:q} \
            --tissue {input.tissue:q} \
            --mpp {params.mpp} \
            --threads {threads} \
            --max-corrupt {params.max_corrupt} \
            --output {output.store:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """
