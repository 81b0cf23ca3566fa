"""Images of slides in OME-Zarr, from which all later steps read.

Reads the slides of the sheet; writes <results>/{slide}/slide.json, tissue.npz, tissue.png, tissue.geojson, colour.json
and one sparse OME-Zarr image per mpp that the config requests.
"""

MPPS = [config["mpp"], *config["extra_mpps"], *([PRETRAINING["mpp"]] if PRETRAINING else [])]
MPP_OF_STORE = checked(settings.name_stores, MPPS)
OTHER_STORES = [store for store in MPP_OF_STORE if store != STORE]


rule fetch:
    """Copy a slide from its URL; the copy is deleted once the slide's images are written."""
    input:
        request=requested("image"),
    output:
        fetched=temp(directory("<results>/{slide}/fetched")),
    log:
        text="<results>/{slide}/logs/fetch.log",
        ledger="<results>/{slide}/ledger/fetch.json",
    threads: 4
    resources:
        runtime=by_attempt(60),
    params:
        sheet=config["slides"],  # has the URL, with its credentials
    shell:
        r"""
        muse step fetch {params.sheet:q} \
            --slide-id {wildcards.slide:q} \
            --output {output.fetched:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """


rule image:
    """Read the slide's header, find its tissue, measure its stains, and write its image for detection."""
    input:
        slide=lambda w: PLAN.input(w.slide),
        roi=lambda w: PLAN.file(w.slide, "roi"),
        request=requested("image"),
    output:
        info="<results>/{slide}/slide.json",
        mask="<results>/{slide}/tissue.npz",
        picture="<results>/{slide}/tissue.png",
        outline="<results>/{slide}/tissue.geojson",
        colour="<results>/{slide}/colour.json",
        store=intermediate(directory(f"<results>/{{slide}}/{STORE}")),
    log:
        "<results>/{slide}/logs/image.log",
    threads: lambda w: PLAN.threads(w.slide)
    resources:
        mem_mb=by_attempt(3000),
        runtime=by_attempt(80),
    params:
        slide=lambda w: PLAN.argument_and_source(w.slide),
        slide_mpp=lambda w: PLAN.option(w.slide, "--mpp", "mpp"),
        roi=lambda w: PLAN.option(w.slide, "--roi", "roi"),
        config=CONFIG,
        folder=subpath(output.info, parent=True),
    shell:
        r"""
        muse step image {params.slide:q} {params.slide_mpp:q} {params.roi:q} \
            --slide-id {wildcards.slide:q} \
            --config {params.config:q} \
            --threads {threads} \
            --output {params.folder:q} >{log:q} 2>&1
        """


rule tile:
    """Write an additional image of the slide, at the mpp in the store's name."""
    input:
        slide=lambda w: PLAN.input(w.slide),
        info="<results>/{slide}/slide.json",
        tissue="<results>/{slide}/tissue.npz",
        request=requested("tile-{store}"),
    output:
        store=intermediate(directory("<results>/{slide}/{store}")),
    log:
        text="<results>/{slide}/logs/tile-{store}.log",
        ledger="<results>/{slide}/ledger/tile-{store}.json",
    wildcard_constraints:
        store="|".join(map(re.escape, OTHER_STORES)) or "(?!)",
    threads: lambda w: PLAN.threads(w.slide)
    resources:
        mem_mb=by_attempt(3000),
        runtime=by_attempt(60),
    params:
        slide=lambda w: PLAN.argument(w.slide),
        mpp=lambda wildcards: MPP_OF_STORE[wildcards.store],
        max_corrupt=config["max_corrupt"],
        codec=lambda wildcards: PLAN.other_stores(wildcards.slide).get(wildcards.store, "zstd"),
    shell:
        r"""
        muse step tile {params.slide:q} \
            --info {input.info:q} \
            --tissue {input.tissue:q} \
            --mpp {params.mpp} \
            --codec {params.codec} \
            --threads {threads} \
            --max-corrupt {params.max_corrupt} \
            --output {output.store:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1
        """


rule small_slides:
    """Run all steps of a batch of small slides, which take less time than a process needs to start.

    A failed slide fails the job after all other slides of the batch, which the next run skips.
    """
    input:
        rows=lambda wildcards: TODO.rows_of_batch(wildcards.batch),
        model=model_file,
    output:
        done=temp(touch("<results>/logs/batches/{batch}.done")),
    log:
        "<results>/logs/batches/{batch}.log",
    resources:
        mem_mb=by_attempt(3000),
        runtime=by_attempt(120),
    params:
        results=subpath(output.done, ancestor=3),
        config=CONFIG,
        model=model_options,
    shell:
        r"""
        muse run {input.rows:q} --no-report \
            --config {params.config:q} {params.model:q} \
            --threads {threads} \
            --output {params.results:q} >{log:q} 2>&1
        """
