"""Pretraining of a backbone on slides without labels (`pretrain`); training and export of a model, if `model` is a training run.

Pretraining reads the stores and proposals of the training slides and, for TriDeNT, their partners, which are registered here. It
writes <results>/{slide}/partner, and <results>/pretraining/<run>/cohort.yaml (the config of the run with all slides) and checkpoint.pt.
If a partner cannot be registered, partner.json has the reason and its store is an empty folder.

Training reads the run's config, its labels and the pretrained backbone, if any; it writes <results>/training/<run>/checkpoint.pt and
model.onnx. The files from which a run resumes are not declared, because Snakemake deletes the outputs of a job that fails. A run
without labels and `sources` is trained on the slides of the sheet, which <results>/training/<run>/cohort.yaml lists.
"""

PRETRAINING = planned(f"{OUTPUT}/pretraining.json", plan_pretraining) if config["pretrain"] else {}
PRETRAINING_FOLDER = f"{OUTPUT}/pretraining/{PRETRAINING['run']}" if PRETRAINING else None
PRETRAINED = [f"{PRETRAINING_FOLDER}/checkpoint.pt"] if PRETRAINING else []
PRETRAIN_STORE = store_name(PRETRAINING["mpp"]) if PRETRAINING else STORE
PRETRAIN_SLIDES = PRETRAINING.get("slides", [])
PARTNER_STORE = f"partner/{PRETRAIN_STORE}"
PLAN = replace(PLAN, pretraining_data=PRETRAINING)
TODO = Unfinished(PLAN, not workflow.is_main_process, PLACEHOLDER and Path(PLACEHOLDER.name))

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
