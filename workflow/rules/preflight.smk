"""Before the run: `snakemake preflight` checks every slide, and nothing waits for it.

Takes the slides of the sheet and the model; gives <results>/{slide}/preflight.json and <results>/preflight.json, and
fails, naming them, if there are slides that cannot run.
"""

PREFLIGHT_LOG = Path(OUTPUT, "logs/preflight.log")
# A model that is still to be trained reads slides at the um per pixel of its mode's.
PREFLIGHT_MODEL = MODEL_OF_MODE[config["mode"]] if TRAINING else MODEL["model"]


def preflight_alone():
    """Whether nothing else was asked for: then the words at the end are other ones, and no report is written."""
    return set(workflow.dag_settings.targets) == {"preflight"}


def what_preflight_found():
    """Its log, whose last line is what is wrong; where it did not get so far, the slides that stopped it."""
    if found := lines_of(PREFLIGHT_LOG):
        return "\n".join(found)
    lacking = [slide for slide in SLIDES if not Path(OUTPUT, slide, "preflight.json").is_file()]
    logs = f"{OUTPUT}/{lacking[0] if lacking else '*'}/logs/preflight.log"
    return f"Stopped, with {len(lacking)} of {len(SLIDES)} slides not checked; see {logs}. Run it again."


def check_problems_again():
    """Remove the records of slides that cannot run once these are named: the next call sees what was repaired meanwhile."""
    found = settings.read_text(Path(OUTPUT, "preflight.json"))
    for check in json.loads(found)["slides"] if found else []:
        if check["problem"]:
            Path(OUTPUT, check["slide_id"], "preflight.json").unlink(missing_ok=True)


rule preflight_slide:
    """Check one slide; a slide that cannot run is a result and not a failure."""
    input:
        slide=lambda wildcards: [] if PLAN.is_remote(wildcards.slide) else PLAN.file(wildcards.slide, "path"),
        roi=of_slide(PLAN.file, "roi"),
        changed=if_changed("preflight_slide"),
    output:
        check="<results>/{slide}/preflight.json",
        made_with="<results>/{slide}/logs/settings/preflight.json",
    log:
        "<results>/{slide}/logs/preflight.log",
    benchmark:
        "<results>/{slide}/benchmarks/preflight.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        made_with=settings_of(of_slide(PLAN.image_settings), of_slide(PLAN.detection_settings)),
        model=PREFLIGHT_MODEL,
        max_corrupt=config["max_corrupt"],
    # The row is read from the sheet, which alone has what a URL needs; as a param its name would make every slide new.
    shell:
        r"""
        muse preflight {config[slides]:q} \
            --slide-id {wildcards.slide:q} \
            --model {params.model:q} \
            --max-corrupt {params.max_corrupt} \
            --record {output.check:q} >{log:q} 2>&1
        echo {params.made_with:q} >{output.made_with:q}
        """


rule preflight:
    """Write the checks of all slides and their sum, which is printed at the end."""

    # Logs, not outputs: Snakemake would delete those when slides cannot run.
    input:
        checks=of_every_slide("preflight.json"),
    log:
        text="<results>/logs/preflight.log",
        json="<results>/preflight.json",
    benchmark:
        "<results>/benchmarks/preflight.tsv"
    conda:
        "../../envs/infer.yaml"
    params:
        sheet=config["slides"],
        results=OUTPUT,
        model=PREFLIGHT_MODEL,
    shell:
        r"""
        muse preflight {params.sheet:q} \
            --records {params.results:q} \
            --model {params.model:q} \
            --json {log.json:q} >{log.text:q} 2>&1
        """
