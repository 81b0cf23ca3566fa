"""Tissue regions of every slide, where the config names a region model.

Takes a slide's image; gives <results>/{slide}/regions.json, with regions.geojson, regions.png and regions.zarr beside it.
A model that fails on a slide costs its regions, not its nuclei: the run goes on and ends with an error.
"""


rule regions:
    """Map the regions of a slide, or record why that failed."""
    input:
        store=f"<results>/{{slide}}/{STORE}",
        info="<results>/{slide}/slide.json",
        mask="<results>/{slide}/tissue.npz",
        colour="<results>/{slide}/colour.json",
        model=without_patterns([config["regions"]] if config["regions"] else []),
    output:
        state="<results>/{slide}/regions.json",
    log:
        "<results>/{slide}/logs/regions.log",
    benchmark:
        "<results>/{slide}/benchmarks/regions.tsv"
    conda:
        "../../envs/infer.yaml"
    threads: of_slide(PLAN.threads)
    params:
        model=config["regions"],
        state_of_model=state_of_files([config["regions"]] if config["regions"] else []),
        provider=MODEL["provider"],
        folder=subpath(output.state, parent=True),
    shell:
        r"""
        muse regions {input.store:q} \
            --model {params.model:q} \
            --threads {threads} \
            --provider {params.provider} \
            --output {params.folder:q} >{log:q} 2>&1 \
            || grep -q '"status": "failed"' {output.state:q}
        """


rule check_regions:
    """Fail if the region model failed on a slide; everything else is done by then."""
    input:
        report="<results>/report.html",
        states=of_every_slide("regions.json"),
    output:
        touch(REGIONS_WELL),
    log:
        "<results>/logs/regions.log",
    shell:
        r"""
        if grep -l '"status": "failed"' {input.states:q} >{log:q} 2>&1; then exit 1; fi
        """
