"""Tissue regions of every slide, if `regions` is a region model or a run that trains one.

Reads a slide's image; writes <results>/{slide}/regions.json, regions.geojson, regions.png and regions.zarr.
If the model or its training fails, slides have nuclei without regions, and the run ends with an error. A training run
starts once the images of all labelled slides exist; it writes <results>/region_training/<run>/checkpoint.pt and
model.onnx.
"""

REGION_RUN = settings.region_run(config)
REGION_FOLDER = f"{OUTPUT}/region_training/{settings.slug(Path(REGION_RUN).stem)}" if REGION_RUN else None


def plan_region_training():
    """The description of the training run from `muse model`; its sheet and results are by default those of this run."""
    changes = checked(settings.slides_of_region_run, config)
    found = resolve("model", REGION_RUN, *(["--set", *changes] if changes else []))
    checked(settings.require_region_model, found)
    return {**found, "changes": changes}


REGION_TRAINING = planned(f"{OUTPUT}/region_model.json", plan_region_training) if REGION_RUN else {}
REGION_INPUTS = without_patterns(REGION_TRAINING.get("inputs", []))  # labels, pictures and weights
REGION_CHANGES = ["--set", *REGION_TRAINING["changes"]] if REGION_TRAINING.get("changes") else []
REGION_LABELS = {slide: label for slide, label in REGION_TRAINING.get("slides", {}).items() if slide in ROWS}
REGION_MODEL = f"{REGION_FOLDER}/model.onnx" if REGION_RUN else config["regions"]
REGION_STATE = [f"{REGION_FOLDER}/training.json"] if REGION_RUN else []

REGION_TRAINING_JOB = Job(
    "train",
    {"files": state_of_files(REGION_INPUTS), "changes": REGION_CHANGES, "labels": REGION_LABELS},
    writes=["training.json"],
)


rule train_regions:
    """Train a region model on labels of slides or pictures and export it, or record the failure."""

    # The model is not an output, because it is missing after a failed training.
    input:
        run=lambda wildcards: REGION_RUN or [],
        read=REGION_INPUTS,
        slides=of_every_slide(STORE, "colour.json", slides=REGION_LABELS),
        request=TODO.request_of_cohort(REGION_TRAINING_JOB, REGION_FOLDER) if REGION_RUN else [],
    output:
        state="<results>/region_training/{run}/training.json",
    log:
        "<results>/region_training/{run}/logs/train.log",
    conda:
        "../../envs/train.yaml"
    params:
        devices=training_devices,
    shell:
        r"""
        rm -f {REGION_FOLDER:q}/model.onnx
        status=ok
        (muse train {input.run:q} {params.devices} \
            --start-over \
            --threads {threads} \
            --output {REGION_FOLDER:q} {REGION_CHANGES:q} \
            && muse export {REGION_FOLDER:q}/checkpoint.pt \
                --output {REGION_FOLDER:q}/model.onnx) 2>&1 | tee {log:q} || status=failed
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
        request=requested("regions"),
    output:
        state="<results>/{slide}/regions.json",
    log:
        text="<results>/{slide}/logs/regions.log",
        ledger="<results>/{slide}/ledger/regions.json",
    conda:
        "../../envs/infer.yaml"
    threads: of_slide(PLAN.threads)
    params:
        training=option("--training", *(REGION_STATE or [None])),
    shell:
        r"""
        muse regions {input.store:q} \
            --model {REGION_MODEL:q} {params.training:q} \
            --threads {threads} \
            --provider {MODEL[provider]} \
            --output {OUTPUT:q}/{wildcards.slide:q} \
            --ledger {log.ledger:q} >{log.text:q} 2>&1 \
            || grep -q '"status": "failed"' {output.state:q}
        """


rule check_regions:
    """Fail, after everything else is done, if the training or the mapping of any slide has failed."""

    # The state of a failed training is removed, so that the next run repeats it.
    input:
        report="<results>/report.html",
        states=of_every_slide("regions.json", slides=[slide for slide in SLIDES if not ROWS[slide].get("regions")]),
        trained=REGION_STATE,
    output:
        touch(REGIONS_WELL),
    log:
        "<results>/logs/regions.log",
    shell:
        r"""
        if grep -l '"status": "failed"' {input.states:q} >{log:q} 2>&1; then
            for state in {input.trained:q}; do
                if grep -q '"status": "failed"' "$state"; then rm "$state"; fi
            done
            exit 1
        fi
        """
