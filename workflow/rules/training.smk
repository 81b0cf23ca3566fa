"""From a training run to a model, when the config names one as its model.

Takes config/train/<run>.yaml, or the run that stands in the config, and the pretrained backbone if there is one; gives
<results>/training/<run>/checkpoint.pt and model.onnx. What a run needs to resume lies undeclared beside its checkpoint,
because Snakemake deletes the declared outputs of a job that fails; a run of other labels or settings starts over. A run
that needs no labels and names no `sources` is trained on the slides of the sheet, which <results>/training/<run>/cohort.yaml
lists.
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


def files_of_run(wildcards):
    """What the run reads: labels, pictures and weights. A name that Snakemake takes for a pattern cannot be an input."""
    return without_patterns(MODEL.get("inputs", []))


def weights_to_begin_with(wildcards, input):
    """The pretrained backbone, where there is one, in place of the run's own `checkpoint`."""
    paths = [str(Path(path).resolve()) for path in PRETRAINED]
    return ["--set", f"checkpoint={json.dumps(paths[0])}"] if paths else []


def steps_to_model():
    """What must be there before a slide has nuclei, in order, each with its step's log; nothing where no model is trained."""
    folder = Path(OUTPUT, "training", RUN or "")
    steps = [(Path(path), Path(PRETRAINING_FOLDER, "logs/pretrain.log")) for path in PRETRAINED]
    steps += [
        (folder / "checkpoint.pt", folder / "logs/finetune.log"),
        (folder / "model.onnx", folder / "logs/export.log"),
    ]
    return steps if TRAINING else []


def why_no_model():
    """Last output of the step that failed to make its part of the model; None if all is there or nothing was printed."""
    lacking = [log for made, log in steps_to_model() if not made.exists()]
    lines = lines_of(lacking[0]) if lacking else []
    return f"the model was not made; last in {lacking[0]}: {lines[-1]}" if lines else None


def forget_old_failures():
    """Remove the logs of steps that did not make their part: output of an earlier run must not pass for this one's."""
    for made, log in steps_to_model():
        if not made.exists():
            log.unlink(missing_ok=True)


rule finetune:
    """Train backbone and nucleus head, as the run's method does."""
    input:
        run=lambda wildcards: RUN_FILE or [],
        stores=of_every_slide(STORE) if ON_SLIDES else [],
        read=files_of_run,
        backbone=PRETRAINED,
        changed=if_changed("finetune"),
    output:
        checkpoint="<results>/training/{run}/checkpoint.pt",
        made_with="<results>/training/{run}/logs/settings.json",
    log:
        "<results>/training/{run}/logs/finetune.log",
    benchmark:
        "<results>/training/{run}/benchmarks/finetune.tsv"
    conda:
        "../../envs/train.yaml"
    params:
        made_with=settings_of(
            lambda wildcards: {"files": state_of_files(files_of_run(wildcards))},
            data=[] if ON_SLIDES else settings.training_data(config),
            weights=PRETRAINED,
        ),
        data=[] if ON_SLIDES else settings.training_data(config),
        weights=weights_to_begin_with,
        folder=subpath(output.checkpoint, parent=True),
    shell:
        r"""
        muse finetune {input.run:q} {params.data:q} {params.weights:q} \
            --start-over \
            --threads {threads} \
            --output {params.folder:q} 2>&1 | tee {log:q}
        echo {params.made_with:q} >{output.made_with:q}
        """


rule export:
    """Turn the checkpoint into one ONNX file with its card inside, and check that it finds the same nuclei."""
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
