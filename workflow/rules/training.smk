"""Training and export of a model, if `model` is a training run.

Reads config/train/<run>.yaml, or a run given in the config, and the pretrained backbone if there is one; writes
<results>/training/<run>/checkpoint.pt and model.onnx. The files from which a run resumes are next to its checkpoint and
are not declared, because Snakemake deletes the outputs of a job that fails; if labels or settings change, a run starts
over. A run that needs no labels and has no `sources` is trained on the slides of the sheet, which are listed in
<results>/training/<run>/cohort.yaml.
"""

RUN = Path(TRAINING).stem if TRAINING else None
ON_SLIDES = MODEL.get("trains_on_slides", False)
RUN_FILE = f"{OUTPUT}/training/{RUN}/cohort.yaml" if ON_SLIDES else TRAINING


def plan_training_on_slides():
    """Write the run's config with the slides of the sheet as its sources."""
    resolve(
        *("pretrain-config", TRAINING, *settings.training_data(config), "--sheet", config["slides"]),
        *("--results", OUTPUT, "--held-splits", "--output", RUN_FILE),
    )


if ON_SLIDES and workflow.is_main_process:
    plan_training_on_slides()


def run_inputs(wildcards):
    """Labels, pictures and weights that the run reads, except files whose names Snakemake would take for patterns."""
    return without_patterns(MODEL.get("inputs", []))


def initial_weights(wildcards, input):
    """The option that replaces the run's own `checkpoint` by the pretrained backbone, if there is one."""
    paths = [str(Path(path).resolve()) for path in PRETRAINED]
    return ["--set", f"checkpoint={json.dumps(paths[0])}"] if paths else []


def missing_model_reason():
    """Why a run that trains its model has none; None if it has one."""
    folder = Path(OUTPUT, "training", RUN or "")
    return f"the model was not made; see {folder}/logs" if TRAINING and not (folder / "model.onnx").exists() else None


TRAINING_DATA = [] if ON_SLIDES else settings.training_data(config)
TRAINING_JOB = Job(
    "finetune",
    {"files": state_of_files(run_inputs({})), "data": TRAINING_DATA, "weights": PRETRAINED},
    writes=["checkpoint.pt"],
)


rule finetune:
    """Train backbone and nucleus head with the method of the run."""
    input:
        run=lambda wildcards: RUN_FILE or [],
        stores=of_every_slide(STORE) if ON_SLIDES else [],
        read=run_inputs,
        backbone=PRETRAINED,
        request=request_of_cohort(TRAINING_JOB, f"{OUTPUT}/training/{RUN}") if TRAINING else [],
    output:
        checkpoint="<results>/training/{run}/checkpoint.pt",
    log:
        "<results>/training/{run}/logs/finetune.log",
    benchmark:
        "<results>/training/{run}/benchmarks/finetune.tsv"
    conda:
        "../../envs/train.yaml"
    params:
        data=TRAINING_DATA,
        weights=initial_weights,
        devices=lambda wildcards, resources: training_devices(resources),
        folder=subpath(output.checkpoint, parent=True),
    shell:
        r"""
        muse finetune {input.run:q} {params.data:q} {params.weights:q} {params.devices} \
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
    benchmark:
        "<results>/training/{run}/benchmarks/export.tsv"
    conda:
        "../../envs/train.yaml"
    shell:
        r"""
        muse export {input.checkpoint:q} \
            --output {output.model:q} 2>&1 | tee {log:q}
        """
