"""The report of the cohort.

Reads the results of all other rules; writes <results>/report.html and cohort.tsv. The rule `report` runs if no slide failed; otherwise `onerror` runs its command.
"""

REPORT_COMMAND = ["muse", "report", OUTPUT, "--slides", str(SHEET), *option("--pretraining", PRETRAINING_FOLDER)]
REPORT_COMMAND += INCLUDE_DOUBTFUL
if config["statistics"]:
    REPORT_COMMAND += ["--sheet", config["slides"], "--group", config["statistics"]["group"]]
# This file is missing if `onerror` wrote the report, so that the rule writes the report again after a successful rerun.
ALL_WELL = f"{OUTPUT}/logs/all_well"
REPORT_LOG = Path(OUTPUT, "logs/report.log")


def report_failures():
    """Write the report of a run with failures, remove earlier results of the failed slides, and return the output."""
    Path(ALL_WELL).unlink(missing_ok=True)
    page, table = Path(OUTPUT, "report.html"), Path(OUTPUT, "cohort.tsv")
    why = option("--no-model", missing_model_reason())
    command = [*REPORT_COMMAND, *why, "--output", page, "--table", table]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    if run.returncode:
        return run.stdout
    for slide in OUTDATED:
        PLAN.records(slide).withdraw_failed()
    return run.stdout


def success_message():
    """The last lines of a run without failures: those of `muse report`, or a sentence if only part was requested."""
    batch = workflow.dag_settings.batch
    if batch and batch.idx < batch.batches:
        return f"Batch {batch.idx} of {batch.batches} is done."
    if not is_whole_run():
        return "The requested part is done."
    done = f"All {len(SLIDES)} slides are done." if len(SLIDES) > 1 else "The slide is done."
    return "\n".join([*lines_of(REPORT_LOG), f"{done} Report: {OUTPUT}/report.html"])


def is_whole_run():
    """True if all steps of every slide were requested."""
    asked = workflow.dag_settings
    return set(asked.targets) <= {"all", "report"} and not (asked.until or asked.omit_from)


def failure_message():
    """The last lines of a run with failures: what failed, and where to find the reasons."""
    if why := missing_model_reason():
        return f"{why[0].upper()}{why[1:]}\nTherefore no slide has nuclei. Report: {OUTPUT}/report.html"
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_group()]  # jobs that did not succeed
    behind = {job.wildcards.slide for job in jobs if "slide" in job.wildcards.keys()}
    failed = [slide for slide in behind if failed_steps(Path(PLAN.folder(slide)))]
    if waiting := len(behind) - len(failed):
        beside = f", {len(failed)} failed" if failed else ""
        unfinished = f"{waiting} of {len(SLIDES)} slides unfinished{beside}"
        return f"Stopped: {unfinished}; run the same command to continue. Results so far: {OUTPUT}/report.html"
    of_cohort = [job for job in jobs if job.rule.name in {"statistics", "anndata_cohort"}]
    # A job that was running when another one failed may have succeeded since.
    of_cohort = [job for job in of_cohort if not all(Path(file).exists() for file in job.output)]
    if whys := [line for job in of_cohort for log in job.log for line in lines_of(Path(log))[-1:] if not behind]:
        return "\n".join(["Every slide is done, but not the files of the cohort:", *whys])
    others = (
        "every other slide is done"
        if is_whole_run() and not workflow.dag_settings.batch
        else "all else that was requested is done"
    )
    of_training = [slide for slide in failed if slide in PRETRAIN_SLIDES]
    if of_training and not Path(PRETRAINED[0]).exists():
        others += (
            f"; pretraining waits for {', '.join(of_training)}: fix these slides or list them in `pretrain.exclude`"
        )
    return f"Something failed; {others}. Details: {OUTPUT}/report.html"


REPORT_JOB = Job(
    "report",
    {
        "pretraining": PRETRAINING_FOLDER,
        "statistics": config["statistics"],
        "include_doubtful": config["include_doubtful"],
        "sheet": SHEET_STATE if config["statistics"] else None,
    },
    writes=["report.html", "cohort.tsv"],
)


rule report:
    """Report the outcome of every slide, failures first."""
    input:
        sheet=str(SHEET),
        summaries=of_every_slide("summary.json"),
        embeddings=of_every_slide(Path(PLAN.embeddings_file("")).name) if config["embedding"] else [],
        pretrained=PRETRAINED,
        statistics=STATISTICS_FILE,
        request=request_of_cohort(REPORT_JOB),
    output:
        page="<results>/report.html",
        table="<results>/cohort.tsv",
        all_well=touch(ALL_WELL),
    log:
        "<results>/logs/report.log",
    benchmark:
        "<results>/benchmarks/report.tsv"
    conda:
        "../../envs/infer.yaml"
    threads: 4
    params:
        command=REPORT_COMMAND,
        statistics=option("--statistics", *(STATISTICS_FILE or [None])),
    shell:
        r"""
        {params.command:q} {params.statistics:q} \
            --output {output.page:q} \
            --table {output.table:q} \
            --threads {threads} >{log:q} 2>&1
        """
