"""Pretraining of a backbone on slides without labels (`pretrain`).

Reads the stores and proposals of the training slides and, for TriDeNT, their partners, which are registered here. Writes
<results>/{slide}/partner, and <results>/pretraining/<run>/cohort.yaml (the config of the run with all slides) and checkpoint.pt.
If a partner cannot be registered, partner.json has the reason and its store is an empty folder.
"""

PRETRAINING = planned(f"{OUTPUT}/pretraining.json", plan_pretraining) if config["pretrain"] else {}
PRETRAINING_FOLDER = f"{OUTPUT}/pretraining/{PRETRAINING['run']}" if PRETRAINING else None
PRETRAINED = [f"{PRETRAINING_FOLDER}/checkpoint.pt"] if PRETRAINING else []
PRETRAIN_STORE = store_name(PRETRAINING["mpp"]) if PRETRAINING else STORE
PRETRAIN_SLIDES = PRETRAINING.get("slides", [])
PARTNER_STORE = f"partner/{PRETRAIN_STORE}"
PLAN = replace(PLAN, pretraining_data=PRETRAINING)
TODO = Unfinished(PLAN, not workflow.is_main_process, PLACEHOLDER and Path(PLACEHOLDER.name))


rule partner:
    """Register the slide's partner and write it in the slide's frame, or record why that failed."""
    input:
        slide=lambda w: PLAN.input(w.slide),
        partner=lambda w: PLAN.file(w.slide, "partner"),
        start=lambda w: PLAN.file(w.slide, "partner_transform"),
        info="<results>/{slide}/slide.json",
        tissue="<results>/{slide}/tissue.npz",
        request=requested("partner"),
    output:
        record="<results>/{slide}/partner/partner.json",
        store=intermediate(directory(f"<results>/{{slide}}/{PARTNER_STORE}")),
    log:
        "<results>/{slide}/logs/partner.log",
    threads: lambda w: PLAN.threads(w.slide)
    params:
        slide=lambda w: PLAN.argument(w.slide),
        partner=lambda w: PLAN.row(w.slide)["partner"],
        start=lambda w: PLAN.option(w.slide, "--start", "partner_transform"),
        mpp=PRETRAINING.get("mpp"),
        max_corrupt=config["max_corrupt"],
    shell:
        r"""
        muse step partner {params.slide:q} --partner {params.partner:q} {params.start:q} \
            --info {input.info:q} \
            --tissue {input.tissue:q} \
            --mpp {params.mpp} \
            --threads {threads} \
            --max-corrupt {params.max_corrupt} \
            --output {output.store:q} >{log:q} 2>&1
        """


rule pretrain:
    """Train a backbone on nuclei without labels."""
    input:
        run="<results>/pretraining/{run}/cohort.yaml",
        stores=of_every_slide(PRETRAIN_STORE, slides=PRETRAIN_SLIDES),
        colours=of_every_slide("colour.json", slides=PRETRAIN_SLIDES),
        proposals=of_every_slide("proposals.parquet", slides=PRETRAIN_SLIDES),
        partners=of_every_slide(
            "partner/partner.json", PARTNER_STORE, slides=PRETRAINING.get("partners", [])
        ),
        read=lambda wildcards: without_patterns(PRETRAINING["inputs"]),
    output:
        checkpoint="<results>/pretraining/{run}/checkpoint.pt",
    log:
        "<results>/pretraining/{run}/logs/pretrain.log",
    threads: 16
    resources:
        mem_mb=by_attempt(12000),
        runtime=by_attempt(2880),
    params:
        devices=training_devices,
        folder=subpath(output.checkpoint, parent=True),
    shell:
        r"""
        muse pretrain {input.run:q} {params.devices} \
            --start-over \
            --threads {threads} \
            --output {params.folder:q} 2>&1 | tee {log:q}
        """
