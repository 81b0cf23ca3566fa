"""Checks of every slide before a run: `snakemake preflight`, which no other rule depends on.

Reads the slides of the sheet and the model; writes <results>/{slide}/preflight.json and <results>/preflight.json.
Fails if slides cannot run, and lists them.
"""

PREFLIGHT_LOG = Path(OUTPUT, "logs/preflight.log")
# In place of a model that is not trained yet, the mode's built-in model, which has the same mpp, is checked.
PREFLIGHT_MODEL = MODEL_OF_MODE[config["mode"]] if TRAINING else MODEL["model"]


def is_preflight_only():
    """True if `preflight` is the only target; no report is written then."""
    return set(workflow.dag_settings.targets) == {"preflight"}


def preflight_summary():
    """The log of the rule `preflight`; if it did not run, a line with the number of slides that were not checked."""
    if found := lines_of(PREFLIGHT_LOG):
        return "\n".join(found)
    lacking = [slide for slide in SLIDES if not Path(OUTPUT, slide, "preflight.json").is_file()]
    logs = f"{OUTPUT}/{lacking[0] if lacking else '*'}/logs/preflight.log"
    return f"Stopped, with {len(lacking)} of {len(SLIDES)} slides not checked; see {logs}. Run it again."


def remove_failed_checks():
    """Remove the records of slides that cannot run, so that the next call checks these slides again."""
    found = settings.read_text(Path(OUTPUT, "preflight.json"))
    for check in json.loads(found)["slides"] if found else []:
        if check["problem"]:
            Path(OUTPUT, check["slide_id"], "preflight.json").unlink(missing_ok=True)


rule preflight_slide:
    """Check one slide; a slide that cannot run does not fail the job."""
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
    # The sheet, which has the credentials of URLs, is not a param, because renaming it would then rerun every check.
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
    """Write the checks of all slides and a summary, which is printed at the end."""

    # These files are logs because Snakemake deletes the outputs of a rule that fails.
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
