"""Training and export of a model, if `model` is a training run.

Reads the run's config, its labels and the pretrained backbone, if any; writes <results>/training/<run>/checkpoint.pt and model.onnx.
The files from which a run resumes are not declared, because Snakemake deletes the outputs of a job that fails. A run without labels
and `sources` is trained on the slides of the sheet, which <results>/training/<run>/cohort.yaml lists.
"""

RUN = Path(TRAINING).stem if TRAINING else None
ON_SLIDES = MODEL.get("trains_on_slides", False)
RUN_FILE = f"{OUTPUT}/training/{RUN}/cohort.yaml" if ON_SLIDES else TRAINING
RUN_INPUTS = without_patterns(MODEL.get("inputs", []))  # labels, pictures and weights
TRAINING_DATA = [] if ON_SLIDES else settings.training_data(config)
# The pretrained backbone replaces the `checkpoint` of the run.
WEIGHTS = [f"checkpoint={json.dumps(os.path.abspath(path))}" for path in PRETRAINED]
TRAINING_JOB = Job(
    "finetune",
    {"files": state_of_files(RUN_INPUTS), "data": TRAINING_DATA, "weights": PRETRAINED},
    writes=["checkpoint.pt"],
)


if ON_SLIDES and workflow.is_main_process:
    on_slides = ["--sheet", config["slides"], "--results", OUTPUT, "--output", RUN_FILE]
    how = [*settings.training_data(config), *on_slides, "--held-splits"]
    resolve("pretrain-config", TRAINING, *how)


rule finetune:
    """Train backbone and nucleus head with the method of the run."""
    input:
        run=lambda wildcards: RUN_FILE or [],
        stores=of_every_slide(STORE) if ON_SLIDES else [],
        read=RUN_INPUTS,
        backbone=PRETRAINED,
        request=TODO.request_of_cohort(TRAINING_JOB, f"{OUTPUT}/training/{RUN}") if TRAINING else [],
    output:
        checkpoint="<results>/training/{run}/checkpoint.pt",
    log:
        "<results>/training/{run}/logs/finetune.log",
    threads: 16
    resources:
        mem_mb=by_attempt(12000),
        runtime=by_attempt(1440),
    params:
        devices=training_devices,
        options=[*TRAINING_DATA, *(["--set", *WEIGHTS] if WEIGHTS else [])],
        folder=subpath(output.checkpoint, parent=True),
    shell:
        r"""
        muse finetune {input.run:q} {params.options:q} {params.devices} \
            --start-over \
            --threads {threads} \
            --output {params.folder:q} 2>&1 | tee {log:q}
        """


rule export:
    """Export the checkpoint to an ONNX file with the model's card, and check that it finds the same nuclei."""
    input:
        checkpoint="<results>/training/{run}/checkpoint.pt",
    output:
        model="<results>/training/{run}/model.onnx",
    log:
        "<results>/training/{run}/logs/export.log",
    resources:
        mem_mb=by_attempt(4000),
    shell:
        r"""
        muse export {input.checkpoint:q} \
            --output {output.model:q} 2>&1 | tee {log:q}
        """
