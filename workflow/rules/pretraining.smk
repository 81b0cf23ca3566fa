"""Pretraining of a backbone on slides without labels (`pretrain`).

Reads the stores and proposals of the training slides and, for TriDeNT, their partners, which are registered here.
Writes <results>/{slide}/partner and <results>/pretraining/<run>/checkpoint.pt. If a partner cannot be registered,
partner.json has the reason and its store is an empty folder. <results>/pretraining/<run>/cohort.yaml is the config of
the run with all slides, and <results>/pretraining.json is the plan that the rules read; each is rewritten only if its
content changes. The files from which a run resumes are next to its checkpoint and are not declared as outputs.
"""

COHORT_KEYS = ("run", "exclude", "held_splits")  # keys of `pretrain` that are not settings of the run
PRETRAIN_SETTINGS = {name: value for name, value in PRETRAIN.items() if name not in COHORT_KEYS}
RESOLVED_PRETRAINING = Path(OUTPUT, "pretraining.json")


def plan_pretraining():
    """Write the run's config with its slides and return its plan; end if it does not fit the slides or the model."""
    by_name = "run" in PRETRAIN
    file = PRETRAIN["run"] if by_name else checked(settings.run_file, PRETRAIN_SETTINGS, Path(OUTPUT, "pretraining"))
    run, held_splits = settings.slug(Path(file).stem), PRETRAIN.get("held_splits")
    is_judged = TRAINING and MODEL["is_validated"]
    planned = resolve(
        *("pretrain-config", file, "--sheet", config["slides"], "--results", OUTPUT),
        *("--output", f"{OUTPUT}/pretraining/{run}/cohort.yaml"),
        *option("--data", config["train_data"] or (None if by_name else ".")),
        *(["--set", *settings.as_changes(PRETRAIN_SETTINGS)] if by_name and PRETRAIN_SETTINGS else []),
        *(["--exclude", *PRETRAIN["exclude"]] if PRETRAIN.get("exclude") else []),
        *([] if held_splits is None else ["--held-splits", *held_splits]),
        *(["--judged-by", TRAINING, *settings.training_data(config)[1:]] if is_judged else []),
    )
    missing = [slide for slide in planned["slides"] if not (config["regions"] or ROWS[slide].get("regions"))]
    if planned["reads_regions"] and missing:
        raise WorkflowError(
            f"config: `pretrain` weights tissue regions, but slide '{missing[0]}' has none; set `regions` to a region "
            "model or a run that trains one"
        )
    if TRAINING and planned["backbone"] != MODEL["backbone"]:
        raise WorkflowError(
            f"config: `pretrain` trains {planned['backbone']}, but the training run '{MODEL['name']}' has "
            f"{MODEL['backbone']}; give both the same `backbone`"
        )
    return {**planned, "run": run}


if PRETRAIN and workflow.is_main_process:
    checked(
        settings.write_if_changed, RESOLVED_PRETRAINING, json.dumps(plan_pretraining(), indent=1, ensure_ascii=False)
    )

PRETRAINING = json.loads(RESOLVED_PRETRAINING.read_text(encoding="utf-8")) if PRETRAIN else None
PRETRAINING_FOLDER = f"{OUTPUT}/pretraining/{PRETRAINING['run']}" if PRETRAINING else None
PRETRAINED = [f"{PRETRAINING_FOLDER}/checkpoint.pt"] if PRETRAINING else []
PRETRAIN_STORE = store_name(PRETRAINING["mpp"]) if PRETRAINING else STORE
PRETRAIN_SLIDES = PRETRAINING["slides"] if PRETRAINING else []
PARTNER_STORE = f"partner/{PRETRAIN_STORE}"
PAIRED_SLIDES = PRETRAINING["partners"] if PRETRAINING else []
CODEC_OF_STORE = checked(settings.name_codecs, config, PRETRAINING["mpp"]) if PRETRAINING else {}
if PRETRAINING:
    MPP_OF_STORE = checked(settings.name_stores, [*MPP_OF_STORE.values(), PRETRAINING["mpp"]])
    PLAN = replace(PLAN, pretraining_data={**PRETRAINING, "codec": CODEC_OF_STORE[PRETRAIN_STORE]})


def regions_of_pretraining(wildcards):
    """The tissue regions of the training slides, if the run weights them."""
    if not PRETRAINING["reads_regions"]:
        return []
    files = PLAN.files("slide.json", "tissue.npz", slides=PRETRAIN_SLIDES)
    return [*files, *(file for slide in PRETRAIN_SLIDES for file in PLAN.regions(slide))]


def training_devices(resources):
    """Options for the GPUs that the profile assigns to a training; without any, the training chooses the device."""
    n_gpus = int(resources.get("gpu", 0))
    return ["--accelerator", "cuda", "--devices", n_gpus] if n_gpus else []


rule partner:
    """Register the slide's partner and write it in the slide's frame, or record why that failed."""
    input:
        slide=of_slide(PLAN.input),
        partner=of_slide(PLAN.file, "partner"),
        start=of_slide(PLAN.file, "partner_transform"),
        info="<results>/{slide}/slide.json",
        tissue="<results>/{slide}/tissue.npz",
        request=requested("partner"),
    output:
        record="<results>/{slide}/partner/partner.json",
        store=intermediate(directory(f"<results>/{{slide}}/{PARTNER_STORE}")),
    log:
        "<results>/{slide}/logs/partner.log",
    benchmark:
        "<results>/{slide}/benchmarks/partner.tsv"
    conda:
        "../../envs/infer.yaml"
    threads: of_slide(PLAN.threads)
    params:
        slide=of_slide(PLAN.argument),
        partner=of_slide(lambda slide: PLAN.row(slide)["partner"]),
        start=of_slide(PLAN.option, "--start", "partner_transform"),
        mpp=PRETRAINING["mpp"] if PRETRAINING else None,
        max_corrupt=config["max_corrupt"],
    shell:
        r"""
        muse partner {params.slide:q} {params.partner:q} {params.start:q} \
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
        partners=of_every_slide("partner/partner.json", PARTNER_STORE, slides=PAIRED_SLIDES),
        regions=regions_of_pretraining,
        read=lambda wildcards: without_patterns(PRETRAINING["inputs"]),
    output:
        checkpoint="<results>/pretraining/{run}/checkpoint.pt",
    log:
        "<results>/pretraining/{run}/logs/pretrain.log",
    benchmark:
        "<results>/pretraining/{run}/benchmarks/pretrain.tsv"
    conda:
        "../../envs/train.yaml"
    params:
        folder=subpath(output.checkpoint, parent=True),
        devices=lambda wildcards, resources: training_devices(resources),
    shell:
        r"""
        muse pretrain {input.run:q} {params.devices} \
            --start-over \
            --threads {threads} \
            --output {params.folder:q} 2>&1 | tee {log:q}
        """
