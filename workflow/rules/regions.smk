"""Tissue regions of every slide, if `regions` is `nuclei`, a region model, or a run that trains one.

Reads a slide's image, and its shards for `nuclei`; writes <results>/{slide}/regions.json, regions.geojson, regions.png and
regions.zarr. A training run reads the images of labelled slides, and writes <results>/region_training/<run>/checkpoint.pt and
model.onnx. If it or the mapping fails, slides have nuclei without regions, and the run ends with an error.
"""

REGION_RUN = settings.region_run(config)

REGION_TRAINING = planned(f"{OUTPUT}/region_model.json", plan_region_training) if REGION_RUN else {}
REGION_INPUTS = without_patterns(REGION_TRAINING.get("inputs", []))  # labels, pictures and weights
REGION_CHANGES = REGION_TRAINING.get("changes", [])
REGION_LABELS = {
    slide: label for slide, label in REGION_TRAINING.get("slides", {}).items() if slide in ROWS
}
REGION_MODEL, REGION_STATE = None if PLAN.maps_nuclei else config["regions"], []
if REGION_RUN:
    REGION_FOLDER = f"{OUTPUT}/region_training/{settings.slug(Path(REGION_RUN).stem)}"
    REGION_MODEL, REGION_STATE = f"{REGION_FOLDER}/model.onnx", [f"{REGION_FOLDER}/training.json"]
REGION_TRAINING_JOB = Job(
    "train",
    {"files": state_of_files(REGION_INPUTS), "changes": REGION_CHANGES, "labels": REGION_LABELS},
    writes=["training.json"],
    outcome="training.json",
)


rule train_regions:
    """Train a region model on labels of slides or pictures and export it, or record the failure."""

    # The model is not an output, since a failed training makes none. The next run repeats a failed training.
    input:
        run=lambda wildcards: REGION_RUN or [],
        read=REGION_INPUTS,
        slides=of_every_slide(STORE, "colour.json", slides=REGION_LABELS),
        request=TODO.request_of_cohort(REGION_TRAINING_JOB, REGION_FOLDER) if REGION_RUN else [],
    output:
        state="<results>/region_training/{run}/training.json",
    log:
        "<results>/region_training/{run}/logs/train.log",
    threads: 16
    resources:
        mem_mb=by_attempt(12000),
        runtime=by_attempt(1440),
    params:
        devices=training_devices,
        changes=REGION_CHANGES,
        folder=subpath(output.state, parent=True),
    shell:
        r"""
        if (muse train {input.run:q} {params.devices} \
            --start-over \
            --threads {threads} \
            --output {params.folder:q} {params.changes:q} \
            && muse export {params.folder:q}/checkpoint.pt \
                --output {params.folder:q}/model.onnx) 2>&1 | tee {log:q}; then status=ok; else status=failed; fi
        echo "{{\"status\": \"$status\"}}" >{output.state:q}
        """


rule regions:
    """Map the regions of a slide, or record why that failed."""
    input:
        store=f"<results>/{{slide}}/{STORE}",
        info="<results>/{slide}/slide.json",
        mask="<results>/{slide}/tissue.npz",
        colour="<results>/{slide}/colour.json",
        model=REGION_STATE or without_patterns([REGION_MODEL] if REGION_MODEL else []),
        shards=lambda w: PLAN.shards(w.slide) if PLAN.maps_nuclei else [],
        request=requested("regions"),
    output:
        state="<results>/{slide}/regions.json",
    log:
        text="<results>/{slide}/logs/regions.log",
        ledger="<results>/{slide}/ledger/regions.json",
    threads: lambda w: PLAN.threads(w.slide)
    params:
        source=lambda wildcards, input: (
            ["--nuclei", *input.shards] if PLAN.maps_nuclei else ["--model", REGION_MODEL]
        ),
        provider=MODEL["provider"],
        training=option("--training", *(REGION_STATE or [None])),
        folder=subpath(output.state, parent=True),
    shell:
        r"""
        muse regions {input.store:q} {params.source:q} {params.training:q} \
            --provider {params.provider} \
            --threads {threads} \
            --output {params.folder:q} \
            --outcome {log.ledger:q} >{log.text:q} 2>&1
        """


rule check_regions:
    """Fail, after everything else is done, if the training or the mapping of any slide has failed."""
    input:
        report="<results>/report.html",
        states=of_every_slide(
            "regions.json", slides=[slide for slide in SLIDES if not ROWS[slide].get("regions")]
        ),
    output:
        touch("<results>/logs/regions_well"),
    log:
        "<results>/logs/regions.log",
    shell:
        r"""
        ! grep -l '"status": "failed"' /dev/null {input.states:q} >{log:q} 2>&1
        """
